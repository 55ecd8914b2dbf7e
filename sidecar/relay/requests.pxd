# Requests of a session that are not plain ones on their way home.

from sidecar.relay.lane cimport Rider
from sidecar.relay.request_framer cimport RequestFramer
from sidecar.relay.routing cimport Routed

cdef class Requests(Routed):
    cdef RequestFramer requests
    cdef readonly bint requesting_multi  # the next request is part of a transaction, if nothing was refused
    cdef bint replies_off
    cdef bint skip_next
    cdef bint mode_asked                 # the request being inspected is CLIENT REPLY

    cdef long long broken_bytes          # since the requests are `broken`; of one that is held back, with those before
    cdef bint held_back                  # nothing behind a header of the broken request goes to the engine
    cdef Py_ssize_t passing              # how many bytes of that request do; 0: none, but what is refused in its place
    cdef bint awaited                    # the engine waits for the rest of that request, where it does not refuse it
    cdef bint doubted                    # what waits goes on when the engine has said whether the client must log in first

    cdef bint _halts(self, const char* start, const char* end) except -1
    cdef Py_ssize_t _refused_at(self, const char* start, const char* end) except -1
    cdef int _trace_context(self, list args, long long now, Rider rider) except -1
    cdef int _request(self, const char* start, const char* end, long long now) except -1
    cdef int _send_bad_line_ends(self) except -1
    cdef int _inspect(self, bytes request, Py_ssize_t command, list args, long long now) except -1
    cdef int _apply(self, object plan, bytes request, Py_ssize_t command, long long now) except -1
