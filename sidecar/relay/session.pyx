"""A client session: what a client sends, request by request, and how it leaves.

Owns the client's connection and frames its requests, to know their names and which of them need a look (requests.pyx has it); the lane or the home
route carries them and brings the replies. Requests are framed even when replies are not followed any more, because some may not pass to an engine
that takes everybody for a local client. Nothing is decoded on the way.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE

from sidecar.relay.channel cimport BACKLOG, HOLD, STOPPED, Channel
from sidecar.relay.commands cimport Command, HELD, LACKS, PINS, PLAIN, RIDES, TRACEPARENT, WRITES
from sidecar.relay.framer cimport BROKEN, EMPTY, FRAME, MORE
from sidecar.relay.home cimport HomeRoute
from sidecar.relay.lane cimport Lane, Rider
from sidecar.relay.line_writer cimport aged_line
from sidecar.relay.owner cimport LARGE_BYTES
from sidecar.relay.pending cimport REFUSAL, REPLY
from sidecar.relay.recorder cimport Recorder
from sidecar.relay.request_framer cimport RequestFramer
from sidecar.relay.requests cimport Requests
from sidecar.relay.shared cimport Relay, now_ns
from sidecar.relay.tls_stream cimport TlsStream
from telemetry.spans cimport Identity

from sidecar.relay import limits
from sidecar.relay.attributes import Attributes
from sidecar.relay.client_filters import true_flags
from sidecar.relay.client_lines import command_shown
from sidecar.relay.plan import arguments

cdef long long _BROKEN_MAX = 128 * 1024        # bytes forwarded after a framing error: more than the engine reads before it refuses
cdef long long _DISCARDED_MAX = 1 << 30        # bytes behind them: where Valkey closes who is neither answered nor ends
cdef size_t _UNREAD_MAX = 1024 * 1024          # of our own answers, that a client does not read
cdef size_t _UNREAD_BEFORE_LOGIN = 64 * 1024   # the same of who must log in first: Valkey closes who leaves more than 1 KB of its refusals
cdef double _LINGER_S = 5.0                    # for the last bytes to a client that reads slowly, once the engine has closed
cdef long long _ABANDONED_NS = 60_000_000_000  # without a reply, after the client has left
cdef long long _STALLED_NS = 1_000_000_000     # without a byte, while a reply waits for its client
cdef Py_ssize_t _RIDING_MAX = 256              # commands in flight on a lane: deeper pipelines are as fast at home

cdef bytes _TOO_LARGE = b"-ERR Protocol error: too large a request for a command that is inspected\r\n"


cdef class Session(Requests):
    """One client. sock: its connected socket; peer, local: its two addresses as text; transport: "tcp" or "unix"; tls: where it speaks TLS."""

    def __init__(self, Relay relay not None, sock, str peer, str local, str transport, bint is_local, TlsStream tls=None):
        self.relay = relay
        self.is_tls = tls is not None
        self.peer = peer
        self.local = local
        self.transport = transport
        self.is_local = is_local
        host, _, port = peer.rpartition(":")
        host = host[1:].removesuffix(":0]") if transport == "unix" else host.strip("[]")
        self.who = Identity(host, int(port), transport)
        self.recorder = Recorder(relay, self.who)
        self.requests = RequestFramer(relay.table)
        self.active_ns = self.connected_ns = now_ns()
        self.client = Channel(relay.poller, self, sock, self._readable, self._drained, STOPPED if relay.stopped else 0, tls)
        relay.sessions.add(self)
        relay.upstreams_changed()

    # ---- requests --------------------------------------------------------------------------------------------------------------

    def _readable(self):
        cdef Py_ssize_t n = self.client.receive(self.relay.buffer, self.relay.buffer_size)
        cdef long long now
        if n > 0:
            if self.finished:                  # refused: nobody wants it
                return
            now = now_ns()
            self.active_ns = now
            self._take(self.relay.buffer, n, now)
            if self.held is not None or self.kept_bytes:
                self._account()
        elif n != -1:
            self.client_left = True
            self.client.pause(HOLD)
            if n == -2:
                self.client.failed = True
            if self.finished and self._has_all():
                self.close()
                return
            self._depart()

    cdef int _take(self, const char* data, Py_ssize_t n, long long now) except -1:
        cdef const char* p = data
        cdef const char* end = data + n
        cdef const char* start = data          # of the request that p is in, as far as it is here
        cdef const char* unsent = data
        cdef bytearray held = None
        cdef RequestFramer framer = self.requests
        cdef const Command* command
        cdef HomeRoute route
        cdef Lane lane = None
        cdef Rider rider
        self.relay.kept_length = 0             # what a session that failed has left
        if self.broken:
            self.broken_bytes += n
            if self.awaited and not self.refused and self.broken_bytes > self.relay.request_limit:
                return self._refuse_large()
            if self.held_back or self.broken_bytes > _BROKEN_MAX:    # the engine needs no more to refuse it; after CLIENT REPLY OFF it says nothing
                if self.broken_bytes > _DISCARDED_MAX:
                    self.close()
                return 0
            self.route.upstream.send(data, n)
            if self.route.upstream.length:
                self.client.pause(BACKLOG)
            return 0
        if not self.pinned and self.relay.lanes:
            lane = self._lane()
        if self.held is not None:
            held = self.held
            self.held = None
            held += data[:n]
            start = unsent = PyByteArray_AS_STRING(held)
            p = start + self.held_parsed
            end = start + PyByteArray_GET_SIZE(held)
        if lane is None and not self._leave_lane():
            return self._hold(start, end - start)
        route = self.route
        rider = self.rider
        while p < end:
            p = framer.next(p, end)
            command = framer.command
            if lane is not None:
                if framer.event == FRAME and command != NULL and command.route & RIDES and framer.size <= LARGE_BYTES and not framer.is_inline \
                        and not framer.odd and rider.pending.length < _RIDING_MAX:
                    self.recorder.request(start, p, framer.first, framer.first_length,
                                          framer.container.id if framer.container != NULL else 0)
                    rider.expect(command.id, framer.argc - 1, framer.size, now)
                    if command.route & WRITES and rider.wrote is not lane:
                        rider.write_by(lane)
                    self.last = command.id
                    start = p
                    continue
                if framer.event == EMPTY and not framer.odd:
                    start = p
                    continue
                if framer.event == FRAME and command != NULL and command.kind == TRACEPARENT and not framer.is_inline and not framer.odd:
                    rider.send(unsent, start - unsent)
                    unsent = p
                    self._trace_context(arguments(start[:p - start]), now, rider)
                    start = p
                    continue
                if framer.event == MORE and end - start <= LARGE_BYTES and framer.body_left <= LARGE_BYTES and not framer.odd:
                    break
                rider.send(unsent, start - unsent)     # the rest goes home
                rider.answer_locals()
                unsent = start
                lane = None
                if not self._leave_lane():
                    self.recorder.end_batch()
                    return self._hold(start, end - start)
                route = self.route
            if framer.event == FRAME:
                self.begun_at_home = False
                self.last = command.id if command != NULL else 0
                self.recorder.request(start if framer.size == p - start else NULL, p, framer.first, framer.first_length,
                                      framer.container.id if framer.container != NULL else 0)
                if command != NULL and command.kind == PLAIN and not framer.is_inline and not self.replies_off and not self.skip_next:
                    if command.route & (PINS | LACKS):
                        self._mark(command.route)
                    route.expect(REPLY, command.id, 0, framer.argc - 1, framer.size, False, now)
                elif command != NULL and command.kind >= TRACEPARENT and not framer.is_inline and self._halts(start, p):
                    break
                elif command != NULL and command.kind == TRACEPARENT and not framer.is_inline and not framer.odd and not route.raw \
                        and not route.unmeasured:
                    self.relay.keep(unsent, start - unsent)
                    unsent = p
                    self._trace_context(arguments(start[:p - start]), now, None)
                elif framer.is_inline or (command != NULL and command.kind == HELD):
                    self._forward(unsent, start - unsent)
                    if framer.size > self.relay.request_limit:     # it came in one read
                        return self._refuse_large()
                    unsent = p
                    self._request(start, p, now)
                else:
                    self._request(start, p, now)
                start = p
                if self.broken or self.client.paused & HOLD:
                    break
            elif framer.event == EMPTY:
                self.skip_next = False
                start = p
            elif framer.event == MORE:
                if not self.begun_at_home and framer.undecided() and self._halts(start, end):
                    break
            elif framer.event == BROKEN and framer.cut:
                if not self.begun_at_home and self._halts(start, end):
                    break
                self._forward(unsent, start - unsent)
                return self._refuse_large()
            elif framer.event == BROKEN:       # the engine will say what is wrong and close
                route.expect(REFUSAL, 0, 0, 0, 0, False, now)
                self.broken = True
                break
        if self.closed:
            self.relay.kept_length = 0
            return 0
        if rider is not None and (rider.boarding or rider.locals):
            rider.send(unsent, start - unsent)
            rider.answer_locals()
            if lane is not None:
                unsent = start
        if lane is not None:
            if start < end:
                self._keep(held, start, end, end - start)
            self.recorder.end_batch()
            return 0
        if self.held_back:
            self._forward(unsent, start + self.passing - unsent)
            if not self.passing:
                self._send_bad_line_ends()
            if self.awaited and self.broken_bytes > self.relay.request_limit:
                return self._refuse_large()
        elif self.broken:
            self._forward(unsent, end - unsent)
        elif self.client.paused & HOLD:        # the rest waits
            self._forward(unsent, start - unsent)
            if start < end:
                self._keep(held, start, end, 0)
            if self.doubted and route.pending.length == 0:
                route.prove()
        elif start < end and framer.undecided():
            self._forward(unsent, start - unsent)
            if end - start > self.relay.request_limit and framer.inspected():
                return self._refuse_large()
            if end - start > self.relay.request_limit or \
                    (not framer.inspected() and (framer.odd or framer.body_left > self.relay.request_limit)):
                route.upstream.send(start, end - start)
                self.begun_at_home = True
            else:
                self._keep(held, start, end, end - start)
        else:
            self._forward(unsent, end - unsent)
            self.begun_at_home = start < end
        self.recorder.end_batch()
        if route.locals:
            route.answer_locals()
            if self.client.length > _UNREAD_BEFORE_LOGIN and self.relay.auth_required and not route.answered_well:
                self.close()
                return 0
            if self.client.length > _UNREAD_MAX:   # the engine has no part in these: nothing else slows the client down
                self.client.pause(BACKLOG)
        if route.upstream.length:
            self.client.pause(BACKLOG)
        return 0

    cdef int _resolve(self) except -1:
        """Nothing is in flight any more: what was doubted is looked at again, or asked about."""
        self.doubted = False
        if self.held is not None:
            self.held_parsed = 0
            self.requests.reset()
            return self._release()
        return 0

    cdef int _keep(self, bytearray held, const char* start, const char* end, Py_ssize_t parsed) except -1:
        """Keep [start, end) for what follows: in `held`, where they are all of it, or in a copy."""
        if held is not None and start == PyByteArray_AS_STRING(held) and end - start == PyByteArray_GET_SIZE(held):
            self.held = held
        else:
            self.held = bytearray(start[:end - start])
        self.held_parsed = parsed
        return 0

    cdef int _account(self) except -1:
        """Tell the worker how many bytes are kept here: requests that are not complete, or wait, and replies that the client does not read."""
        cdef size_t kept = self.client.length + (PyByteArray_GET_SIZE(self.held) if self.held is not None else 0)
        self.relay.kept_changed(<Py_ssize_t>kept - <Py_ssize_t>self.kept_bytes)
        self.kept_bytes = kept
        return 0

    cdef int _hold(self, const char* p, Py_ssize_t n) except -1:
        """Requests wait; the first of them is taken anew from its beginning."""
        self.held = bytearray(p[:n])
        self.held_parsed = 0
        self.requests.reset()
        return self.client.pause(HOLD)

    cdef int _forward(self, const char* p, Py_ssize_t n) except -1:
        """Send bytes on, behind those that were kept to go with them."""
        if self.relay.kept_length == 0:
            return self.route.upstream.send(p, n)
        self.relay.keep(p, n)
        self.route.upstream.send(self.relay.kept, self.relay.kept_length)
        self.relay.kept_length = 0
        return 0

    cdef int _refuse_large(self) except -1:
        """The request that has begun may not pass, nor anything behind it. First the engine answers those before it."""
        self.relay.strike(limits.REQUEST, self.peer)
        self.refused = True
        self.recorder.end_batch()
        self.client.pause(HOLD)
        self.route.answer_locals()
        return self._say_too_large() if self.route.pending.length <= self.awaited else 0

    cdef int _say_too_large(self) except -1:
        if not self.replies_off and not self.skip_next:
            self.client.send(_TOO_LARGE, len(_TOO_LARGE))
        return self._finish("client_gone")

    cdef int _release(self) except -1:
        """Go on with the requests that waited."""
        cdef bytearray held = self.held
        if self.closed:
            return 0
        if self.client_left:
            self.client.paused &= ~HOLD
        else:
            self.client.resume(HOLD)
        if held is not None and self.held_parsed == 0:
            self.held = None
            self._take(PyByteArray_AS_STRING(held), PyByteArray_GET_SIZE(held), now_ns())
            self._account()
        if self.client_left and not self.closed:
            self.client.pause(HOLD)
            self._depart()
        return 0

    # ---- what the route tells --------------------------------------------------------------------------------------------------

    cdef int deliver(self, const char* data, Py_ssize_t n) except -1:
        if n > 0:
            self.client.send(data, n)
            if self.client.length or self.kept_bytes:
                self._account()
        return 0

    cdef int answered(self) except -1:
        if self.client.length:
            self.route.upstream.pause(BACKLOG)
        if self.decided:
            self.decided = False
            if self.awaits_home:
                self._came_home()
            elif self.task is None and not self.crossing and not self.refused and self.client.paused & HOLD:
                self._release()
        if self.doubted and self.task is None and not self.crossing and self.route.pending.length == 0:
            self._resolve()
        if self.refused and not self.finished and self.route.pending.length <= self.awaited:
            return self._say_too_large()
        if self.client_left or self.client.failed:
            self._depart()
        return 0

    cdef int rode(self) except -1:
        if self.closed:
            return 0
        if self.client.length > self.relay.unread_limit > 0:
            self.relay.strike(limits.UNREAD, self.peer)
            self.close()                       # the lane cannot wait for it
            return 0
        if self.crossing and self.rider.pending.length == 0:
            self.crossing = False
            try:
                if self._at_home():
                    self._release()
            except Exception as error:         # it is not the lane's, nor its neighbours'
                self.relay.poller.fault(self, error)
                return 0
        if self.client_left or self.client.failed:
            self._depart()
        return 0

    cdef int behind(self) except -1:
        return self.client.pause(BACKLOG)

    cdef int follow(self) except -1:
        self.decided = True                    # but first the client gets what has arrived
        return 0

    cdef int taken(self) except -1:
        if self.closed:
            return 0
        self.client.resume(BACKLOG)
        if self.client_left:
            self._depart()
        return 0

    cdef int ended(self) except -1:
        return self._finish("client_gone" if self.client_left else "connection_lost")

    # ---- endings ---------------------------------------------------------------------------------------------------------------

    def stop(self):
        """Take no more requests. A replica goes on: its acknowledgements are what a shutdown waits for."""
        if self.route is None or not self.route.replica:
            self.client.pause(STOPPED)

    def go_on(self):
        """Take requests again."""
        self.client.resume(STOPPED)

    def _drained(self):
        if self.kept_bytes:
            self._account()
        if self.finished and self._has_all():
            self.close()
        elif self.finished:
            self.client.end()
        else:
            if self.route is not None:
                if self.route.upstream.paused & BACKLOG:
                    self.recorder.answered_ns = now_ns()        # no command is slow for a client that did not read
                self.route.upstream.resume(BACKLOG)
            if self.route is None or self.route.upstream.length == 0:
                self.client.resume(BACKLOG)
            if self.client.failed:
                self._depart()

    cdef int _depart(self) except -1:
        """The client has left. What was read from it is executed; a blocked call, a subscription, a stream end at once."""
        self.gone = self.client.failed
        if not self.client_left:
            self.client_left = True
            self.client.pause(HOLD)
        if self.closed or self.finished or self.task is not None or (self.rider is not None and self.rider.pending.length):
            return 0
        if self.route is not None and self.route.restoring and self.awaits_home:
            return 0
        if self.route is None:
            return self._finish("client_gone")
        # What follows a line end that the engine refuses is never answered, and under CLIENT REPLY SKIP not even that is.
        if self.broken or self.endless or self.route.raw or (self.requests.ever_odd and self.relay.strict) \
                or (self.route.settled() and self.requests.midway()):
            if self.route.upstream.length == 0:
                self.route.upstream.end()      # the engine answers what it has, be it with a refusal, and closes
        elif self.route.settled():
            if self.route.idle() or self.client.failed:
                return self._finish("client_gone")
            self.route.upstream.end()          # the engine drops the call that waits, or answers it, and closes
        return 0

    cdef int _finish(self, str error_type) except -1:
        """Nothing more will come from the engine: close when the client has what there is."""
        if self.closed or self.finished:
            return 0
        if self._has_all():
            self.close()
            return 0
        return self._linger(error_type)

    cdef bint _has_all(self) except -1:
        """Whether nothing is lost on the way to the client when its connection is closed now."""
        if self.client.failed:
            return True
        if self.client_left:                   # it sends nothing more that would be unread
            return self.client.length == 0
        return not self.refused and self.client.sent()

    cdef int _linger(self, str error_type) except -1:
        """Listen, until the client has all and leaves, so that no bytes are unread: the connection would be reset, and its last replies lost."""
        self.finished = True
        if self.timer is not None:
            self.timer.cancel()
        self._let_go(error_type)
        self.relay.check_quiet()
        self.client.end()
        self.timer = self.relay.loop.call_later(_LINGER_S, self.close)
        if not self.client_left:
            self.client.resume(HOLD | BACKLOG)
        return 0

    cdef int _let_go(self, str error_type) except -1:
        """Count what is in flight as lost, and have no part in any connection to the engine."""
        if self.task is not None:
            self.task.cancel()
            self.task = None
        if self.rider is not None:
            self.rider.abandon(error_type)
        if self.route is not None:
            self.route.forget(error_type)
            self.route.close()
        self.recorder.forget()
        return self._leave_group()

    def stalled(self, long long now):
        """How many commands are in flight that do not wait by nature, when the client has taken no reply for a while; else 0."""
        cdef long long commands = self.rider.pending.length if self.rider is not None else 0
        if self.client.length == 0 or now - self.active_ns < _STALLED_NS:
            return 0
        return commands if self.route is None else commands + self.route.pending.length - self.route.blocking

    def hung_up(self, channel):
        """While nobody reads, the client has gone; or the engine has cut the connection, and the client takes nothing.

        That client gets a last chance, and then makes room.
        """
        if channel is self.client:
            self.client.failed = True
            self._depart()
        elif self.timer is None and not self.closed:
            self.timer = self.relay.loop.call_later(_LINGER_S, self._give_up, self.active_ns)

    def _give_up(self, long long since_ns):
        self.timer = None
        if self.active_ns == since_ns:
            self.close()
        elif self.client.length:
            self.timer = self.relay.loop.call_later(_LINGER_S, self._give_up, self.active_ns)

    def close_if_idle(self, long long now, double timeout_s):
        """Close the session when `timeout_s` (0: never) have passed without a byte, or its departed client's commands were abandoned."""
        cdef long long idle = now - self.active_ns
        cdef bint spared = (self.route is not None and self.route.spared()) or (self.rider is not None and self.rider.pending.length)
        if timeout_s and idle > timeout_s * 1e9 and not spared:
            self.relay.strike(limits.IDLE, self.peer)
            self.close()
        elif self.client_left and idle > _ABANDONED_NS:
            self.close()

    def close(self):
        """Close both sides now. May be called twice."""
        if self.closed:
            return
        self.closed = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.client.close()
        self._let_go("client_gone" if self.client_left else "connection_lost")
        self.held = None
        self._account()
        self.relay.sessions.discard(self)
        if self.first_id:
            self.relay.by_first_id.pop(self.first_id, None)
        self.relay.upstreams_changed()
        self.relay.check_quiet()
        if self.relay.on_closed is not None:
            self.relay.on_closed(self)
        self.relay.loop.call_soon(self._part)  # not now: who has called may still use them

    def _part(self):
        """The routes know their owner: a session that knew its routes for ever would wait for the garbage collector."""
        self.route = None
        self.rider = None

    @property
    def kept(self):
        """Bytes of its requests and replies that are kept here."""
        return self.kept_bytes

    @property
    def age_s(self):
        """Since the client has connected."""
        return (now_ns() - self.connected_ns) // 1_000_000_000

    @property
    def idle_s(self):
        """Since the last byte from or to the client."""
        return (now_ns() - self.active_ns) // 1_000_000_000

    @property
    def last_command(self):
        """The name of the last command that the client sent, "" before the first."""
        return self.relay.table.names[self.last] if self.last else ""

    def listed_parked(self, form):
        """Its line in CLIENT LIST while it has no connection to the engine. form: of the lines, a LineForm."""
        cdef long long now = now_ns()
        if self.listed_form is not form or self.listed_last != self.last:      # nothing else can have changed since
            self.listed_head, self.listed_tail = form.around_times(self.fields())
            self.listed_form = form
            self.listed_last = self.last
        return aged_line(self.listed_head, (now - self.connected_ns) // 1_000_000_000, (now - self.active_ns) // 1_000_000_000, self.listed_tail)

    def fields(self):
        """What its line shows whatever connection it has, by the names of CLIENT LIST."""
        made = self.attributes if self.attributes is not None else Attributes()
        address = self.peer.encode()
        return {
            b"id": b"%d" % self.client_id,
            b"addr": address,
            b"laddr": self.local.encode(),
            b"fd": b"%d" % (self.client.sock.fileno() if self.client.sock is not None else -1),
            b"name": made.name,
            b"flags": true_flags(b"U", address),
            b"db": b"%d" % made.database,
            b"cmd": command_shown(self.last_command),
            b"user": made.user,
            b"resp": b"%d" % made.protocol,
            b"lib-name": made.library,
            b"lib-ver": made.library_version,
        }

    def shown(self):
        """What CLIENT LIST says of it that the engine cannot know: id, address, local address, age and idle time in seconds, last command."""
        cdef long long now = now_ns()
        return (self.client_id, self.peer, self.local, (now - self.connected_ns) // 1_000_000_000,
                (now - self.active_ns) // 1_000_000_000, self.last_command)
