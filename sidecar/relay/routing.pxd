# Which way a session's commands go.

from sidecar.relay.channel cimport Channel
from sidecar.relay.home cimport HomeRoute
from sidecar.relay.lane cimport Lane, Rider
from sidecar.relay.lanes cimport Group
from sidecar.relay.owner cimport Owner
from sidecar.relay.recorder cimport Recorder
from sidecar.relay.shared cimport Relay

cdef class Routed(Owner):
    cdef readonly Relay relay
    cdef Channel client
    cdef Recorder recorder               # its commands in ledger and spans, whichever way they go
    cdef HomeRoute route                 # None: it has no connection of its own (yet, or any more)
    cdef Rider rider                     # None: it has never gone by lane
    cdef Group group                     # whose lane it may go by, None: by none
    cdef readonly object attributes      # sidecar.relay.attributes.Attributes, None: those of a new connection
    cdef Py_ssize_t last                 # id of the last command, 0: the engine does not know it
    cdef bint pinned                     # it never goes by lane again
    cdef bint kept                       # its own connection stays, however idle
    cdef long long first_id              # the engine's id of its first connection, once that was closed; 0: it has not been
    cdef bint crossing                   # what waits goes home when all that is in flight on the lane is answered
    cdef bint begun_at_home              # the beginning of a request has been sent home
    cdef bint awaits_home                # what waits goes on when its own connection is there
    cdef double retry_s                  # before the next attempt to reach the engine
    cdef double deadline                 # for connecting to the engine, loop time
    cdef object timer
    cdef object task                     # decides about a request; what follows it waits
    cdef bytearray held                  # the beginning of a request that must be seen whole, or requests that wait
    cdef bint broken                     # not RESP any more: the engine is about to refuse it
    cdef bint endless                    # a request that the engine may wait for the end of
    cdef readonly bint closed
    cdef bint client_left
    cdef bint finished                   # only the client's backlog is left

    cdef int _release(self) except -1    # a session goes on with the requests that waited
    cdef bint _reach_engine(self) except -1
    cdef Lane _lane(self)
    cdef bint _join(self) except -1
    cdef bint _leave_lane(self) except -1
    cdef bint _at_home(self) except -1
    cdef int _mark(self, int route) except -1
    cdef int _leave_group(self) except -1
