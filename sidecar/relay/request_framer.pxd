# Framing of what a client sends.

cimport cython

from sidecar.relay.commands cimport NAME_MAX, Command, CommandTable
from sidecar.relay.framer cimport Event

cdef enum:
    HELD_MAX = 1 << 20               # bytes of a word of the name; longer no command has: it is forwarded as it comes

cdef extern from *:
    """
    #define FIRST_KEPT 16
    """
    enum:
        FIRST_KEPT                   # bytes of a first argument: enough to see whose it is (telemetry.housekeeping, KEY_PREFIX)

cdef bint says_block(const char* p, const char* end) noexcept nogil

@cython.final
cdef class RequestFramer:
    cdef CommandTable table
    cdef int state
    cdef int number_state
    cdef long long number
    cdef long long args_left
    cdef long long body_left         # bytes of the current argument still to come, its CR LF included
    cdef long long body_length
    cdef long long inline_length
    cdef bint naming                 # the name is not complete yet
    cdef bint cut                    # a NUL byte has ended this word of the name, as it does for the engine
    cdef int name_length
    cdef char name[NAME_MAX + 1]
    # What the last FRAME was:
    cdef Event event
    cdef readonly long long argc
    cdef readonly long long size     # bytes, framing included
    cdef bint is_inline
    cdef bint odd                    # a CR LF is not one: Valkey refuses it from 9.1 on, and closes the connection
    cdef bint ever_odd               # the same, of this request or an earlier one
    cdef const char* first           # argument, NULL: it has none; all of it is here when the request came whole, else FIRST_KEPT bytes at most
    cdef long long first_length      # of the argument
    cdef char kept[FIRST_KEPT]
    cdef const Command* command      # NULL: not in the table
    cdef const Command* container    # whose subcommand it is, if it is one's (CONFIG)

    cdef const char* next(self, const char* p, const char* end) noexcept nogil
    cdef const char* _whole(self, const char* p, const char* end) noexcept nogil
    cdef const Command* _lookup(self, const char* first, long long first_length) noexcept nogil
    cdef void reset(self) noexcept nogil
    cdef bint midway(self) noexcept nogil
    cdef bint undecided(self) noexcept nogil
    cdef bint inspected(self) noexcept nogil
    cdef bint _lacks(self) noexcept nogil
    cdef void _name_done(self) noexcept nogil
    cdef int _digit(self, char c) noexcept nogil
    cdef void inline_command(self, bytes name, bytes second)
