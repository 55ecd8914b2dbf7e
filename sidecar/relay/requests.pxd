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

    cdef int _trace_context(self, list args, long long now, Rider rider) except -1
    cdef int _request(self, const char* start, const char* end, long long now) except -1
    cdef int _inspect(self, bytes request, Py_ssize_t command, list args, long long now) except -1
    cdef int _apply(self, object plan, bytes request, Py_ssize_t command, long long now) except -1
