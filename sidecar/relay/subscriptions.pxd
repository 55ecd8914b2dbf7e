# What one connection has subscribed to, and how the engine tells.

cimport cython

from sidecar.relay.pending cimport Pending
from sidecar.relay.reply_framer cimport ReplyFramer

cdef enum:           # kinds of frames
    NO_MESSAGE = 0
    MESSAGE = 1      # and above it, confirmations

cdef enum Confirmation:
    OF_NONE = 0      # of no command: the engine has ended a subscription, or it is inside of EXEC
    OF_FRONT         # one of those that a command is answered by
    LAST_OF_FRONT    # with which that command is complete

cdef int message_kind(ReplyFramer framer) except -1

@cython.final
cdef class Subscriptions:
    cdef long long counts[3]             # channels, patterns, shard channels
    cdef long long sum                   # channels and patterns, as the engine says
    cdef long long shard_sum

    cdef bint none_left(self) noexcept
    cdef Confirmation confirmed(self, int kind, long long sum, Pending* front) noexcept
