"""Which way a session's commands go: by a lane that many sessions share, or home, by a connection of its own.

Owns that connection (when it is opened, closed for idleness, and made again what it was), who the client is to the engine, and the rules by
which the session changes between the two: only when nothing of it is in flight. It never sees a request.
"""

import os
import socket

from sidecar.relay.commands cimport LACKS, PINS
from sidecar.relay.home cimport HomeRoute
from sidecar.relay.lane cimport Lane, Rider
from sidecar.relay.lanes cimport Group, Lanes
from sidecar.relay.owner cimport Owner

from sidecar.relay.attributes import Attributes

cdef double _RETRY_S = 0.01                    # between the first attempts to reach the engine
cdef double _RETRY_MOST_S = 0.1                # between later ones: thousands of clients may wait
cdef int _CROSSING_TURNS = 16                  # reads that go home after commands had to wait for the lane's replies

cdef bytes _UNAVAILABLE = b"-LOADING valkey-sidecar: the engine does not answer, try again later\r\n"


cdef class Routed(Owner):
    """A session adds what its client sends; routing.pxd says what of it is needed here."""

    cdef int _release(self) except -1:
        return 0

    # ---- its own connection to the engine --------------------------------------------------------------------------------------

    cdef bint _at_home(self) except -1:
        """Whether commands can go home now; else they wait until the connection is there.

        Without an engine for engine_timeout seconds the client gets an error.
        """
        if self.route is None and not self._reach_engine():
            self.deadline = self.relay.loop.time() + self.relay.engine_timeout
            self.retry_s = _RETRY_S
            self.timer = self.relay.loop.call_later(self.retry_s, self._reach_again)
            self.awaits_home = True
            return False
        if self.route.restoring:
            self.awaits_home = True
            return False
        if self.recorder.replies is not self.route.replies:
            self.recorder.replies = self.route.replies
        return True

    cdef bint _reach_engine(self) except -1:
        """Whether there is a connection to the engine now."""
        sock = None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            sock.connect(self.relay.engine_socket)
        except OSError:     # not there (a restart), its backlog is full, or no descriptor is left
            if sock is not None:
                sock.close()
            return False
        self.route = HomeRoute(self.relay, self, sock, self.recorder)
        if self.first_id:
            if self.attributes is None:
                self.attributes = Attributes()
            self.route.restore(self.attributes.restoring(), self.attributes.protocol == 3)
        return True

    def _reach_again(self):
        self.timer = None
        if self.closed:
            return
        if self.route is not None or self._reach_engine():
            if not self.route.restoring:
                self._came_home()
        elif self.relay.loop.time() >= self.deadline:
            self.client.send(_UNAVAILABLE, len(_UNAVAILABLE))
            self.close()
        else:
            self.retry_s = min(self.retry_s * 1.5, _RETRY_MOST_S)
            self.timer = self.relay.loop.call_later(self.retry_s, self._reach_again)

    def _came_home(self):
        """Its own connection is there: what waits for it goes on."""
        if self.awaits_home:
            self.awaits_home = False
            self.recorder.replies = self.route.replies
            self._release()

    def come_home(self):
        """Open its own connection to the engine, if it has none. Whether it has one now."""
        return self.closed or self.route is not None or self._reach_engine()

    def park(self, long long before_ns):
        """Close its own connection if it was last used before that time, and another one can take its place. Whether something was done for that.

        The first one's id stays the client's, whatever connection it has later: where it is not known yet, it is asked for, and the connection is
        closed by a later call.
        """
        if self.route is None or self.kept or self.pinned or self.route.used_ns >= before_ns or not self.route.resting() or self.route.restoring \
                or not self.route.answered_well or self.task is not None or self.begun_at_home or self.client_left or self.finished or self.broken \
                or self.endless or self.held is not None:
            return False
        if not self.first_id:
            if not self.route.engine_id:
                self.route.ask_id()
                return True
            self.first_id = self.route.engine_id
            self.relay.by_first_id[self.first_id] = self
        self._join()
        self.route.close()
        self.route = None
        return True

    cdef int irreplaceable(self) except -1:
        self.kept = True
        return 0

    def keep_home(self):
        """Its own connection stays, however idle it is."""
        self.kept = True

    def identify(self, long long engine_id):
        """This is the engine's id of its connection."""
        if self.route is not None and not self.route.closed:
            self.route.identify(engine_id)

    def pin(self):
        """From now on this session's commands go by its own connection only."""
        self.pinned = True
        self._leave_group()

    cdef int _mark(self, int route) except -1:
        """A command that makes the connection one that cannot be given up; or one that the engine does not know."""
        if route & LACKS:
            self.last = 0                      # as CLIENT LIST has it
            return 0
        self.pin()
        return 0

    cdef int changed(self, object change) except -1:
        if change is None:
            self.pin()
            return 0
        self.recorder.apply(change)
        if self.route is not None:
            self.route.debugger = dict(change).get("debugger", self.route.debugger)
        if self.attributes is None:
            self.attributes = Attributes()
        before = self.attributes.identity
        self.attributes.apply(change)
        if self.attributes.identity != before or "credentials" in dict(change):
            self._leave_group()
        return 0

    cdef int unrestored(self, bytes reply) except -1:
        """The engine takes it no more for who it was: so it would tell a client that connects anew."""
        cdef bytes error = b"-%b\r\n" % reply.rstrip(b"\r\n")
        self.client.send(error, len(error))
        self.close()
        return 0

    # ---- the lane --------------------------------------------------------------------------------------------------------------

    cdef Lane _lane(self):
        """The lane that the commands of a read may go by, None: they go home."""
        cdef Rider rider = self.rider
        cdef Lane lane
        if self.relay.suspended or self.broken or self.begun_at_home:
            return None
        if self.group is None and not self._join():
            return None
        if self.home_turns:
            self.home_turns -= 1
            return None
        if self.client.length:                 # it does not read: the engine keeps its replies, as it would directly
            return None
        lane = self.group.usable()
        if lane is None:
            self.group.want(self.attributes)
            return None
        if self.route is not None and not self.route.resting():
            return None
        if rider is None:
            rider = self.rider = Rider(self.relay, self, self.recorder)
        if rider.lane is not lane:
            if rider.pending.length:
                return None
            rider.lane = lane
        if self.recorder.replies is not lane.replies:
            self.recorder.replies = lane.replies
        return lane

    cdef bint _join(self) except -1:
        """Whether it may go by lane: the engine itself has said so to this session. Nobody rides on what others are."""
        if self.group is None and self.route is not None and self.route.answered_well and self.route.resting():
            if self.attributes is None:
                self.attributes = Attributes()
            self.group = (<Lanes>self.relay.lane_pool).join(self.attributes)
        return self.group is not None

    cdef bint _leave_lane(self) except -1:
        """Whether commands can go home now; else they wait until what is in flight on the lane is answered."""
        if self.rider is not None and self.rider.pending.length:
            self.crossing = True
            self.home_turns = max(self.home_turns, _CROSSING_TURNS)
            return False
        return self._at_home()

    cdef int _leave_group(self) except -1:
        """It is not who it was, or rides no more. What it has in flight on a lane stays there."""
        if self.group is not None:
            (<Lanes>self.relay.lane_pool).leave(self.group)
            self.group = None
        return 0

    def wait_on_lane(self, bytes request):
        """Send this request on the lane that carried the session's last write by lane; no command goes by it any more then.

        An awaitable of its reply; None without such a lane.
        """
        return self.rider.wrote.wait(request) if self.has_lane_to_ask else None

    @property
    def has_lane_to_ask(self):
        """Whether there is one for `wait_on_lane`."""
        return self.rider is not None and self.rider.wrote is not None and not self.rider.wrote.closed

    @property
    def connected(self):
        """Whether it has its own connection to the engine."""
        return self.route is not None and not self.route.restoring

    @property
    def parked(self):
        """Whether it has had its own connection to the engine, and has none now."""
        return self.first_id != 0 and self.route is None

    @property
    def newcomer(self):
        """Whether it has never had a connection to the engine: nothing there is known of it."""
        return self.first_id == 0 and self.route is None

    @property
    def reopened(self):
        """Whether its connection to the engine is not its first: it has another id there than the client's."""
        return self.first_id != 0 and self.route is not None

    @property
    def engine_id(self):
        """The engine's id of its connection, 0: none, or not known."""
        return self.route.engine_id if self.route is not None else 0

    @property
    def client_id(self):
        """The id by which everybody knows the client, 0: not known yet."""
        return self.first_id or self.engine_id

    @property
    def user(self):
        """The name of its ACL user."""
        return self.attributes.user if self.attributes is not None else b"default"

    @property
    def stranger(self):
        """Whether the engine will refuse what it says now, as far as we know, because it must log in first: nothing need be prepared for it."""
        return self.relay.auth_required and not self.trusted and (self.route is None or self.route.pending.length == 0)

    @property
    def trusted(self):
        """Whether the engine has answered a command of it, which it does to nobody who must authenticate first."""
        return self.group is not None or (self.route is not None and self.route.answered_well)

    @property
    def upstream_inode(self):
        """The inode of our side of the upstream connection, 0 without one."""
        if self.route is None or self.route.upstream.sock is None:
            return 0
        return os.fstat(self.route.upstream.sock.fileno()).st_ino
