# RESP framing. A framer finds where requests and replies end; it never copies, decodes or changes a byte.

from sidecar.relay.commands cimport Command, CommandTable

cdef enum Event:
    MORE = 0      # the bytes end inside a frame
    FRAME         # a request or a reply is complete
    EMPTY         # a request that gets no reply (an empty line, *0)
    HEADER        # `descend` was set and the header of a top-level array is complete
    BROKEN        # not RESP: the engine will say so and close

cdef enum:
    NAME_MAX = 64
    HEAD_MAX = 64
    STREAM_DEPTH = 64

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
    cdef int name_length
    cdef char name[NAME_MAX + 1]
    # What the last FRAME was:
    cdef Event event
    cdef readonly long long argc
    cdef readonly long long size     # bytes, framing included
    cdef bint is_inline
    cdef const Command* command      # NULL: not in the table

    cdef const char* next(self, const char* p, const char* end) noexcept nogil
    cdef const char* _whole(self, const char* p, const char* end) noexcept nogil
    cdef const Command* _lookup(self, const char* first, long long first_length) noexcept nogil
    cdef void reset(self) noexcept nogil
    cdef bint undecided(self) noexcept nogil
    cdef void _name_done(self) noexcept nogil
    cdef int _digit(self, char c) noexcept nogil
    cdef void inline_command(self, bytes name, bytes second)

cdef class ReplyFramer:
    cdef int state
    cdef int number_state
    cdef long long number
    cdef char line_type
    cdef long long remaining         # elements still to come of the top-level frame, itself included
    cdef long long body_left
    cdef int depth                   # of streamed aggregates
    cdef long long stack[STREAM_DEPTH]
    cdef bint descend
    cdef int child_index
    cdef bint opened                 # the header of a top-level aggregate has been read
    # What the last FRAME was:
    cdef Event event
    cdef readonly char type          # first byte of the top-level reply; 0 before it is known
    cdef readonly bint null
    cdef readonly long long count    # elements of a top-level aggregate, -1 when streamed
    cdef readonly long long nulls    # null elements inside it
    cdef readonly long long integer  # last integer on a line of its own
    cdef readonly long long size     # bytes, framing included
    cdef int head_length
    cdef char head[HEAD_MAX]         # beginning of a status, error or big error
    cdef int first_length
    cdef char first[16]              # beginning of an aggregate's first string

    cdef const char* next(self, const char* p, const char* end) noexcept nogil
    cdef const char* _whole(self, const char* p, const char* end) noexcept nogil
    cdef void reset(self) noexcept nogil
    cdef bint _element_done(self) noexcept nogil
    cdef void _open(self, long long elements) noexcept nogil
