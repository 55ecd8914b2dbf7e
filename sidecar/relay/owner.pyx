"""What a session is to the routes that carry its commands, and our own answers that both routes give.

Owns no state but what a route must know or set of a session. It knows no route.
"""

cdef bytes _OK = b"+OK\r\n"
cdef bytes _INVALID_TRACEPARENT = b"-ERR invalid traceparent\r\n"
cdef bytes _SYNTAX_ERROR = b"-ERR syntax error\r\n"


cdef class Owner:
    """A session overrides every method; owner.pxd says what each is told."""

    cdef int deliver(self, const char* data, Py_ssize_t n) except -1:
        return 0

    cdef int answered(self) except -1:
        return 0

    cdef int rode(self) except -1:
        return 0

    cdef int follow(self) except -1:
        return 0

    cdef int behind(self) except -1:
        return 0

    cdef int taken(self) except -1:
        return 0

    cdef int ended(self) except -1:
        return 0

    cdef int unrestored(self, bytes reply) except -1:
        return 0

    cdef int irreplaceable(self) except -1:
        return 0

    cdef int changed(self, object change) except -1:
        return 0


cdef bytes local_answer(int answer):
    """Our answer to a TRACEPARENT that may be answered."""
    return _OK if answer == ACCEPTED else _INVALID_TRACEPARENT if answer == INVALID else _SYNTAX_ERROR
