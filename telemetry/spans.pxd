# Spans of one worker: decided when a reply is complete, written as records into packets (telemetry/spanpacket.py).

cimport cython
from libc.string cimport memcmp

cdef extern from *:
    """
    #define OWN "__Booksleeve_"
    """
    const char* OWN              # what StackExchange.Redis' own keys and channels begin with

cdef enum:
    ID = 8
    TRACE_ID = 16
    TEXT_MAX = 256           # bytes of an error, a key or a text of an identity
    STATE_MAX = 512          # bytes of a tracestate, as W3C lets one cut it

cdef enum Form:
    SINGLE                   # one command so far
    PIPELINE                 # several commands: a span around them
    TRANSACTION              # MULTI: a span around what is queued

cdef enum Decision:
    OPEN                     # nothing of it has been decided
    SENT                     # its spans go out
    REFUSED                  # only errors and slow commands do

cdef enum Treatment:
    PASSED_OVER              # housekeeping: no span, and a context passes over it
    TRACED                   # a span, in the context if there is one
    TRACED_BUT_OWN           # the same, unless its argument is StackExchange.Redis' own: then housekeeping
    UNTRACED                 # no span, but the context was for it
    TRACED_ALONE             # a span, but a context passes over it

cdef enum Reason:            # why a span is not sent: `_REASONS`
    SAMPLER
    BUDGET_REMOTE
    BUDGET_ROOT
    BUDGET_CHILDREN
    BUDGET_KEPT
    OMITTED
    RAW
    REASONS

cdef enum:                   # flags of a span, telemetry.spanpacket
    HAS_PARENT = 1
    REMOTE_PARENT = 2
    HIT = 4
    MISS = 8
    BLOCKED = 16
    ERROR_REPLY = 32
    KEPT_ERROR = 64
    KEPT_SLOW = 128
    SLOW = 256
    SAMPLED = 512

cdef struct Unit:
    # Commands that share one parent: a single one, a pipeline, a transaction. Counted references: one of each command in
    # flight, one of whoever may still add commands.
    int refs
    int form
    int decision
    int reason               # of a refusal
    bint sampled
    bint remote              # it has a context that a client gave
    bint slow                # one of its commands was, nobody knows which
    bint told                # its span around has been written, or is not to be
    int kept                 # KEPT flags, once a child was kept
    unsigned char trace_flags
    char trace_id[TRACE_ID]
    char parent_id[ID]       # given by the client
    char span_id[ID]         # of the span around
    long long start_ns
    long long end_ns
    long long next_ns        # where the next child begins at the earliest
    long long count          # commands
    long long children       # written
    long long omitted
    long long omitted_errors
    long long request
    long long response
    unsigned short command   # of the span around
    int state_length
    char* state
    Unit* next               # while it is spare

@cython.final
cdef class Identity:
    # Who sends commands, as spans show it. A change is `changed`.
    cdef public str address
    cdef public int port
    cdef public str transport
    cdef public int database
    cdef public str client_name
    cdef public str lib_name
    cdef public str lib_version
    cdef public str user
    cdef unsigned int packet         # the last packet that it stands in
    cdef unsigned int id             # in that packet

@cython.final
cdef class Tracer:
    cdef public bint enabled
    cdef bint exported               # spans go to somebody, else only slow commands are told
    cdef public object on_packet     # (bytes) -> None
    cdef bint wants_keys
    cdef bint hashes_keys
    cdef bint parent_based
    cdef bint budgets_apply
    cdef unsigned long long threshold        # a root is sampled whose trace id's low 64 bits are below it
    cdef bint always                         # ... or every one
    cdef long long slow_ns
    cdef list names
    cdef object excluded
    cdef unsigned char* treatments           # by command id
    cdef int* first_keys                     # by command id: position of the first key, 0 for none
    cdef unsigned int* name_packets          # by command id: the last packet that its name stands in
    cdef Py_ssize_t size
    cdef unsigned int pipeline_packet
    cdef unsigned int packet                 # number of the packet being written
    cdef unsigned int identities             # in it
    cdef unsigned int spans                  # in it
    cdef char* buffer
    cdef size_t length
    cdef size_t capacity
    cdef readonly long long units            # that somebody holds
    cdef Unit* spare
    cdef int spares
    cdef unsigned long long random_state[2]
    cdef long long drops[REASONS]
    cdef long long* times                    # of the budgets, shared by all workers
    cdef long long intervals_ns[4]
    cdef long long bursts_ns[4]
    cdef unsigned int engine_us              # of the next span: what its command took in the engine, 0: not known
    cdef readonly long long made             # spans written since the start

    cdef inline void drop(self, int reason) noexcept nogil:
        """Count a span that is not sent."""
        if self.exported:
            self.drops[reason] += 1

    cdef inline void _ended(self, Unit* unit, long long end_ns, long long request, long long response) noexcept nogil:
        """What a command leaves to the span around it."""
        unit.end_ns = end_ns
        if unit.form == SINGLE:
            unit.count = 0                     # a span around later ones has nothing of it
        else:
            unit.request += request
            unit.response += response

    cdef inline bint pass_by(self, Unit* unit, long long end_ns, long long request, long long response) noexcept nogil:
        """A command of the unit has ended well and in time: whether there is no more to it, because such spans of the unit do not go out."""
        if unit.decision != REFUSED:
            return False
        self._ended(unit, end_ns, request, response)
        if unit.form != SINGLE:
            unit.omitted += 1
        self.drop(unit.reason)
        return True

    cdef inline int treatment(self, Py_ssize_t command, const char* argument, Py_ssize_t length) noexcept nogil:
        """How the command with this first argument (NULL: not known) is treated."""
        cdef int found = self.treatments[command] if command < self.size else <int>TRACED
        if found == TRACED_BUT_OWN:
            return PASSED_OVER if length >= 13 and argument != NULL and argument[0] == 95 and memcmp(argument, OWN, 13) == 0 else TRACED
        return found

    cdef Unit* root(self) except NULL
    cdef Unit* below(self, const char* trace_id, const char* parent_id, unsigned char trace_flags, const char* state, int state_length) except NULL
    cdef Unit* transaction(self, Unit* context, unsigned short command, long long start_ns) except NULL
    cdef int surround(self, Unit* unit) except -1
    cdef int release(self, Unit* unit, Identity who) except -1
    cdef int done(self, Unit* unit, Identity who, unsigned short command, long long start_ns, long long end_ns, long long request, long long response, int flags, const char* error, int error_length, const char* key) except -1
    cdef long long place(self, Unit* unit, long long at_ns, long long end_ns) noexcept
    cdef int blame(self, Unit* unit, long long now) except -1
    cdef int close(self, Unit* unit, Identity who, long long end_ns, int flags, const char* error, int error_length) except -1
    cdef char* key(self, Py_ssize_t command, const char* start, const char* end) except? NULL
    cdef Unit* _new(self) except NULL
    cdef bint _take(self, int budget, long long now) noexcept nogil
    cdef unsigned long long _random(self) noexcept nogil
    cdef void _random_id(self, char* id, int length) noexcept nogil
    cdef bint _root_sampled(self, const char* trace_id) noexcept nogil
    cdef void _refuse_unsampled(self, Unit* unit) noexcept nogil
    cdef void _admit(self, Unit* unit, long long now) noexcept nogil
    cdef int _write(self, Identity who, int kind, int flags, Unit* unit, const char* span_id, const char* parent_id, unsigned short command, long long start_ns, long long end_ns, long long request, long long response, long long batch, const char* error, int error_length, const char* key) except -1
    cdef int _write_around(self, Unit* unit, Identity who, int flags, const char* error, int error_length) except -1
    cdef int _write_name(self, unsigned short command) except -1
    cdef int _write_identity(self, Identity who) except -1
    cdef int _reserve(self, size_t n) except -1
