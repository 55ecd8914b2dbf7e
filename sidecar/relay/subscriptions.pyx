"""The subscriptions of one connection, counted as the engine confirms them.

Owns their numbers, and tells confirmations from messages and from replies. It never sees a name of a channel's, nor who reads the messages, and
a connection that has subscribed to nothing has none.
"""

from sidecar.relay.pending cimport CONFIRMATIONS, DEPARTURES, Pending, SUBSCRIPTION_SHIFT
from sidecar.relay.reply_framer cimport ReplyFramer

# Of what begins a subscription, even numbers; of what ends it, the odd one above.
cdef dict _KINDS = {
    b"message": MESSAGE, b"pmessage": MESSAGE, b"smessage": MESSAGE,
    b"subscribe": 2, b"unsubscribe": 3, b"psubscribe": 4, b"punsubscribe": 5, b"ssubscribe": 6, b"sunsubscribe": 7,
}


cdef int message_kind(ReplyFramer framer) except -1:
    """Of a push or an array: MESSAGE, a number above it (a confirmation), or NO_MESSAGE."""
    return _KINDS.get(framer.first[:framer.first_length], NO_MESSAGE)


cdef class Subscriptions:
    cdef bint none_left(self) noexcept:
        """Whether the engine has confirmed that the last one has ended."""
        return self.sum == 0 and self.shard_sum == 0

    cdef Confirmation confirmed(self, int kind, long long sum, Pending* front) noexcept:
        """The engine says that a subscription began or ended, and how many there are now. front: the oldest command in flight, or NULL."""
        cdef int which = (kind - 2) >> 1
        cdef bint begins = (kind & 1) == 0
        cdef long long before = self.shard_sum if which == 2 else self.sum
        cdef bint expected = front != NULL and (front.flags >> SUBSCRIPTION_SHIFT) == which and \
            front.awaiting == (CONFIRMATIONS if begins else DEPARTURES)
        if expected and not begins and front.expected == 0:       # all of them: one confirmation each, one when there is none
            front.expected = -<int>max(self.counts[which], 1)
        if sum > before:
            self.counts[which] += 1
        elif sum < before and self.counts[which] > 0:
            self.counts[which] -= 1
        if which == 2:
            self.shard_sum = sum
        else:
            self.sum = sum
        if not expected:
            return OF_NONE
        front.expected += -1 if front.expected > 0 else 1
        return LAST_OF_FRONT if front.expected == 0 else OF_FRONT
