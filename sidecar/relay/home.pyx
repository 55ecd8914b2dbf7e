"""The home route: one connection to the engine for one client session.

Owns the commands in flight and matches replies to them: transactions, subscriptions, pushes, replies that a plan transforms. Every byte goes
on as it came, but for those replies. What it cannot match it stops measuring (`raw`). It never sees a request and never talks to the client.
"""

import inspect
from collections import deque

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from libc.string cimport memcmp

from sidecar.relay.channel cimport HOLD, Channel
from sidecar.relay.framer cimport ARRAY, BIG_ERROR, BROKEN, ERROR, FRAME, HEADER, MAP, MORE, PUSH, SET, STATUS
from sidecar.relay.pending cimport (
    BLOCKS, CONFIRMATIONS, DEPARTURES, DISCARD_REPLY, ENDS, EXEC_REPLY, HELLO_REPLY, MONITOR_REPLY, MULTI_REPLY, OPENS, PLANNED, Pending, PendingQueue,
    REFUSAL, REPLY, RESET_REPLY, SILENT, SUBSCRIPTION_SHIFT, SYNC_REPLY, UNMEASURED,
)
from sidecar.relay.reply_framer cimport ReplyFramer
from sidecar.relay.shared cimport Relay, now_ns
from telemetry import lookups
from telemetry.ledger cimport Ledger, Row

cdef enum:         # telemetry/lookups.py
    NIL_RULE = 1
    EMPTY_RULE = 2
    ZERO_RULE = 3
    EACH_RULE = 4
    ARGUMENTS_RULE = 5

if (NIL_RULE, EMPTY_RULE, ZERO_RULE, EACH_RULE, ARGUMENTS_RULE) != \
        (lookups.NIL, lookups.EMPTY, lookups.ZERO, lookups.EACH, lookups.ARGUMENTS):
    raise ImportError("the rules of telemetry.lookups have other numbers in sidecar.relay.home")

cdef Py_ssize_t _PENDING_MAX = 2_000_000       # commands in flight in one session: 48 MB; beyond it the session goes raw

cdef dict _MESSAGES = {
    b"message": 1, b"pmessage": 1, b"smessage": 1,
    b"subscribe": 2, b"unsubscribe": 3, b"psubscribe": 4, b"punsubscribe": 5, b"ssubscribe": 6, b"sunsubscribe": 7,
}


cdef class Owner:
    """A session overrides every method; home.pxd says what each is told."""

    cdef int deliver(self, const char* data, Py_ssize_t n) except -1:
        return 0

    cdef int answered(self) except -1:
        return 0

    cdef int follow(self) except -1:
        return 0

    cdef int taken(self) except -1:
        return 0

    cdef int ended(self) except -1:
        return 0


cdef class HomeRoute:
    """sock: connected to the engine. The owner sends requests through `upstream` and says with `expect` what each will be answered by."""

    def __init__(self, Relay relay not None, Owner owner not None, sock):
        self.relay = relay
        self.owner = owner
        self.replies = ReplyFramer()
        self.pending = PendingQueue()
        self.upstream = Channel(relay.poller, owner, sock, self._readable, self._drained)

    # ---- what is in flight -----------------------------------------------------------------------------------------------------

    cdef int expect(self, int awaiting, Py_ssize_t command, int flags, long long expected, long long size, bint silent, long long now) except -1:
        """A request was, or is about to be, forwarded. expected: its arguments after the name; silent: CLIENT REPLY holds its reply back."""
        cdef Pending* entry
        if self.raw or (self.unmeasured and awaiting != UNMEASURED):
            return 0
        if self.pending.length >= _PENDING_MAX and awaiting != UNMEASURED:
            return self.unfollow("too_many_in_flight", now)
        entry = self.pending.push()
        entry.at_ns = now
        entry.size = size
        entry.expected = <int>expected if expected < 2000000000 else 2000000000
        entry.command = <unsigned short>command
        entry.awaiting = <unsigned char>awaiting
        entry.flags = <unsigned char>flags
        if awaiting == MONITOR_REPLY:
            self.monitoring += not silent
        elif awaiting == RESET_REPLY:
            self.resetting += not silent
        if silent and awaiting < REFUSAL:
            if awaiting == MULTI_REPLY:
                entry.flags |= OPENS
            elif awaiting == EXEC_REPLY or awaiting == DISCARD_REPLY:
                entry.flags |= ENDS
            elif awaiting == RESET_REPLY:
                entry.flags |= OPENS | ENDS
            entry.awaiting = SILENT
        self.relay.in_flight += 1
        if flags & BLOCKS:
            self.blocking += 1
            self.relay.blocking += 1
        if entry.awaiting >= SILENT and self.pending.length == 1:
            self._unanswered()
        return 0

    cdef int expect_planned(self, object plan, Py_ssize_t command, long long size, bint silent, long long now) except -1:
        """The same for a request with a plan."""
        cdef int flags = BLOCKS if plan.sync else 0    # a replica's copy may be a long time coming
        if plan.transform is not None and not silent and not self.unmeasured and not self.raw:
            flags |= PLANNED
            if self.plans is None:
                self.plans = deque()
            self.plans.append(plan)
            self.planned += 1
        return self.expect(SYNC_REPLY if plan.sync else REPLY, command, flags, 0, size, silent, now)

    cdef int unfollow(self, str reason, long long now) except -1:
        """The replies to what follows cannot be matched: raw, once those in flight are there."""
        if self.unmeasured or self.raw:
            return 0
        self.unmeasured = True
        self.relay.ledger.count("sessions.raw", reason)
        return self.expect(UNMEASURED, 0, 0, 0, 0, False, now)

    cdef bint streaming(self) noexcept:
        """Bytes may come at any time, without a command."""
        return self.raw or self.monitor or self.subscription_sum != 0 or self.shard_sum != 0

    cdef bint settled(self) noexcept:
        """Everything that was forwarded has been executed, or waits by nature."""
        cdef Pending* front = self.pending.front()
        return self.task is None and not self.raw and self.upstream.length == 0 and (front == NULL or front.flags & BLOCKS or self.silent_block)

    cdef bint idle(self) noexcept:
        """Nothing that was forwarded can still be answered."""
        return self.pending.length == 0 and not self.silent_block

    cdef bint spared(self) noexcept:
        """Whether Valkey's `timeout` does not concern this session now."""
        return self.streaming() or self.pending.length or self.upstream.length or self.silent_block

    cdef int close(self) except -1:
        """Close the connection. What is in flight must have been forgotten."""
        self.closed = True
        if self.task is not None:
            self.task.cancel()
            self.task = None
        self.upstream.close()
        self.collected = self.stash = None
        return 0

    # ---- replies ---------------------------------------------------------------------------------------------------------------

    def _readable(self):
        cdef Py_ssize_t n = self.upstream.receive(self.relay.buffer, self.relay.buffer_size)
        cdef long long now
        if n > 0:
            now = now_ns()
            self.owner.active_ns = now
            self._take(self.relay.buffer, n, now)
        elif n != -1:
            self.owner.ended()

    def _drained(self):
        self.owner.taken()

    cdef int _take(self, const char* data, Py_ssize_t n, long long now) except -1:
        cdef const char* p = data
        cdef const char* end = data + n
        cdef const char* unsent = data
        cdef const char* began
        cdef ReplyFramer framer = self.replies
        cdef Pending* front
        cdef bint sent = False
        cdef bytes whole
        if self.raw or (self.planned == 0 and (self.pending.length == 0 or self.pending.front().awaiting != SYNC_REPLY)):
            self.owner.deliver(data, n)
            sent = True
        while p < end and not self.raw and not self.closed:
            front = self.pending.front()
            if framer.type == 0 and framer.size == 0 or framer.event != MORE:
                framer.descend = front != NULL and front.awaiting == EXEC_REPLY and self.executing == 0
                if front != NULL and front.awaiting == SYNC_REPLY:
                    while p < end and p[0] == 10:      # the engine's sign of life while it prepares
                        p += 1
                    if p == end:
                        break
                    if p[0] != ERROR:
                        if self.relay.ledger.enabled:
                            self.relay.ledger.reply(front.command, now - front.at_ns, front.size, 0)
                        self.replica = True
                        self._go_raw("replication")
                        break
            began = p
            p = framer.next(p, end)
            if framer.event == BROKEN:
                self._go_raw("reply_not_understood")
                break
            if sent:
                if framer.event == FRAME or framer.event == HEADER:
                    self._frame(now)
                continue
            # Something in flight needs its reply collected.
            plan = self._plan()
            if plan is None or framer.event == HEADER:
                if framer.event == FRAME or framer.event == HEADER:
                    self._frame(now)
                continue
            self.owner.deliver(unsent, began - unsent)
            unsent = p
            if self.collected is None:
                self.collected = bytearray()
            self.collected += began[:p - began]
            if framer.event == MORE:
                continue
            whole = bytes(self.collected)
            self.collected = None
            if self._out_of_band() or (self.in_multi and self.executing == 0 and framer.type == STATUS and whole == b"+QUEUED\r\n"):
                self.owner.deliver(whole, len(whole))
                self._frame(now)
                continue
            answer = whole if plan.cosmetic and self.owner.gone else plan.transform(whole)
            if inspect.isawaitable(answer):
                self._frame(now)
                self.upstream.pause(HOLD)
                self.stash = bytearray(p[:end - p])
                self.task = self.relay.poller.start_task(self.owner, self._answer_later(answer, whole))
                return 0
            self.owner.deliver(answer, len(answer))
            self._frame(now)
        if self.closed:
            return 0
        if not sent:
            self.owner.deliver(unsent, end - unsent)
        self.relay.check_quiet()
        return self.owner.answered()

    async def _answer_later(self, awaitable, bytes reply):
        cdef bytearray stash
        try:
            answer = await awaitable
        except (TimeoutError, ConnectionError):     # who is who is not known now
            answer = reply
        self.task = None
        if self.closed:
            return
        self.owner.deliver(answer, len(answer))
        stash = self.stash
        self.stash = None
        if stash:
            self._take(PyByteArray_AS_STRING(stash), PyByteArray_GET_SIZE(stash), now_ns())
        if not self.closed and self.task is None:
            self.upstream.resume(HOLD)
            self.relay.check_quiet()
            self.owner.answered()

    cdef object _plan(self):
        """The plan of the reply that comes next."""
        cdef Pending* front
        if self.executing:
            front = self.queued.front()
            return self.queued_plans[0] if front != NULL and front.flags & PLANNED else None
        front = self.pending.front()
        return self.plans[0] if front != NULL and front.flags & PLANNED else None

    cdef bint _out_of_band(self):
        """Whether the frame is no reply: a push, a monitor line, a message in RESP2."""
        cdef ReplyFramer framer = self.replies
        if framer.type == PUSH or self._is_monitor_line():
            return True
        return framer.type == ARRAY and self._in_pubsub() and self._message_kind() == 1

    cdef bint _is_monitor_line(self) noexcept:
        """Whether the frame is a command of somebody's, with its time before it."""
        cdef ReplyFramer framer = self.replies
        return self.monitor and framer.type == STATUS and framer.head_length > 0 and 48 <= framer.head[0] <= 57

    cdef bint _in_pubsub(self) noexcept:
        """Whether an array may be a message or a confirmation."""
        cdef Pending* front = self.pending.front()
        if front != NULL:
            if front.awaiting == CONFIRMATIONS or front.awaiting == DEPARTURES:
                return True
            if self.pushes:
                return False
        return self.subscription_sum != 0 or self.shard_sum != 0

    def _message_kind(self):
        """Of a frame in the manner of pub/sub: 1 message; 2, 3 (un)subscribe; 4, 5 (un)psubscribe; 6, 7 s(un)subscribe; 0 no such."""
        return _MESSAGES.get(self.replies.first[:self.replies.first_length], 0)

    cdef int _frame(self, long long now) except -1:
        """A frame, or the header of EXEC's reply, is complete."""
        cdef ReplyFramer framer = self.replies
        cdef Pending* front = self.pending.front()
        cdef Pending* entry
        cdef int kind
        if framer.event == HEADER:
            if framer.count != (self.queued.length if self.queued is not None else 0):
                return self._go_raw("transaction_mismatch")
            self.executing = framer.count
            self.header_size = framer.size
            return self._complete(now) if self.executing == 0 else 0
        if framer.type == PUSH or (framer.type == ARRAY and self._in_pubsub()):
            kind = self._message_kind()
            if kind:
                self.pushes = framer.type == PUSH
            if kind > 1:
                return self._confirmation(kind, now)
            if kind == 1 or framer.type == PUSH:
                return 0
        if self._is_monitor_line():
            return 0
        if self.executing:
            entry = self.queued.front()
            entry.at_ns = 0
            self._count(entry, now)
            if entry.flags & PLANNED:
                self.queued_plans.popleft()
                self.planned -= 1
            self.queued.pop()
            self.executing -= 1
            if self.executing:
                return 0
            framer.type = ARRAY                # EXEC itself: the array, whatever its last element was
            framer.size = self.header_size
            return self._complete(now)
        if front == NULL:
            return self._go_raw("reply_without_request")
        return self._complete(now)

    cdef int _confirmation(self, int kind, long long now) except -1:
        """The engine says that a subscription began or ended."""
        cdef Pending* front = self.pending.front()
        cdef int which = (kind - 2) >> 1
        cdef bint begins = (kind & 1) == 0
        cdef long long before = self.shard_sum if which == 2 else self.subscription_sum
        cdef long long after = self.replies.integer
        cdef bint expected = front != NULL and self.executing == 0 and (front.flags >> SUBSCRIPTION_SHIFT) == which and \
            front.awaiting == (CONFIRMATIONS if begins else DEPARTURES)
        if expected and not begins and front.expected == 0:       # all of them: one confirmation each, one when there is none
            front.expected = -<int>max(self.subscriptions[which], 1)
        if after > before:
            self.subscriptions[which] += 1
        elif after < before and self.subscriptions[which] > 0:
            self.subscriptions[which] -= 1
        if which == 2:
            self.shard_sum = after
        else:
            self.subscription_sum = after
        if expected:
            front.expected += -1 if front.expected > 0 else 1
            if front.expected == 0:
                return self._complete(now)
            self._count_bytes(front, 0, self.replies.size)
        return 0

    cdef int _count(self, Pending* entry, long long now) except -1:
        """Write one command, whose reply is in the framer, to the ledger."""
        cdef Ledger ledger = self.relay.ledger
        cdef ReplyFramer framer = self.replies
        cdef long long duration = now - entry.at_ns if entry.at_ns and not entry.flags & BLOCKS else -1
        cdef Row* row
        cdef long long found
        if not ledger.enabled or entry.awaiting >= REFUSAL:
            return 0
        if framer.type == ERROR or framer.type == BIG_ERROR:
            return ledger.error(entry.command, framer.head, framer.head_length, duration, entry.size, framer.size)
        row = ledger.reply(entry.command, duration, entry.size, framer.size)
        if entry.flags & BLOCKS:
            if entry.at_ns:
                ledger.blocked(entry.command, now - entry.at_ns)
        if entry.command == 0:
            if self.relay.on_unknown is not None:
                self.relay.on_unknown()
        elif row.rule:
            found = 0
            if row.rule == NIL_RULE:
                found = not framer.null and (framer.count != 0 or framer.type not in (ARRAY, SET, MAP))
            elif row.rule == EMPTY_RULE:
                found = not framer.null and framer.count != 0
            elif row.rule == ZERO_RULE:
                found = framer.integer != 0
            elif row.rule == EACH_RULE:
                row.totals.hits += framer.count - framer.nulls
                row.totals.misses += framer.nulls
                return 0
            elif row.rule == ARGUMENTS_RULE:
                row.totals.hits += framer.integer
                row.totals.misses += entry.expected - framer.integer
                return 0
            if found:
                row.totals.hits += 1
            else:
                row.totals.misses += 1
        return 0

    cdef int _count_bytes(self, Pending* entry, long long request, long long response) except -1:
        """Bytes of a command beside those of its own reply and the request that it answers."""
        if self.relay.ledger.enabled and entry.awaiting < REFUSAL:
            self.relay.ledger.add_bytes(entry.command, request, response)
        return 0

    cdef void _settle(self, Pending* entry) noexcept:
        self.relay.in_flight -= 1
        if entry.flags & BLOCKS:
            self.blocking -= 1
            self.relay.blocking -= 1

    cdef int _complete(self, long long now) except -1:
        """The oldest command in flight has its whole reply."""
        cdef ReplyFramer framer = self.replies
        cdef Pending entry = self.pending.front()[0]
        cdef bint failed = framer.type == ERROR or framer.type == BIG_ERROR
        cdef Pending* moved
        if self.in_multi and framer.type == STATUS and entry.awaiting != EXEC_REPLY and framer.head_length >= 6 \
                and memcmp(framer.head, b"QUEUED", 6) == 0:
            if entry.awaiting != REPLY and entry.awaiting != HELLO_REPLY:    # what it does inside EXEC cannot be followed
                return self._go_raw("transaction")
            self._count_bytes(&entry, 0, framer.size)
            moved = self.queued.push()
            moved[0] = entry
            if entry.flags & PLANNED:
                if self.queued_plans is None:
                    self.queued_plans = deque()
                self.queued_plans.append(self.plans.popleft())
            if self.queued.length > _PENDING_MAX:
                return self._go_raw("too_many_in_flight")
            self.pending.pop()
            self._settle(&entry)
            return self._unanswered()
        self._count(&entry, now)
        if entry.flags & PLANNED:
            self.plans.popleft()
            self.planned -= 1
        self.pending.pop()
        self._settle(&entry)
        self.silent_block = False
        if not failed:
            self.answered_well = True
        if entry.awaiting != REPLY:
            if entry.awaiting == MULTI_REPLY and not failed:
                self._begin_transaction()
            elif entry.awaiting == EXEC_REPLY or (entry.awaiting == DISCARD_REPLY and not failed):
                self._end_transaction()
            elif entry.awaiting == RESET_REPLY:
                self.resetting -= 1
                if not failed:
                    self._reset()
            elif entry.awaiting == MONITOR_REPLY:
                self.monitoring -= 1
                if not failed:
                    self.monitor = True
            elif entry.awaiting == HELLO_REPLY and not failed:
                self.pushes = framer.type == MAP
            elif entry.awaiting == SYNC_REPLY:     # refused: an ordinary session again
                self.owner.follow()
        return self._unanswered()

    cdef int _begin_transaction(self) except -1:
        self.in_multi = True
        if self.queued is None:
            self.queued = PendingQueue()
        return 0

    cdef int _reset(self) except -1:
        """RESET has been executed."""
        self._end_transaction()
        self.monitor = self.pushes = self.answered_well = False
        self.subscriptions[0] = self.subscriptions[1] = self.subscriptions[2] = 0
        self.subscription_sum = self.shard_sum = 0
        return 0

    cdef int _end_transaction(self) except -1:
        cdef int plans
        self.in_multi = False
        self.executing = 0
        if self.queued is not None:
            while self.queued.length:          # never executed
                self._count_bytes(self.queued.front(), self.queued.front().size, 0)
                self.queued.pop()
        if self.queued_plans:
            plans = len(self.queued_plans)
            self.queued_plans.clear()
            self.planned -= plans
        return 0

    cdef int _unanswered(self) except -1:
        """Commands without a reply end when they come to the front."""
        cdef Pending* front = self.pending.front()
        cdef Pending entry
        while front != NULL and (front.awaiting == SILENT or front.awaiting == UNMEASURED):
            entry = front[0]
            self.pending.pop()
            self._settle(&entry)
            if entry.flags & BLOCKS:
                self.silent_block = True
            if entry.awaiting == UNMEASURED:
                self._pass()
                return 0
            if self.relay.ledger.enabled:
                self.relay.ledger.lost(entry.command, "", entry.size)
            if entry.flags & OPENS and entry.flags & ENDS:
                self._reset()
            elif entry.flags & OPENS:
                self._begin_transaction()
            elif entry.flags & ENDS:
                self._end_transaction()
            front = self.pending.front()
        return 0

    # ---- endings ---------------------------------------------------------------------------------------------------------------

    cdef int forget(self, str error_type) except -1:
        """Count what will never get a reply."""
        cdef Pending entry
        while self.pending.length:
            entry = self.pending.front()[0]
            self.pending.pop()
            self._settle(&entry)
            if self.relay.ledger.enabled and entry.awaiting < REFUSAL:
                self.relay.ledger.lost(entry.command, error_type, entry.size)
        self._end_transaction()
        if self.plans:
            self.plans.clear()
        self.planned = 0
        return 0

    cdef int _go_raw(self, str reason) except -1:
        """Requests and replies cannot be matched any more, or need not be: forward bytes, measure nothing.

        Requests are framed nevertheless, because some may not pass to an engine that takes everybody for a local client.
        """
        self.relay.ledger.count("sessions.raw", reason)
        return self._pass()

    cdef int _pass(self) except -1:
        cdef bytearray collected = self.collected
        cdef Pending entry
        self.raw = True
        while self.pending.length:
            entry = self.pending.front()[0]
            self.pending.pop()
            self._settle(&entry)
        self._end_transaction()
        if self.plans:
            self.plans.clear()
        self.planned = 0
        if collected:
            self.collected = None
            self.owner.deliver(PyByteArray_AS_STRING(collected), PyByteArray_GET_SIZE(collected))
        return self.owner.follow()
