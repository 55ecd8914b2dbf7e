# What is measured of one session's commands.

cimport cython

from sidecar.relay.pending cimport Pending
from sidecar.relay.reply_framer cimport ReplyFramer
from sidecar.relay.shared cimport Relay
from telemetry.ledger cimport Ledger
from telemetry.spans cimport Identity, Tracer, Unit

@cython.final
cdef class Recorder:
    cdef Relay relay
    cdef Ledger ledger
    cdef Tracer tracer
    cdef ReplyFramer replies
    cdef Identity who
    # What the next command belongs to. Each unit holds one reference here.
    cdef Unit* context                   # for the next `context_left` commands, as TRACEPARENT said
    cdef long long context_left
    cdef bint context_is_inside          # it was given inside a transaction: for what is queued
    cdef Unit* batch                     # commands without a context that came in the read being taken
    cdef Unit* transaction               # what is to be queued
    cdef long long answered_ns           # when the last reply was complete, or the client read again
    cdef long long before_ns             # the same, before the read that is being taken
    # The request being taken.
    cdef const char* first               # its first argument, NULL: not known; of a longer one, 16 bytes may be all that is here
    cdef long long first_length
    cdef const char* start               # the whole of it, NULL: it is not all here
    cdef const char* end
    cdef Py_ssize_t container            # id of the command whose subcommand it is, 0: none

    cdef int assign(self, Pending* entry, int awaiting, long long now) except -1
    cdef int give_context(self, Unit* unit, long long count) except -1
    cdef int end_batch(self) except -1
    cdef int transaction_lost(self, str error_type, long long now) except -1
    cdef int forget(self) except -1
    cdef int replied(self, Pending* entry, long long now) except -1
    cdef int lost(self, Pending* entry, str error_type, long long now) except -1
    cdef int add_bytes(self, Pending* entry, long long request, long long response) except -1
    cdef int release(self, Pending* entry) except -1
    cdef int apply(self, object change) except -1
    cdef int _span(self, Pending* entry, long long now, int found) except -1
    cdef int _late(self, Pending* entry, long long now) except -1
    cdef long long _since(self, Pending* entry, long long now) noexcept
    cdef int _consume_context(self) except -1
    cdef int _let_transaction_go(self) except -1

    cdef inline void answered(self, long long now) noexcept nogil:
        """A reply is complete. Those of one read come at the same time, and only what was before it says how long they took."""
        if self.answered_ns != now:
            self.before_ns = self.answered_ns
            self.answered_ns = now

    cdef inline void request(self, const char* start, const char* end, const char* first, long long first_length, Py_ssize_t container) noexcept nogil:
        """What the bytes of the next command show; all NULL and 0: nothing."""
        self.start = start
        self.end = end
        self.first = first
        self.first_length = first_length
        self.container = container
