# A client session.

cimport cython

from sidecar.relay.channel cimport Channel
from sidecar.relay.home cimport HomeRoute
from sidecar.relay.lane cimport Group, Lane, Rider
from sidecar.relay.owner cimport Owner
from sidecar.relay.recorder cimport Recorder
from sidecar.relay.request_framer cimport RequestFramer
from sidecar.relay.shared cimport Relay
from telemetry.spans cimport Identity

@cython.final
cdef class Session(Owner):
    cdef readonly Relay relay
    cdef readonly str peer               # "ip:port", or the path of our Unix socket
    cdef readonly str local
    cdef readonly bint is_local          # from the loopback interface or a Unix socket
    cdef readonly bint is_tls
    cdef readonly str transport          # "tcp" or "unix"
    cdef Identity who                    # as spans show it
    cdef Channel client
    cdef Recorder recorder               # its commands in ledger and spans, whichever way they go
    cdef HomeRoute route                 # None: it has no connection of its own (yet, or any more)
    cdef Rider rider                     # None: it has never gone by lane
    cdef Group group                     # whose lane it may go by, None: by none
    cdef object attributes               # sidecar.relay.attributes.Attributes, None: those of a new connection
    cdef bint pinned                     # it never goes by lane again
    cdef bint kept                       # its own connection stays, however idle
    cdef bint crossing                   # what waits goes home when all that is in flight on the lane is answered
    cdef bint begun_at_home              # the beginning of a request has been sent home
    cdef bint awaits_home                # what waits goes on when its own connection is there
    cdef Py_ssize_t last                 # id of the last command
    cdef long long connected_ns
    cdef RequestFramer requests
    cdef bytearray held                  # the beginning of a request that must be seen whole, or requests that wait
    cdef Py_ssize_t held_parsed
    cdef object task                     # decides about a request; what follows it waits
    cdef bint decided                    # what waits may go on once the replies that have arrived are delivered
    cdef bint broken                     # not RESP any more: the engine is about to refuse it
    cdef bint endless                    # a request that the engine may wait for the end of
    cdef long long broken_bytes
    cdef bint closed
    cdef bint client_left
    cdef bint finished                   # only the client's backlog is left
    cdef bint requesting_multi
    cdef bint replies_off
    cdef bint skip_next
    cdef bint mode_asked                 # the request being inspected is CLIENT REPLY
    cdef public bint announced_address   # REPLCONF ip-address has been sent
    cdef double retry_s                  # before the next attempt to reach the engine
    cdef double deadline                 # for connecting to the engine, loop time
    cdef object timer

    cdef bint _reach_engine(self) except -1
    cdef Lane _lane(self)
    cdef bint _leave_lane(self) except -1
    cdef bint _at_home(self) except -1
    cdef int _hold(self, const char* p, Py_ssize_t n) except -1
    cdef int _mark(self, int route) except -1
    cdef int _leave_group(self) except -1
    cdef int _take(self, const char* data, Py_ssize_t n, long long now) except -1
    cdef int _forward(self, const char* p, Py_ssize_t n) except -1
    cdef int _trace_context(self, list args, long long now, Rider rider) except -1
    cdef int _refuse_large(self) except -1
    cdef int _request(self, const char* start, const char* end, long long now) except -1
    cdef int _inspect(self, bytes request, Py_ssize_t command, list args, long long now) except -1
    cdef int _apply(self, object plan, bytes request, Py_ssize_t command, long long now) except -1
    cdef int _release(self) except -1
    cdef int _depart(self) except -1
    cdef int _let_go(self, str error_type) except -1
    cdef int _finish(self, str error_type) except -1
