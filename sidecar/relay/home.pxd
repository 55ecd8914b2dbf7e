# The home route: one upstream connection for one client session.

cimport cython

from sidecar.relay.channel cimport Channel
from sidecar.relay.owner cimport Owner
from sidecar.relay.pending cimport Pending, PendingQueue
from sidecar.relay.recorder cimport Recorder
from sidecar.relay.reply_framer cimport ReplyFramer
from sidecar.relay.shared cimport Relay

@cython.final
cdef class HomeRoute:
    cdef Relay relay
    cdef Owner owner
    cdef Channel upstream
    cdef ReplyFramer replies
    cdef PendingQueue pending
    cdef PendingQueue queued             # inside MULTI
    cdef long long blocking              # how many of `pending` may wait by nature
    cdef object plans                    # deque, one for each PLANNED item of `pending`
    cdef object queued_plans             # deque, the same for `queued`
    cdef int planned                     # items that need their reply collected
    cdef bytearray collected             # the beginning of a reply that a plan transforms
    cdef bytearray stash                 # replies that wait for a plan's answer
    cdef object task                     # transforms a reply; what follows it waits
    cdef bint closed
    cdef bint raw                        # replies pass unseen, nothing is measured
    cdef bint unmeasured                 # raw as soon as what is in flight has its replies
    cdef bint replica                    # the connection is a replication stream
    cdef bint in_multi
    cdef bint watching
    cdef int restoring                   # replies still to come to requests that make this connection what an earlier one was
    cdef long long used_ns               # when something of the client's was last sent or answered here
    cdef long long executing             # elements of EXEC's reply still to come
    cdef long long header_size           # of EXEC's reply
    cdef bint monitor
    cdef int monitoring                  # MONITORs in flight
    cdef int resetting                   # RESETs in flight
    cdef bint answered_well              # a command of this connection has succeeded: it need not authenticate (any more)
    cdef bint silent_block               # a command that may wait by nature was sent without a reply to come, and may be waiting
    cdef long long subscriptions[3]      # channels, patterns, shard channels
    cdef long long subscription_sum      # channels and patterns, as the engine says
    cdef long long shard_sum
    cdef bint pushes                     # RESP3: messages come as pushes, and an array is a reply
    cdef int locals                      # LOCAL items of `pending`
    cdef bytearray out                   # replies that go to the client with what follows, while answers of ours stand between them
    cdef Recorder recorder               # its commands in ledger and spans
    cdef object notes                    # deque, one for each NOTED item of `pending`: what its success changes in what is known about the client
    cdef object queued_notes             # the same for `queued`

    cdef int expect(self, int awaiting, Py_ssize_t command, int flags, long long expected, long long size, bint silent, long long now) except -1
    cdef int expect_planned(self, object plan, Py_ssize_t command, long long size, bint silent, long long now) except -1
    cdef int expect_local(self, int answer, long long now) except -1
    cdef int answer_locals(self) except -1
    cdef int note(self, object change) except -1
    cdef int restore(self, list requests, bint pushes) except -1
    cdef bint resting(self) noexcept
    cdef int unfollow(self, str reason, long long now) except -1
    cdef bint streaming(self) noexcept
    cdef bint settled(self) noexcept
    cdef bint idle(self) noexcept
    cdef bint spared(self) noexcept
    cdef int forget(self, str error_type) except -1
    cdef int close(self) except -1
    cdef int _take(self, const char* data, Py_ssize_t n, long long now) except -1
    cdef object _plan(self)
    cdef bint _out_of_band(self)
    cdef bint _is_monitor_line(self) noexcept
    cdef bint _in_pubsub(self) noexcept
    cdef int _frame(self, long long now) except -1
    cdef int _confirmation(self, int kind, long long now) except -1
    cdef int _complete(self, long long now) except -1
    cdef int _unanswered(self) except -1
    cdef int _begin_transaction(self) except -1
    cdef int _end_transaction(self) except -1
    cdef int _reset(self) except -1
    cdef int _go_raw(self, str reason) except -1
    cdef int _pass(self) except -1
    cdef int _settle(self, Pending* entry) except -1
    cdef int _clear(self) except -1
    cdef const char* _insert_locals(self, const char* unsent, const char* upto) except NULL
    cdef bytes _local_answer(self, int answer)
    cdef int _deliver(self, const char* data, Py_ssize_t n) except -1
