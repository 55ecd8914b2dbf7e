# Commands that have been forwarded and have no reply yet, in order.

cimport cython

from telemetry.spans cimport Unit

cdef enum Awaiting:
    REPLY = 0           # one reply
    MULTI_REPLY
    EXEC_REPLY
    DISCARD_REPLY
    RESET_REPLY
    CONFIRMATIONS       # (p|s)subscribe
    DEPARTURES          # (p|s)unsubscribe
    MONITOR_REPLY
    HELLO_REPLY         # its form says which protocol follows
    SYNC_REPLY          # SYNC, PSYNC: raw after it
    WATCH_REPLY
    UNWATCH_REPLY
    SILENT              # no reply is to come (CLIENT REPLY OFF, SKIP)
    REFUSAL             # bytes that are not RESP: one error, then the engine closes
    UNMEASURED          # from here on nothing can be followed: the session goes raw
    LOCAL               # never forwarded: it is answered by us when its turn comes
    RESTORED            # a request of ours, which makes a new connection what an earlier one was
    ASKED               # a request of ours: which id the engine has given this connection
    PROOF               # a request of ours, whose reply says whether the client must log in first

cdef enum:
    BLOCKS = 1          # flags: may wait by nature
    PLANNED = 2         # a plan transforms its reply
    OPENS = 4           # a MULTI without reply
    ENDS = 8            # an EXEC or DISCARD without reply; both: a RESET
    SUBSCRIPTION_SHIFT = 4   # two bits
    NOTED = 64          # its success changes what is known about the client
    QUEUED = 128        # in a transaction: it has no duration of its own

cdef struct Pending:
    long long at_ns             # when its last byte was framed
    long long size              # bytes of the request
    Unit* unit                  # whose span it belongs to; NULL: it has none
    char* key                   # for its span, as the tracer made it; NULL: none
    int expected                # arguments after the name; confirmations still to come; of LOCAL, which answer
    unsigned short command
    unsigned char awaiting
    unsigned char flags

cdef enum:
    BLOCK_ITEMS = 102

cdef struct Block:
    Block* next
    int head
    int tail
    Pending items[BLOCK_ITEMS]

@cython.final
cdef class PendingQueue:
    cdef Block* first
    cdef Block* last
    cdef readonly Py_ssize_t length
    cdef object plans           # deque, one for each PLANNED item, None: there has been none
    cdef object notes           # deque, one for each NOTED item: what its success changes in what is known about the client
    cdef int add_plan(self, object plan) except -1
    cdef int add_note(self, object change) except -1
    cdef Pending* move(self, PendingQueue other) except NULL
    cdef int empty(self) except -1
    cdef int add_block(self) except -1
    cdef void drop_block(self) noexcept nogil
    cdef void clear(self) noexcept nogil

    cdef inline Pending* push(self) except NULL:
        """A new last item; its fields are the caller's to fill."""
        if self.last == NULL or self.last.tail == BLOCK_ITEMS:
            self.add_block()
        self.last.tail += 1
        self.length += 1
        return &self.last.items[self.last.tail - 1]

    cdef inline Pending* add(self, int awaiting, Py_ssize_t command, int flags, int expected, long long size, long long now) except NULL:
        """The same with its fields filled; it belongs to no unit."""
        cdef Pending* entry = self.push()
        entry.at_ns = now
        entry.size = size
        entry.unit = NULL
        entry.key = NULL
        entry.expected = expected
        entry.command = <unsigned short>command
        entry.awaiting = <unsigned char>awaiting
        entry.flags = <unsigned char>flags
        return entry

    cdef inline Pending* front(self) noexcept nogil:
        """The oldest item, NULL when there is none."""
        return &self.first.items[self.first.head] if self.length else NULL

    cdef inline Pending* back(self) noexcept nogil:
        """The newest item; there must be one."""
        return &self.last.items[self.last.tail - 1]

    cdef inline void pop(self) noexcept nogil:
        """Forget the oldest item; there must be one."""
        self.first.head += 1
        self.length -= 1
        if self.first.head == self.first.tail:
            self.drop_block()
