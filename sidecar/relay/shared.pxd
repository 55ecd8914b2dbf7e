# What all sessions of one worker share.

cimport cython

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from sidecar.relay.channel cimport Poller
from sidecar.relay.commands cimport CommandTable
from sidecar.relay.suspects cimport Suspects
from telemetry.ledger cimport Ledger
from telemetry.spans cimport Tracer

cdef inline long long now_ns() noexcept nogil:
    """The monotonic clock, in nanoseconds."""
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <long long>t.tv_sec * 1000000000 + t.tv_nsec

@cython.final
cdef class Relay:
    cdef readonly object loop
    cdef readonly Poller poller
    cdef readonly CommandTable table
    cdef readonly Ledger ledger
    cdef readonly Tracer tracer
    cdef readonly Suspects suspects
    cdef readonly object booked          # deque: (command, bytes) of the latest replies that the engine takes for large ones
    cdef public bint auth_required       # the default user has a password, as far as the supervisor knows
    cdef public bint strict              # the engine refuses line ends that are wrong, as Valkey does from 9.1 on
    cdef public object special           # sidecar.relay.special.Special
    cdef public object on_closed         # (session) -> None
    cdef public object on_quiet          # () -> None, when nothing but blocked calls is in flight; None: nobody waits
    cdef public object on_unknown        # () -> None, when an unknown command succeeded
    cdef public object on_limit          # (limit, the client's address) -> None, when a limit was reached
    cdef public str engine_socket
    cdef public double engine_timeout    # seconds
    cdef readonly set sessions
    cdef readonly dict by_engine_id      # sessions by the engine's id of their present connection, as far as it is known
    cdef readonly dict by_first_id       # those that have been parked, by the engine's id of their first connection
    cdef readonly bint parking           # park_idle() goes on in a moment
    cdef Py_ssize_t most_sessions        # at a time, since memory was given back
    cdef long long most_kept             # the same of kept_by_all
    cdef readonly bint stopped
    cdef public bint lanes               # whether stateless commands of several sessions share connections
    cdef public int lanes_most           # connections that are shared, at a time
    cdef readonly bint suspended         # nothing goes by lane now
    cdef readonly object lane_pool       # sidecar.relay.lanes.Lanes
    cdef readonly long long homes        # connections of single sessions
    cdef readonly long long lane_count
    cdef public object on_upstreams      # () -> None, when `unmatched` has changed
    cdef public long long request_limit  # bytes of the largest request that is seen whole
    cdef public size_t unread_limit      # bytes of replies by lane that a client does not read; 0: no limit
    cdef public long long kept_limit     # bytes that all sessions together keep; 0: no limit
    cdef public long long flight_limit   # commands in flight of one session that are measured
    cdef public long long flights_limit  # the same, of all sessions
    cdef readonly long long kept_by_all  # bytes of requests and replies that the sessions keep
    cdef bint crowded                    # somebody is about to be cut off for it
    cdef readonly long long in_flight
    cdef long long blocking
    cdef char* buffer                    # for every read; what it holds is used up before the next
    cdef size_t buffer_size
    cdef char* kept                      # bytes of the read being taken that go on with what follows them
    cdef size_t kept_length
    cdef size_t kept_capacity

    cdef int check_quiet(self) except -1
    cdef int upstreams_changed(self) except -1
    cdef int strike(self, str limit, str peer) except -1
    cdef int kept_changed(self, Py_ssize_t more) except -1
    cdef int keep(self, const char* p, size_t n) except -1
