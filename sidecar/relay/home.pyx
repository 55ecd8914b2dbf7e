"""The home route: one connection to the engine for one client session.

Owns the commands in flight and matches replies to them: transactions, subscriptions, pushes, replies that a plan transforms. Every byte goes
on as it came, but for those replies. What it cannot match it stops measuring (`raw`). It never sees a request and never talks to the client.
"""

import inspect
from collections import deque

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from libc.string cimport memcmp

from sidecar.relay.channel cimport HOLD, Channel
from sidecar.relay.framer cimport ARRAY, BIG_ERROR, BROKEN, ERROR, FRAME, HEADER, MAP, MORE, PUSH, STATUS
from sidecar.relay.owner cimport LARGE_BYTES, LARGE_TURNS, Owner, local_answer
from sidecar.relay.pending cimport (
    BLOCKS, CONFIRMATIONS, DEPARTURES, DISCARD_REPLY, ENDS, EXEC_REPLY, HELLO_REPLY, LOCAL, MONITOR_REPLY, MULTI_REPLY, NOTED, OPENS, PLANNED, Pending,
    PendingQueue, QUEUED, REFUSAL, REPLY, RESET_REPLY, RESTORED, SILENT, SUBSCRIPTION_SHIFT, SYNC_REPLY, UNMEASURED, UNWATCH_REPLY, WATCH_REPLY,
)
from sidecar.relay.recorder cimport Recorder
from sidecar.relay.reply_framer cimport ReplyFramer
from sidecar.relay.shared cimport Relay, now_ns
from telemetry cimport spans

cdef Py_ssize_t _PENDING_MAX = 2_000_000       # commands in flight in one session: 80 MB; beyond it the session goes raw

cdef const char* NULL_TEXT = ""

cdef bytes _NOAUTH = b"-NOAUTH Authentication required.\r\n"
cdef bytes _SUBSCRIBED = (b"-ERR Can't execute 'traceparent': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this "
                          b"context\r\n")

from sidecar.relay.notes import AFTER_RESET
from sidecar.relay.plan import Plan

cdef object _SWALLOW = Plan(transform=lambda _reply: b"")

cdef dict _MESSAGES = {
    b"message": 1, b"pmessage": 1, b"smessage": 1,
    b"subscribe": 2, b"unsubscribe": 3, b"psubscribe": 4, b"punsubscribe": 5, b"ssubscribe": 6, b"sunsubscribe": 7,
}


cdef class HomeRoute:
    """sock: connected to the engine. The owner sends requests through `upstream` and says with `expect` what each will be answered by."""

    def __init__(self, Relay relay not None, Owner owner not None, sock, Recorder recorder not None):
        self.relay = relay
        self.owner = owner
        self.replies = ReplyFramer()
        self.recorder = recorder
        recorder.replies = self.replies
        self.used_ns = now_ns()
        self.pending = PendingQueue()
        self.upstream = Channel(relay.poller, owner, sock, self._readable, self._drained)
        relay.homes += 1
        relay.upstreams_changed()

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
        entry.unit = NULL
        entry.key = NULL
        if self.relay.tracer.enabled and awaiting < SILENT:
            self.recorder.assign(entry, awaiting, now)
            self.recorder.request(NULL, NULL, NULL, 0, 0)
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
        cdef int flags = BLOCKS if plan.sync or plan.blocks else 0    # a replica's copy may be a long time coming
        if plan.transform is not None and not silent and not self.unmeasured and not self.raw:
            flags |= PLANNED
            if self.plans is None:
                self.plans = deque()
            self.plans.append(plan)
            self.planned += 1
        return self.expect(SYNC_REPLY if plan.sync else REPLY, command, flags, 0, size, silent, now)

    cdef int expect_local(self, int answer, long long now) except -1:
        """A request that is not forwarded: we answer it when its turn comes."""
        cdef Pending* entry
        if self.pending.length >= _PENDING_MAX:
            return self.unfollow("too_many_in_flight", now)
        entry = self.pending.push()
        entry.at_ns = now
        entry.size = 0
        entry.expected = answer
        entry.command = 0
        entry.awaiting = LOCAL
        entry.flags = 0
        entry.unit = NULL
        entry.key = NULL
        self.locals += 1
        self.relay.in_flight += 1
        return 0

    cdef int restore(self, list requests, bint pushes) except -1:
        """Send requests that make this new connection what an earlier one of the same client was; nobody else sees their replies.

        pushes: the connection will speak RESP3. The owner's follow() is called when all have succeeded, unrestored() when one has not.
        """
        cdef Pending* entry
        cdef bytes request = b"".join(requests)
        if self.plans is None:
            self.plans = deque()
        for _ in requests:
            entry = self.pending.push()
            entry.at_ns = self.used_ns
            entry.size = entry.expected = 0
            entry.command = 0
            entry.awaiting = RESTORED
            entry.flags = PLANNED
            entry.unit = NULL
            entry.key = NULL
            self.plans.append(_SWALLOW)
            self.planned += 1
            self.relay.in_flight += 1
            self.restoring += 1
        self.pushes = pushes
        return self.upstream.send(request, len(request))

    cdef int answer_locals(self) except -1:
        """All requests of a read are taken: give the answers of ours whose turn it is, unless a reply follows that they can go with."""
        if self.locals == 0 or self.task is not None or self.pending.front().awaiting != LOCAL:
            return 0
        if self.replies.event == MORE and (self.replies.type or self.replies.size):
            return 0                           # behind the message, or monitor line, that is half out
        if self.blocking or self.pending.back().awaiting >= SILENT:
            self._insert_locals(NULL_TEXT, NULL_TEXT)
            self._deliver(NULL_TEXT, 0)
            self.relay.check_quiet()
        return 0

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

    cdef bint resting(self) noexcept:
        """Nothing is in flight, and the connection is in no state that the next command may need."""
        return self.pending.length == 0 and not (self.in_multi or self.watching or self.raw or self.unmeasured or self.silent_block
                                                 or self.streaming() or self.upstream.length or self.task is not None)

    cdef bint spared(self) noexcept:
        """Whether Valkey's `timeout` does not concern this session now."""
        return self.streaming() or self.pending.length or self.upstream.length or self.silent_block

    cdef int close(self) except -1:
        """Close the connection. What is in flight must have been forgotten."""
        if not self.closed:
            self.closed = True
            self.relay.homes -= 1
            self.relay.upstreams_changed()
        if self.task is not None:
            self.task.cancel()
            self.task = None
        self.upstream.close()
        self.collected = self.stash = self.out = None
        return 0

    # ---- replies ---------------------------------------------------------------------------------------------------------------

    def _readable(self):
        cdef Py_ssize_t n = self.upstream.receive(self.relay.buffer, self.relay.buffer_size)
        cdef long long now
        if n > 0:
            now = now_ns()
            self.owner.active_ns = self.used_ns = now
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
        if self.raw or (self.planned == 0 and self.locals == 0 and (self.pending.length == 0 or self.pending.front().awaiting != SYNC_REPLY)):
            self.owner.deliver(data, n)
            sent = True
        elif self.locals and (framer.type == 0 and framer.size == 0 or framer.event != MORE):
            unsent = self._insert_locals(unsent, p)
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
                    if self.locals and not self.raw:
                        unsent = self._insert_locals(unsent, p)
                continue
            self._deliver(unsent, began - unsent)
            unsent = p
            if self.collected is None:
                self.collected = bytearray()
            self.collected += began[:p - began]
            if framer.event == MORE:
                continue
            whole = bytes(self.collected)
            self.collected = None
            if self._out_of_band() or (self.in_multi and self.executing == 0 and framer.type == STATUS and whole == b"+QUEUED\r\n"):
                self._deliver(whole, len(whole))
                self._frame(now)
                if self.locals and not self.raw:
                    unsent = self._insert_locals(unsent, p)
                continue
            answer = whole if plan.cosmetic and self.owner.gone else plan.transform(whole)
            if inspect.isawaitable(answer):
                self._frame(now)
                self.upstream.pause(HOLD)
                self.stash = bytearray(p[:end - p])
                self.task = self.relay.poller.start_task(self.owner, self._answer_later(answer, whole))
                return 0
            self._deliver(answer, len(answer))
            self._frame(now)
            if self.locals and not self.raw:
                unsent = self._insert_locals(unsent, p)
        if self.closed:
            return 0
        if not sent:
            self._deliver(unsent, end - unsent)
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
        self._deliver(answer, len(answer))
        stash = self.stash
        self.stash = None
        if self.locals and not self.raw:
            self._insert_locals(NULL_TEXT, NULL_TEXT)
            self._deliver(NULL_TEXT, 0)
        if stash:
            self._take(PyByteArray_AS_STRING(stash), PyByteArray_GET_SIZE(stash), now_ns())
        if not self.closed and self.task is None:
            self.upstream.resume(HOLD)
            self.relay.check_quiet()
            self.owner.answered()

    cdef int _deliver(self, const char* data, Py_ssize_t n) except -1:
        """To the client, behind what waits for it."""
        cdef bytearray out = self.out
        if out is None:
            return self.owner.deliver(data, n)
        self.out = None
        out += data[:n]
        return self.owner.deliver(PyByteArray_AS_STRING(out), PyByteArray_GET_SIZE(out))

    cdef const char* _insert_locals(self, const char* unsent, const char* upto) except NULL:
        """Put the answers of ours whose turn it is behind [unsent, upto). Where the bytes that still wait begin."""
        cdef Pending* front = self.pending.front()
        cdef Pending entry
        while front != NULL and front.awaiting == LOCAL:
            entry = front[0]
            if self.out is None:
                self.out = bytearray()
            if upto > unsent:
                self.out += unsent[:upto - unsent]
                unsent = upto
            self.out += self._local_answer(entry.expected)
            self.pending.pop()
            self.locals -= 1
            self._settle(&entry)
            self._unanswered()
            front = self.pending.front()
        return unsent

    cdef bytes _local_answer(self, int answer):
        """Our answer to TRACEPARENT, as Valkey would give it at this moment."""
        if not self.answered_well and self.relay.auth_required:
            return _NOAUTH
        if not self.pushes and (self.subscription_sum or self.shard_sum):
            return _SUBSCRIBED
        return local_answer(answer)

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
            entry.flags |= QUEUED
            self.recorder.replied(entry, now)
            if entry.flags & PLANNED:
                self.queued_plans.popleft()
                self.planned -= 1
            if entry.flags & NOTED:
                change = self.queued_notes.popleft()
                self.owner.changed(change if framer.type != ERROR and framer.type != BIG_ERROR else None)
            self.recorder.release(entry)
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
            self.recorder.add_bytes(front, 0, self.replies.size)
        return 0

    cdef int _settle(self, Pending* entry) except -1:
        """It was popped: nobody waits for it any more."""
        self.relay.in_flight -= 1
        if entry.flags & BLOCKS:
            self.blocking -= 1
            self.relay.blocking -= 1
        if entry.unit != NULL:
            self.recorder.release(entry)
        return 0

    cdef int _complete(self, long long now) except -1:
        """The oldest command in flight has its whole reply."""
        cdef ReplyFramer framer = self.replies
        cdef Pending entry = self.pending.front()[0]
        cdef bint failed = framer.type == ERROR or framer.type == BIG_ERROR
        cdef Pending* moved
        if self.in_multi and framer.type == STATUS and entry.awaiting != EXEC_REPLY and framer.head_length >= 6 \
                and memcmp(framer.head, b"QUEUED", 6) == 0:
            if entry.awaiting not in (REPLY, HELLO_REPLY, UNWATCH_REPLY):    # what it does inside EXEC cannot be followed
                return self._go_raw("transaction")
            self.recorder.add_bytes(&entry, 0, framer.size)
            moved = self.queued.push()
            moved[0] = entry
            if entry.flags & PLANNED:
                if self.queued_plans is None:
                    self.queued_plans = deque()
                self.queued_plans.append(self.plans.popleft())
            if entry.flags & NOTED:
                if self.queued_notes is None:
                    self.queued_notes = deque()
                self.queued_notes.append(self.notes.popleft())
            if self.queued.length > _PENDING_MAX:
                return self._go_raw("too_many_in_flight")
            self.pending.pop()
            entry.unit = NULL                  # it has moved, and the key with it
            entry.key = NULL
            self._settle(&entry)
            self.recorder.answered_ns = now
            return self._unanswered()
        self.recorder.replied(&entry, now)
        if entry.flags & PLANNED:
            self.plans.popleft()
            self.planned -= 1
        if entry.flags & NOTED:
            change = self.notes.popleft()
            if not failed:
                self.owner.changed(change)
            elif entry.awaiting == HELLO_REPLY:    # a part of it may have been done
                self.owner.changed(None)
        self.pending.pop()
        self._settle(&entry)
        self.recorder.answered_ns = now
        self.silent_block = False
        if not failed:
            self.answered_well = True
        elif not self.answered_well and framer.head_length > 6 and memcmp(framer.head, b"NOAUTH", 6) == 0:
            self.relay.auth_required = True    # as ACL SETUSER may have made it
        if framer.size > LARGE_BYTES or entry.size > LARGE_BYTES:
            self.owner.home_turns = LARGE_TURNS
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
            elif entry.awaiting == WATCH_REPLY and not failed:
                self.watching = True
            elif entry.awaiting == UNWATCH_REPLY and not failed:
                self.watching = False
            elif entry.awaiting == SYNC_REPLY:     # refused: an ordinary session again
                self.owner.follow()
            elif entry.awaiting == RESTORED:
                self.restoring -= 1
                if failed:
                    return self.owner.unrestored(framer.head[:framer.head_length])
                if self.restoring == 0:
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
        self.monitor = self.pushes = self.answered_well = self.watching = False
        self.subscriptions[0] = self.subscriptions[1] = self.subscriptions[2] = 0
        self.subscription_sum = self.shard_sum = 0
        return self.owner.changed(AFTER_RESET)

    cdef int _end_transaction(self) except -1:
        cdef int plans
        if self.in_multi:
            self.in_multi = self.watching = False
        self.executing = 0
        if self.queued is not None:
            while self.queued.length:          # never executed
                self.recorder.add_bytes(self.queued.front(), self.queued.front().size, 0)
                self.recorder.release(self.queued.front())
                self.queued.pop()
        if self.queued_notes:
            self.queued_notes.clear()
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
            if entry.awaiting == SILENT:
                self.recorder.lost(&entry, "", now_ns() if entry.unit != NULL else 0)
                if entry.flags & NOTED:
                    self.owner.changed(self.notes.popleft())
            self._settle(&entry)
            if entry.flags & BLOCKS:
                self.silent_block = True
            if entry.awaiting == UNMEASURED:
                self._pass()
                return 0
            if entry.flags & OPENS and entry.flags & ENDS:
                self._reset()
            elif entry.flags & OPENS:
                self._begin_transaction()
            elif entry.flags & ENDS:
                self._end_transaction()
            front = self.pending.front()
        return 0

    cdef int note(self, object change) except -1:
        """What the success of the request that is expected next changes in what is known about the client."""
        if self.notes is None:
            self.notes = deque()
        self.notes.append(change)
        return 0

    # ---- endings ---------------------------------------------------------------------------------------------------------------

    cdef int forget(self, str error_type) except -1:
        """Count what will never get a reply."""
        cdef Pending entry
        cdef long long now = now_ns() if self.relay.tracer.enabled else 0
        while self.pending.length:
            entry = self.pending.front()[0]
            self.pending.pop()
            self.recorder.lost(&entry, error_type, now)
            self._settle(&entry)
        self.recorder.transaction_lost(error_type, now)
        return self._clear()

    cdef int _clear(self) except -1:
        """Nothing is in flight any more."""
        self._end_transaction()
        self.recorder.forget()
        if self.plans:
            self.plans.clear()
        if self.notes:
            self.notes.clear()
        self.planned = self.locals = 0
        return 0

    cdef int _go_raw(self, str reason) except -1:
        """Requests and replies cannot be matched any more, or need not be: forward bytes, measure nothing.

        Requests are framed nevertheless, because some may not pass to an engine that takes everybody for a local client.
        """
        self.relay.ledger.count("sessions.raw", reason)
        return self._pass()

    cdef int _pass(self) except -1:
        cdef bytearray collected = self.collected
        cdef bytes answer
        cdef Pending entry
        self.raw = True
        while self.pending.length:
            entry = self.pending.front()[0]
            self.pending.pop()
            if entry.awaiting == LOCAL:
                answer = self._local_answer(entry.expected)
                self._deliver(answer, len(answer))
            elif entry.unit != NULL:
                self.relay.tracer.drop(spans.RAW)
            self._settle(&entry)
        self._clear()
        if collected:
            self.collected = None
            self._deliver(PyByteArray_AS_STRING(collected), PyByteArray_GET_SIZE(collected))
        return self.owner.follow()
