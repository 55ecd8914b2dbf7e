"""What all sessions of one worker share: the loop, the command table, the ledger, one read buffer, what is in flight.

It serves no client itself.
"""

import asyncio
from collections import deque

from sidecar.relay import limits

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdlib.h>
    #ifdef __GLIBC__
    #include <malloc.h>
    #else
    #define malloc_trim(pad) 0
    #endif
    """
    int malloc_trim(size_t pad) nogil

cdef Py_ssize_t _BUFFER_BYTES = 128 * 1024
cdef Py_ssize_t _CROWD = 500        # sessions: they had some megabytes, and giving back takes a millisecond or two
cdef long long _MUCH = 8 << 20      # bytes that were kept: the same of them
cdef int _BOOKED_MOST = 1024
cdef double _COME_HOME_S = 0.005    # between attempts: the engine accepts in turns
cdef int _AT_ONCE = 64              # connections that are opened, or closed, before others are served
cdef double _PARK_AGAIN_S = 0.02


cdef class Relay:
    """engine_socket: path of the engine's Unix socket; engine_timeout: seconds a client waits for an engine that is away."""

    def __cinit__(self):
        self.buffer_size = _BUFFER_BYTES
        self.buffer = <char*>malloc(self.buffer_size)
        if self.buffer == NULL:
            raise MemoryError

    def __init__(self, loop, CommandTable table not None, Ledger ledger not None, Tracer tracer not None, str engine_socket, double engine_timeout=5.0):
        self.loop = loop
        self.poller = Poller(loop)
        self.table = table
        self.ledger = ledger
        self.tracer = tracer
        self.suspects = Suspects(tracer)
        self.booked = deque(maxlen=_BOOKED_MOST)
        self.engine_socket = engine_socket
        self.engine_timeout = engine_timeout
        self.sessions = set()
        self.by_engine_id = {}
        self.by_first_id = {}
        self.lanes = True
        self.lanes_most = 32
        self.request_limit = 1 << 20
        self.flight_limit = self.flights_limit = 2_000_000
        from sidecar.relay.lanes import Lanes    # late: it imports this module
        self.lane_pool = Lanes(self)

    def __dealloc__(self):
        free(self.buffer)
        free(self.kept)

    cdef int keep(self, const char* p, size_t n) except -1:
        """Bytes that go on with those that follow: one write instead of two."""
        cdef char* bigger
        if n == 0:     # then there may be no memory yet, and C forbids to copy nothing to nowhere
            return 0
        if self.kept_length + n > self.kept_capacity:
            bigger = <char*>realloc(self.kept, self.kept_length + n + self.buffer_size)
            if bigger == NULL:
                raise MemoryError
            self.kept = bigger
            self.kept_capacity = self.kept_length + n + self.buffer_size
        memcpy(self.kept + self.kept_length, p, n)
        self.kept_length += n
        return 0

    # ---- limits ----------------------------------------------------------------------------------------------------------------

    cdef int strike(self, str limit, str peer) except -1:
        """A limit was reached, by the client with this address."""
        self.ledger.count("limits.reached", limit)
        if self.on_limit is not None:
            self.on_limit(limit, peer)
        return 0

    def reached(self, str limit, str peer):
        """The same, for Python."""
        self.strike(limit, peer)

    cdef int kept_changed(self, Py_ssize_t more) except -1:
        """The sessions keep so many bytes more."""
        self.kept_by_all += more
        if self.kept_by_all > self.most_kept:
            self.most_kept = self.kept_by_all
        if self.kept_by_all > self.kept_limit > 0 and not self.crowded:
            self.crowded = True
            self.loop.call_soon(self._make_room)     # who keeps most may be in the middle of something now
        return 0

    def _make_room(self):
        """Cut off whoever keeps most, as often as needed."""
        self.crowded = False
        while self.kept_by_all > self.kept_limit and self.sessions:
            most = max(self.sessions, key=lambda session: session.kept)
            self.strike(limits.KEPT, most.peer)
            most.close()

    # ---- requests --------------------------------------------------------------------------------------------------------------

    def stop_requests(self):
        """Take no more requests; what is in flight goes on, and so do replicas."""
        self.stopped = True
        for session in list(self.sessions):
            session.stop()

    def resume_requests(self):
        """Take requests again."""
        self.stopped = False
        for session in list(self.sessions):
            session.go_on()

    def last_replies(self, double limit_s):
        """Hand on what an engine that has ended had answered, for as long as there is some, or limit_s seconds."""
        cdef long long until = now_ns() + <long long>(limit_s * 1e9)
        self.stop_requests()
        while self.poller.dispatch() > 0 and now_ns() < until:
            pass

    # ---- connections to the engine ---------------------------------------------------------------------------------------------

    def suspend_lanes(self):
        """No command goes by lane from now on. A future: done when none is in flight on one."""
        self.suspended = True
        return self.lane_pool.when_empty()

    def close_lanes(self):
        """Close all of them; there are none until they are resumed. To be called when they are empty."""
        self.lane_pool.close()

    def resume_lanes(self):
        """Commands may go by lane again."""
        self.suspended = False

    async def bring_home(self, sessions, double within_s=2.0):
        """Give these sessions their own connections to the engine, those that come in time, and wait until they have them."""
        cdef double until = self.loop.time() + within_s
        lacking = [session for session in sessions if not session.connected]
        while lacking and self.loop.time() < until:
            for session in lacking[:_AT_ONCE]:
                if not session.come_home():    # the engine's backlog is full, or it is away
                    await asyncio.sleep(_COME_HOME_S)
                    break
            await asyncio.sleep(0)
            lacking = [session for session in lacking if not session.connected and session in self.sessions]

    def park_idle(self, double home_timeout_s):
        """Close the connections to the engine that nobody has needed for home_timeout_s seconds (0: none); many of them little by little."""
        if home_timeout_s and not self.parking:
            self._park(home_timeout_s)
            self.lane_pool.close_idle(home_timeout_s)

    def _park(self, double home_timeout_s):
        cdef long long before = now_ns() - <long long>(home_timeout_s * 1e9)
        cdef int parked = 0
        self.parking = False
        if not self.table.knows(b"HELLO"):     # renamed, or forbidden: no connection could be made again
            return
        for session in self.sessions:
            if session.park(before):
                parked += 1
                if parked == _AT_ONCE:
                    self.parking = True
                    self.loop.call_later(_PARK_AGAIN_S, self._park, home_timeout_s)
                    return

    cdef int upstreams_changed(self) except -1:
        self.most_sessions = max(self.most_sessions, <Py_ssize_t>len(self.sessions))
        if self.on_upstreams is not None:
            self.on_upstreams()
        return 0

    def give_back_memory(self):
        """To the system, when a crowd has left, or much is no more kept: else it would be there for the next one. To be called every now and then."""
        if self.most_sessions - len(self.sessions) >= _CROWD or self.most_kept - self.kept_by_all >= _MUCH:
            malloc_trim(0)
            self.most_sessions = len(self.sessions)
            self.most_kept = self.kept_by_all

    @property
    def lane_ids(self):
        """The engine's ids of the lanes."""
        return [lane.engine_id for lane in self.lane_pool.lanes]

    @property
    def unmatched(self):
        """Sessions minus connections to the engine: what the engine's count of its clients lacks."""
        return len(self.sessions) - self.homes - self.lane_count

    @property
    def quiet(self):
        """Nothing is in flight but commands that wait by nature."""
        return self.in_flight <= self.blocking

    @property
    def at_rest(self):
        """The same, or what else is in flight is for clients that take no replies now."""
        cdef long long now = now_ns()
        return self.in_flight <= self.blocking + sum([session.stalled(now) for session in self.sessions])

    cdef int check_quiet(self) except -1:
        """Tell whoever waits for it that the worker is quiet."""
        if self.on_quiet is not None and self.in_flight <= self.blocking:
            self.on_quiet()
        return 0

    def close_idle(self, double timeout_s):
        """Close the sessions without a byte in or out for timeout_s (0: none), but for those that Valkey's `timeout` spares.

        Also those whose client has left and whose commands the engine has not answered for a long time.
        """
        cdef long long now = now_ns()
        for session in list(self.sessions):
            session.close_if_idle(now, timeout_s)
