"""A client session: what a client sends, request by request, and how it leaves.

Owns the client's connection and frames its requests, to know their names and which must be seen whole (`special.py` decides about those); the
lane or the home route carries them and brings the replies. Requests are framed even when replies are not followed any more, because some may
not pass to an engine that takes everybody for a local client. Nothing is decoded on the way.
"""

import inspect

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE

from sidecar.relay.channel cimport BACKLOG, HOLD, STOPPED, Channel
from sidecar.relay.commands cimport (
    BLOCKING, Command, DISCARD, EXEC, HELD, HELLO, KEEPS, MAYBE_BLOCKING, MONITOR, MULTI, NOTED_KIND, PINS, PLAIN, RESET, RIDES, SUBSCRIBE, TRACEPARENT,
    UNSUBSCRIBE, UNWATCH, WATCH, WRITES,
)
from sidecar.relay.framer cimport BROKEN, EMPTY, FRAME, MORE
from sidecar.relay.home cimport HomeRoute
from sidecar.relay.lane cimport Lane, Rider
from sidecar.relay.owner cimport ACCEPTED, INVALID, LARGE_BYTES, SYNTAX
from sidecar.relay.pending cimport (
    BLOCKS, CONFIRMATIONS, DEPARTURES, DISCARD_REPLY, EXEC_REPLY, HELLO_REPLY, MONITOR_REPLY, MULTI_REPLY, NOTED, REFUSAL, REPLY, RESET_REPLY, SUBSCRIPTION_SHIFT,
    UNWATCH_REPLY, WATCH_REPLY,
)
from sidecar.relay.recorder cimport Recorder
from sidecar.relay.request_framer cimport HELD_MAX, RequestFramer, says_block
from sidecar.relay.routing cimport Routed
from sidecar.relay.shared cimport Relay, now_ns
from sidecar.relay.tls_stream cimport TlsStream
from telemetry.spans cimport Identity, Unit

from sidecar.relay.context import BAD_SYNTAX, INVALID_CONTEXT, parse
from sidecar.relay.notes import changes
from sidecar.relay.plan import FAILED_PLAN, SILENT_PLAN, arguments, encode
from sidecar.relay.request_framer import split_inline

cdef long long _BROKEN_MAX = 128 * 1024        # bytes forwarded after a framing error: more than the engine reads before it refuses
cdef size_t _UNREAD_MAX = 1024 * 1024          # of our own answers, that a client does not read
cdef double _LINGER_S = 5.0                    # for the last bytes to a client that reads slowly, once the engine has closed
cdef long long _ABANDONED_NS = 60_000_000_000  # without a reply, after the client has left
cdef long long _STALLED_NS = 1_000_000_000     # without a byte, while a reply waits for its client
cdef Py_ssize_t _RIDING_MAX = 256              # commands in flight on a lane: deeper pipelines are as fast at home
cdef size_t _UNREAD_RIDING_MAX = 1 << 30       # bytes of their replies that a client does not read

cdef bytes _BAD_LINE_ENDS = b"*1\r\n$1\r\nx??*?\r\n"    # an engine that does not look at line ends refuses the count
cdef bytes _UNKNOWN = b"*1\r\n$11\r\nTRACEPARENT\r\n"    # the engine refuses it, and nobody hears
cdef bytes _TOO_LARGE = b"-ERR Protocol error: too large a request for a command that is inspected\r\n"


cdef class Session(Routed):
    """One client. sock: its connected socket; peer, local: its two addresses as text; transport: "tcp" or "unix"; tls: where it speaks TLS."""

    def __init__(self, Relay relay not None, sock, str peer, str local, str transport, bint is_local, TlsStream tls=None):
        self.relay = relay
        self.is_tls = tls is not None
        self.peer = peer
        self.local = local
        self.transport = transport
        self.is_local = is_local
        host, _, port = peer.rpartition(":")
        self.who = Identity(host.strip("[]"), int(port), transport)
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
            now = now_ns()
            self.active_ns = now
            self._take(self.relay.buffer, n, now)
        elif n != -1:
            self.client_left = True
            self.client.pause(HOLD)
            if n == -2:
                self.client.failed = True
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
            if self.broken_bytes > _BROKEN_MAX:    # the engine should have refused long ago
                self.client.pause(HOLD)
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
                        and rider.pending.length < _RIDING_MAX:
                    self.recorder.request(start, p, framer.first, framer.first_length,
                                          framer.container.id if framer.container != NULL else 0)
                    rider.expect(command.id, framer.argc - 1, framer.size, now)
                    if command.route & WRITES and rider.wrote is not lane:
                        rider.write_by(lane)
                    self.last = command.id
                    start = p
                    continue
                if framer.event == EMPTY:
                    start = p
                    continue
                if framer.event == FRAME and command != NULL and command.kind == TRACEPARENT and not framer.is_inline:
                    rider.send(unsent, start - unsent)
                    unsent = p
                    self._trace_context(arguments(start[:p - start]), now, rider)
                    start = p
                    continue
                if framer.event == MORE and end - start <= LARGE_BYTES and framer.body_left <= LARGE_BYTES:
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
                    if command.route & (PINS | KEEPS):
                        self._mark(command.route)
                    route.expect(REPLY, command.id, 0, framer.argc - 1, framer.size, False, now)
                elif command != NULL and command.kind == TRACEPARENT and not framer.is_inline and not route.raw and not route.unmeasured:
                    self.relay.keep(unsent, start - unsent)
                    unsent = p
                    self._trace_context(arguments(start[:p - start]), now, None)
                elif framer.is_inline or (command != NULL and command.kind == HELD):
                    self._forward(unsent, start - unsent)
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
            elif framer.event == BROKEN and framer.cut:
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
                self.held = bytearray(start[:end - start])
                self.held_parsed = end - start
            self.recorder.end_batch()
            return 0
        if self.broken:
            self._forward(unsent, end - unsent)
        elif self.client.paused & HOLD:        # the rest waits
            self._forward(unsent, start - unsent)
            if start < end:
                self.held = bytearray(start[:end - start])
                self.held_parsed = 0
        elif start < end and framer.undecided():
            self._forward(unsent, start - unsent)
            if end - start > HELD_MAX and framer.inspected():
                return self._refuse_large()
            if end - start > HELD_MAX:
                route.upstream.send(start, end - start)
                self.begun_at_home = True
            else:
                self.held = bytearray(start[:end - start])
                self.held_parsed = end - start
        else:
            self._forward(unsent, end - unsent)
            self.begun_at_home = start < end
        self.recorder.end_batch()
        if route.locals:
            route.answer_locals()
            if self.client.length > _UNREAD_MAX:   # the engine has no part in these: nothing else slows the client down
                self.client.pause(BACKLOG)
        if route.upstream.length:
            self.client.pause(BACKLOG)
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

    cdef int _trace_context(self, list args, long long now, Rider rider) except -1:
        """TRACEPARENT, which the engine never sees. args: None when its line ends are wrong; rider: None at home."""
        cdef Unit* unit = NULL
        cdef int answer = ACCEPTED
        cdef bytes trace_id, parent_id, state
        cdef long long count = 0
        context = parse(args[1:]) if args is not None else INVALID_CONTEXT
        if context is INVALID_CONTEXT:
            answer = INVALID
        elif context is BAD_SYNTAX:
            answer = SYNTAX
        elif context is not None and self.relay.tracer.enabled:
            trace_id, parent_id, trace_flags, state, count = context
            unit = self.relay.tracer.below(trace_id, parent_id, trace_flags, state, len(state))
        self.recorder.give_context(unit, count)
        self.relay.ledger.count("trace.contexts", "accepted" if answer == ACCEPTED else "invalid")
        if self.replies_off:
            return 0
        if self.skip_next:                     # the engine skips the reply to what comes next: to nothing but this
            self.skip_next = False
            return self.relay.keep(_UNKNOWN, len(_UNKNOWN))
        return rider.expect_local(answer, now) if rider is not None else self.route.expect_local(answer, now)

    cdef int _refuse_large(self) except -1:
        self.relay.kept_length = 0
        self.client.send(_TOO_LARGE, len(_TOO_LARGE))
        self.close()
        return 0

    cdef int _request(self, const char* start, const char* end, long long now) except -1:
        """A complete request that is not a plain one. Inline and HELD ones have not been forwarded yet."""
        cdef RequestFramer framer = self.requests
        cdef const Command* command
        cdef HomeRoute route = self.route
        cdef bint silent = self.replies_off or self.skip_next
        cdef Py_ssize_t identifier
        cdef list args = None
        cdef bytes request
        cdef const char* first = NULL
        cdef int kind, awaiting = REPLY, flags = 0
        cdef long long argc
        if framer.is_inline:
            request = start[:end - start]
            if b"\0" in request:               # Valkey looks for the line's end no further than that, and waits
                self.endless = True
            args = split_inline(request)
            if args is None:
                route.expect(REFUSAL, 0, 0, 0, 0, False, now)
                self.broken = True
                route.upstream.send(start, end - start)
                return 0
            if not args:                       # an empty line
                self.skip_next = False
                route.upstream.send(start, end - start)
                return 0
            framer.inline_command(args[0], args[1] if len(args) > 1 else None)
            framer.argc = len(args)
            if len(args) > 1:
                first = args[1]
            self.recorder.request(NULL, NULL, first, len(args[1]) if len(args) > 1 else 0,    # an inline request shows no key
                                   framer.container.id if framer.container != NULL else 0)
        command = framer.command
        kind = command.kind if command != NULL else <int>PLAIN
        identifier = self.last = command.id if command != NULL else 0
        if command != NULL and command.route & (PINS | KEEPS):
            self._mark(command.route)
        argc = framer.argc - 1
        if argc and (kind == MULTI or kind == EXEC or kind == DISCARD or kind == RESET or kind == MONITOR):
            kind = PLAIN                       # the engine refuses it for its arguments
        if route.pending.length == 0:          # what was refused has changed nothing
            self.requesting_multi = route.transaction is not None
        if kind == TRACEPARENT and not route.raw and not route.unmeasured:
            return self._trace_context(args, now, None)
        if kind == HELD:
            request = start[:end - start]
            if args is None:
                args = arguments(request)
            if args is None:                   # it must not be mended on its way
                route.expect(REFUSAL, 0, 0, 0, 0, False, now)
                self.broken = True
                return route.upstream.send(_BAD_LINE_ENDS, len(_BAD_LINE_ENDS))
            return self._inspect(request, identifier, args, now)
        if framer.is_inline:
            route.upstream.send(start, end - start)
        if (kind == NOTED_KIND or kind == HELLO) and not route.raw and not route.unmeasured:
            change = None
            if args is not None:
                change = changes(args)
            elif framer.size == end - start:
                change = changes(arguments(start[:end - start]))
            if change or argc or kind != HELLO:
                route.pending.add_note(change or None)     # None: what it changes is not known
                flags = NOTED
        if kind == BLOCKING:
            flags = BLOCKS
        elif kind == MAYBE_BLOCKING:
            if args is not None:
                request = encode(args)
                if says_block(request, <const char*>request + len(request)):
                    flags = BLOCKS
            elif framer.size != end - start or says_block(start, end):    # its beginning may have been too long to be kept
                flags = BLOCKS
        elif kind == MULTI:
            awaiting = MULTI_REPLY
            self.requesting_multi = True
        elif kind == EXEC or kind == DISCARD:
            awaiting = EXEC_REPLY if kind == EXEC else DISCARD_REPLY
            self.requesting_multi = False
        elif kind == RESET:
            awaiting = RESET_REPLY
            self.requesting_multi = False
            self.replies_off = False
            silent = self.skip_next            # OFF ends before its reply, SKIP after it
        elif kind == SUBSCRIBE or kind == UNSUBSCRIBE:
            awaiting = CONFIRMATIONS if kind == SUBSCRIBE else DEPARTURES
            flags = command.subscription << SUBSCRIPTION_SHIFT
            if silent:                                 # its confirmations come nevertheless
                return route.unfollow("subscribe_without_replies", now)
            if self.requesting_multi:                  # EXEC's reply will have more elements than it says
                return route.unfollow("subscribe_in_transaction", now)
        elif kind == MONITOR:
            awaiting = MONITOR_REPLY
            if route.monitor and not route.resetting and not self.requesting_multi:
                silent = True                  # the engine has no word for who is one already
            elif route.monitor or route.monitoring:
                return route.unfollow("monitor_twice", now)
        elif kind == HELLO:
            awaiting = HELLO_REPLY
        elif kind == WATCH:
            awaiting = WATCH_REPLY
        elif kind == UNWATCH:
            awaiting = UNWATCH_REPLY
        self.skip_next = False
        return route.expect(awaiting, identifier, flags, argc, framer.size, silent, now)

    def unfollow(self, str reason):
        """The request being inspected, and what follows it, may be answered in a way that cannot be known."""
        self.route.unfollow(reason, now_ns())

    def reply_mode(self, str mode):
        """CLIENT REPLY has been asked for: on, off or skip."""
        self.mode_asked = True
        if self.requesting_multi:              # it takes effect in the middle of EXEC
            return
        if mode == "on":
            self.replies_off = self.skip_next = False
        elif mode == "off":
            self.replies_off = True
            self.skip_next = False
        elif not self.replies_off:
            self.skip_next = True

    cdef int _inspect(self, bytes request, Py_ssize_t command, list args, long long now) except -1:
        """Ask what becomes of a request that is here as a whole."""
        cdef str name = self.relay.table.names[command]
        if self.route.raw or self.route.unmeasured:        # nobody will see the reply: what must not pass is made harmless
            answer = self.relay.special.unfollowed(self, name, args)
            if answer is not None:
                request = answer
            return self.route.upstream.send(request, len(request))
        answer = self.relay.special(self, name, args, request)
        if inspect.isawaitable(answer):
            self.client.pause(HOLD)
            self.task = self.relay.poller.start_task(self, self._apply_later(answer, request, command, now))
            return 0
        return self._apply(answer, request, command, now)

    async def _apply_later(self, awaitable, bytes request, Py_ssize_t command, long long now):
        try:
            plan = await awaitable
        except Exception:
            plan = FAILED_PLAN
        self.task = None
        if not self.closed:
            self._apply(plan, request, command, now)
            self.recorder.end_batch()
            if plan is None or not plan.sync:
                self._release()

    cdef int _apply(self, object plan, bytes request, Py_ssize_t command, long long now) except -1:
        cdef HomeRoute route = self.route
        cdef bint silent = self.replies_off or self.skip_next      # CLIENT REPLY has just set them, if it was that
        if not self.mode_asked:
            self.skip_next = False
        self.mode_asked = False
        if plan is None:
            route.expect(REPLY, command, 0, 0, len(request), silent, now)
        elif plan is SILENT_PLAN:
            if self.requesting_multi:          # queued, and EXEC's reply will have no place for it
                route.unfollow("no_reply_in_transaction", now)
            route.expect(REPLY, command, 0, 0, len(request), True, now)
        else:
            if plan.sync and (silent or route.monitor or route.monitoring or route.blocking):
                route.unfollow("sync_without_reply", now)      # whether it has a reply, or when, cannot be known
            route.expect_planned(plan, command, len(request), silent, now)
            if plan.request is not None:
                request = plan.request
            if plan.sync and not route.unmeasured:
                self.client.pause(HOLD)        # what follows is a command, or the replication stream
        return route.upstream.send(request, len(request))

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
        if self.client_left and not self.closed:
            self.client.pause(HOLD)
            self._depart()
        return 0

    # ---- what the route tells --------------------------------------------------------------------------------------------------

    cdef int deliver(self, const char* data, Py_ssize_t n) except -1:
        if n > 0:
            self.client.send(data, n)
        return 0

    cdef int answered(self) except -1:
        if self.client.length:
            self.route.upstream.pause(BACKLOG)
        if self.decided:
            self.decided = False
            if self.awaits_home:
                self._came_home()
            elif self.task is None and not self.crossing and self.client.paused & HOLD:
                self._release()
        if self.client_left or self.client.failed:
            self._depart()
        return 0

    cdef int rode(self) except -1:
        if self.closed:
            return 0
        if self.client.length > _UNREAD_RIDING_MAX:
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
        if self.finished:
            self.close()
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
        if self.closed or self.task is not None or (self.rider is not None and self.rider.pending.length):
            return 0
        if self.route is not None and self.route.restoring and self.awaits_home:
            return 0
        if self.route is None:
            return self._finish("client_gone")
        if self.broken or self.endless or self.route.raw or (self.route.settled() and self.requests.midway()):
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
        if self.client.length == 0 or self.client.failed:
            self.close()
            return 0
        self.finished = True
        if self.timer is not None:
            self.timer.cancel()
        self.client.pause(HOLD)
        self._let_go(error_type)
        self.relay.check_quiet()
        self.timer = self.relay.loop.call_later(_LINGER_S, self.close)
        return 0

    cdef int _let_go(self, str error_type) except -1:
        """Count what is in flight as lost, and have no part in any connection to the engine."""
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
        if (timeout_s and idle > timeout_s * 1e9 and not spared) or \
                (self.client_left and idle > _ABANDONED_NS):
            self.close()

    def close(self):
        """Close both sides now. May be called twice."""
        if self.closed:
            return
        self.closed = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.task is not None:
            self.task.cancel()
            self.task = None
        self.client.close()
        self._let_go("client_gone" if self.client_left else "connection_lost")
        self.held = None
        self.relay.sessions.discard(self)
        self.relay.upstreams_changed()
        self.relay.check_quiet()
        if self.relay.on_closed is not None:
            self.relay.on_closed(self)

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
