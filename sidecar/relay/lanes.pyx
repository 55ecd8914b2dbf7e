"""The lanes of one worker, by identity: ACL user, RESP version, database.

Owns which sessions may share a connection, and when such a connection is opened and closed. It sees no command.
"""

import asyncio
import socket

from sidecar.relay.lane cimport Lane, Pool
from sidecar.relay.shared cimport Relay, now_ns

from sidecar.relay.attributes import id_in

cdef int _WORTHWHILE = 2                     # sessions of an identity: one alone is served as well at home
cdef int _SEND_BUFFER_BYTES = 1 << 20        # the system's usual holds ten values of 10 KB, of all clients together
cdef double _OPENED_WITHIN_S = 2.0
cdef double _RETRY_S = 1.0                   # after the engine has refused a lane
cdef double _RETRY_MOST_S = 60.0


cdef class Group:
    """The sessions of one worker that are the same to the engine, and may share a lane."""

    def __init__(self, Lanes lanes not None, identity):
        self.lanes = lanes
        self.identity = identity
        self.retry_s = _RETRY_S

    cdef Lane usable(self):
        """The lane that takes their commands now, None: there is none."""
        if self.lane is not None and not self.lane.open:
            self.lane = None
        return self.lane

    cdef int want(self, object attributes) except -1:
        """A session with these attributes would go by lane: open one, if it is worthwhile."""
        cdef Relay relay = self.lanes.relay
        if self.opening or self.members < _WORTHWHILE or relay.lane_count >= relay.lanes_most or self.refused_until_ns > now_ns():
            return 0
        self.opening = True
        self.lanes.relay.poller.start_task(None, self._open(attributes.boarding()))
        return 0

    async def _open(self, list requests):
        cdef Lane lane = None
        cdef Relay relay = self.lanes.relay
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
                sock.connect(relay.engine_socket)
                lane = Lane(relay, self.lanes, sock)
            except OSError:
                sock.close()
                raise
            async with asyncio.timeout(_OPENED_WITHIN_S):
                for request in requests:
                    reply = await lane.ask(request)
                    if reply[:1] == b"-":
                        raise PermissionError("the engine refuses it")
                    lane.engine_id = lane.engine_id or id_in(reply)
            lane.open = True
            self.retry_s = _RETRY_S
            if self.members:
                self.lane = lane
            else:
                lane.close()
        except (OSError, TimeoutError):        # not there, full, or not for this user (any more): its sessions go home
            if lane is not None:
                lane.close()
            self.refused_until_ns = now_ns() + <long long>(self.retry_s * 1e9)
            self.retry_s = min(self.retry_s * 2, _RETRY_MOST_S)
        finally:
            self.opening = False


cdef class Lanes(Pool):
    """All lanes of one worker."""

    def __init__(self, Relay relay not None):
        Pool.__init__(self, relay)
        self.groups = {}

    cdef Group join(self, object attributes):
        """A session with these attributes may ride from now on."""
        cdef Group group = self.groups.get(attributes.identity)
        if group is None:
            group = self.groups[attributes.identity] = Group(self, attributes.identity)
        group.members += 1
        return group

    cdef int leave(self, Group group) except -1:
        """One of its sessions is gone, or has become another one."""
        group.members -= 1
        if group.members == 0 and group.usable() is None and not group.opening:
            self.groups.pop(group.identity, None)
        return 0

    def close_idle(self, double idle_s):
        """Close the lanes that nobody has used for idle_s seconds."""
        cdef Lane lane
        cdef Group group
        cdef long long before = now_ns() - <long long>(idle_s * 1e9)
        for item in list(self.lanes):
            lane = item
            if lane.open and lane.length == 0 and lane.used_ns < before:
                lane.close()
        for item in list(self.groups.values()):
            group = item
            if group.members == 0 and group.usable() is None and not group.opening:
                del self.groups[group.identity]

    def close(self):
        """Close all of them."""
        for lane in list(self.lanes):
            lane.close()
