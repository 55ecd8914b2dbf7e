# A client session.

cimport cython

from sidecar.relay.requests cimport Requests
from telemetry.spans cimport Identity

@cython.final
cdef class Session(Requests):
    cdef readonly str local
    cdef readonly bint is_local          # from the loopback interface or a Unix socket
    cdef readonly bint is_tls
    cdef readonly str transport          # "tcp" or "unix"
    cdef Identity who                    # as spans show it
    cdef readonly long long connected_ns
    cdef Py_ssize_t held_parsed
    cdef bint decided                    # what waits may go on once the replies that have arrived are delivered
    cdef size_t kept_bytes               # of requests and replies, as the worker was told
    cdef bint refused                    # a request was too large: an error follows the replies to those before it, then the end
    cdef object listed_form              # what its line in CLIENT LIST was written in while it was parked, None: it was not
    cdef Py_ssize_t listed_last          # with this last command
    cdef bytes listed_head
    cdef bytes listed_tail
    cdef public bint announced_address   # REPLCONF ip-address has been sent

    cdef int _keep(self, bytearray held, const char* start, const char* end, Py_ssize_t parsed) except -1
    cdef int _account(self) except -1
    cdef int _hold(self, const char* p, Py_ssize_t n) except -1
    cdef int _take(self, const char* data, Py_ssize_t n, long long now) except -1
    cdef int _resolve(self) except -1
    cdef int _forward(self, const char* p, Py_ssize_t n) except -1
    cdef int _refuse_large(self) except -1
    cdef int _say_too_large(self) except -1
    cdef int _depart(self) except -1
    cdef int _let_go(self, str error_type) except -1
    cdef int _finish(self, str error_type) except -1
    cdef bint _has_all(self) except -1
    cdef int _linger(self, str error_type) except -1
