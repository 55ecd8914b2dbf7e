# What MULTI has begun on one connection.

cimport cython

from sidecar.relay.owner cimport Owner
from sidecar.relay.pending cimport PendingQueue
from sidecar.relay.recorder cimport Recorder

@cython.final
cdef class Transaction:
    cdef PendingQueue queued             # commands that the engine keeps for EXEC
    cdef long long executing             # elements of EXEC's reply still to come
    cdef long long header_size           # of EXEC's reply

    cdef object plan(self)
    cdef bint executed(self, Recorder recorder, Owner owner, long long now) except -1
    cdef int abandon(self, Recorder recorder) except -1
