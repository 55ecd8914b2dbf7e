# Whose commands a route carries.

cdef class Owner:
    """A route knows no more of a session than this."""

    cdef readonly str peer                  # the client's address, "ip:port", or "[path:0]:0" of our Unix socket
    cdef long long active_ns                # when the last byte passed
    cdef bint gone                          # the client takes nothing any more
    cdef int home_turns                     # reads whose commands go home, before a lane is tried again
    cdef int deliver(self, const char* data, Py_ssize_t n) except -1    # bytes for the client, in order
    cdef int answered(self) except -1       # home: all replies that have arrived were delivered
    cdef int rode(self) except -1           # lane: the same
    cdef int follow(self) except -1         # a command that everything behind it waited for is decided
    cdef int behind(self) except -1         # lane: the engine does not read what was sent
    cdef int taken(self) except -1          # the engine reads again
    cdef int ended(self) except -1          # the engine has closed, or is gone
    cdef int unrestored(self, bytes reply) except -1    # the engine refuses what it accepted on an earlier connection
    cdef int irreplaceable(self) except -1  # no other connection can take this one's place
    cdef int changed(self, object change) except -1    # a command of the client's has changed what is known about it (notes.py); None: nobody knows what

cdef enum:
    LARGE_BYTES = 65536                     # of a request or a reply: larger ones go home
    LARGE_TURNS = 64                        # Owner.home_turns after one

cdef enum LocalAnswer:
    ACCEPTED                                # TRACEPARENT
    INVALID
    SYNTAX

cdef bytes local_answer(int answer)
