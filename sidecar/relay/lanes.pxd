# The lanes of one worker.

cimport cython

from sidecar.relay.lane cimport Lane, Pool

@cython.final
cdef class Group:
    cdef Lanes lanes
    cdef readonly object identity
    cdef readonly long long members
    cdef Lane lane                      # for their commands, None: there is none (now)
    cdef bint opening
    cdef long long refused_until_ns
    cdef double retry_s

    cdef Lane usable(self)
    cdef int want(self, object attributes) except -1

@cython.final
cdef class Lanes(Pool):
    cdef dict groups                    # by identity

    cdef Group join(self, object attributes)
    cdef int leave(self, Group group) except -1
