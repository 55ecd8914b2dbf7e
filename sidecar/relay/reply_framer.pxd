# Framing of what the engine sends.

cimport cython

from sidecar.relay.framer cimport Event

cdef enum:
    HEAD_MAX = 256
    STREAM_DEPTH = 64

@cython.final
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
    cdef void _null(self, char type) noexcept nogil
    cdef void _open(self, long long elements) noexcept nogil
