"""Requests that are not plain ones on their way home: what is expected of each, and what becomes of those that are seen whole.

Owns what requests have changed of how later ones are answered (CLIENT REPLY, MULTI), and how much is kept of one that the engine refuses at a header.
Which requests must be seen whole says the command table, and `special.py` decides about them. It reads no socket and frames nothing.
"""

import inspect
from functools import partial

from sidecar.relay.channel cimport HOLD
from sidecar.relay.commands cimport (
    BLOCKING, Command, DISCARD, EXEC, HELD, HELLO, LACKS, MAYBE_BLOCKING, MONITOR, MULTI, NOTED_KIND, PINS, PLAIN, RESET, SUBSCRIBE, TRACEPARENT,
    UNSUBSCRIBE, UNWATCH, WATCH,
)
from sidecar.relay.flight cimport LOGGED_IN, STRANGER
from sidecar.relay.framer cimport MORE
from sidecar.relay.headers cimport barred_at
from sidecar.relay.home cimport HomeRoute
from sidecar.relay.lane cimport Rider
from sidecar.relay.owner cimport ACCEPTED, INVALID, SYNTAX
from sidecar.relay.pending cimport (
    BLOCKS, CONFIRMATIONS, DEPARTURES, DISCARD_REPLY, EXEC_REPLY, HELLO_REPLY, MONITOR_REPLY, MULTI_REPLY, NOTED, PLANNED, REFUSAL, REPLY, RESET_REPLY, SUBSCRIPTION_SHIFT,
    UNWATCH_REPLY, WATCH_REPLY,
)
from sidecar.relay.request_framer cimport RequestFramer, says_block
from sidecar.relay.routing cimport Routed
from sidecar.relay.shared cimport now_ns
from telemetry.spans cimport Unit

from sidecar.relay.context import BAD_SYNTAX, INVALID_CONTEXT, parse
from sidecar.relay.attributes import with_id
from sidecar.relay.notes import changes
from sidecar.relay.plan import FAILED_PLAN, SILENT_PLAN, Plan, arguments, encode
from sidecar.relay.request_framer import split_inline

cdef long long _BULK_MAX = 512 << 20            # proto-max-bulk-len, unless somebody has set it
cdef Py_ssize_t _DOUBTED_MAX = 256 * 1024      # kept for a client that may have to log in first, while a call of its may wait by nature

cdef bytes _BAD_LINE_ENDS = b"*1\r\n$1\r\nx??*?\r\n"    # an engine that does not look at line ends refuses the count
cdef bytes _UNKNOWN = b"*1\r\n$11\r\nTRACEPARENT\r\n"    # the engine refuses it, and nobody hears


cdef class Requests(Routed):
    """A session frames its requests and hands over those that are meant here."""

    cdef bint _halts(self, const char* start, const char* end) except -1:
        """Whether a request that must be seen whole goes no further now: a header makes the engine refuse it (`held_back`), or may (HOLD)."""
        cdef RequestFramer framer = self.requests
        cdef Py_ssize_t at = self._refused_at(start, end)
        cdef bint ends_wrongly = framer.event == MORE and framer.odd and framer.inspected() and (self.relay.strict or not framer.naming)
        if self.doubted:
            if self.client.paused & HOLD:
                framer.reset()                 # the request is framed again then
            return self.client.paused & HOLD
        if at == 0 and not ends_wrongly:
            return False
        self.route.expect(REFUSAL, 0, 0, 0, 0, False, now_ns())
        self.broken = self.held_back = True
        self.broken_bytes = end - start
        self.passing = at
        return True

    cdef Py_ssize_t _refused_at(self, const char* start, const char* end) except -1:
        """Where the header ends that nothing of this request may follow, in bytes from its start; 0: there is no such header.

        The header announces an argument that is too large for us; the engine refuses it too, or waits for the rest (`awaited`). Or the engine refuses
        it before login. If the engine hasn't said yet whether the client must log in, the request is `doubted` and the client waits, unless one of its
        calls waits by nature: the client may leave meanwhile.
        """
        cdef HomeRoute route = self.route
        cdef RequestFramer framer = self.requests
        cdef Py_ssize_t at = 0
        self.doubted = False
        if route.resetting or not (route.answered_well or route.standing == LOGGED_IN):
            at = barred_at(start, end)
        if at and (route.standing == STRANGER or route.raw):
            return at
        if at and not self.replies_off and not self.skip_next:     # else there is no reply to ask for; and a refusal makes the session raw
            self.doubted = True
            if not route.blocking or end - start > _DOUBTED_MAX:
                self.client.pause(HOLD)
            return 0
        if framer.event == MORE and framer.inspected() and framer.body_left > 0 and framer.body_length > self.relay.request_limit:
            self.awaited = framer.body_length <= _BULK_MAX
            return end - start - (framer.body_length + 2 - framer.body_left)
        return 0

    cdef int _trace_context(self, list args, long long now, Rider rider) except -1:
        """TRACEPARENT, which the engine never sees. rider: None at home."""
        cdef Unit* unit = NULL
        cdef int answer = ACCEPTED
        cdef bytes trace_id, parent_id, state
        cdef long long count = 0
        context = parse(args[1:])
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
        if command != NULL and command.route & (PINS | LACKS):
            self._mark(command.route)
        argc = framer.argc - 1
        if argc and (kind == MULTI or kind == EXEC or kind == DISCARD or kind == RESET or kind == MONITOR):
            kind = PLAIN                       # the engine refuses it for its arguments
        if route.pending.length == 0:          # what was refused has changed nothing
            self.requesting_multi = route.transaction is not None
        if framer.odd and kind >= TRACEPARENT:     # it must not be mended on its way
            route.expect(REFUSAL, 0, 0, 0, 0, False, now)
            self.broken = True
            return self._send_bad_line_ends()
        if kind == TRACEPARENT and not route.raw and not route.unmeasured:
            return self._trace_context(args, now, None)
        if kind == HELD:
            request = start[:end - start]
            if args is None:
                args = arguments(request)
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
            if self.first_id and not silent and not route.raw and not route.unmeasured:
                flags |= PLANNED
                route.pending.add_plan(Plan(transform=partial(with_id, client_id=self.first_id), cosmetic=True))
                route.planned += 1
        elif kind == WATCH:
            awaiting = WATCH_REPLY
        elif kind == UNWATCH:
            awaiting = UNWATCH_REPLY
        self.skip_next = False
        return route.expect(awaiting, identifier, flags, argc, framer.size, silent, now)

    cdef int _send_bad_line_ends(self) except -1:
        """In the place of a request that has some: the engine refuses this, whichever version it is."""
        return self.route.upstream.send(_BAD_LINE_ENDS, len(_BAD_LINE_ENDS))

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
            self.task = self.relay.poller.start_task(self, self._apply_later(answer, request, command, now), answer)
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
