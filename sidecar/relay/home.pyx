"""The home route: one connection to the engine for one client session.

Owns the connection, and matches what the engine sends to the commands in flight (flight.pyx): replies, pushes, replies that a plan transforms.
Every byte goes on as it came, but for those replies. What it cannot match it stops measuring (`raw`). It never sees a request and never talks
to the client.
"""

import inspect

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from libc.string cimport memcmp

from sidecar.relay.channel cimport HOLD, Channel
from sidecar.relay.flight cimport Flight, LOGGED_IN, STRANGER, UNASKED
from sidecar.relay.framer cimport ARRAY, BIG_ERROR, BROKEN, ERROR, FRAME, HEADER, MAP, MORE, PUSH, STATUS
from sidecar.relay.owner cimport LARGE_BYTES, LARGE_TURNS, Owner, local_answer
from sidecar.relay.pending cimport (
    ASKED, BLOCKS, CONFIRMATIONS, DEPARTURES, DISCARD_REPLY, ENDS, EXEC_REPLY, HELLO_REPLY, LOCAL, MONITOR_REPLY, MULTI_REPLY, NOTED, OPENS, PLANNED, Pending,
    PROOF, REPLY, RESET_REPLY, RESTORED, SILENT, SYNC_REPLY, UNMEASURED, UNWATCH_REPLY, WATCH_REPLY,
)
from sidecar.relay.recorder cimport Recorder
from sidecar.relay.reply_framer cimport ReplyFramer
from sidecar.relay.shared cimport Relay, now_ns
from sidecar.relay.subscriptions cimport Confirmation, LAST_OF_FRONT, MESSAGE, NO_MESSAGE, OF_FRONT, Subscriptions, message_kind
from telemetry cimport spans

cdef const char* NULL_TEXT = ""

cdef bytes _NOAUTH = b"-NOAUTH Authentication required.\r\n"
cdef bytes _SUBSCRIBED = (b"-ERR Can't execute 'traceparent': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this "
                          b"context\r\n")

from sidecar.relay import limits
from sidecar.relay.notes import AFTER_RESET


cdef class HomeRoute(Flight):
    """sock: connected to the engine. The owner sends requests through `upstream` and says with `expect` what each will be answered by."""

    def __init__(self, Relay relay not None, Owner owner not None, sock, Recorder recorder not None):
        Flight.__init__(self, relay, owner, recorder)
        self.replies = recorder.replies = ReplyFramer()
        self.upstream = Channel(relay.poller, owner, sock, self._readable, self._drained)
        relay.homes += 1
        relay.upstreams_changed()

    cdef int close(self) except -1:
        """Close the connection. What is in flight must have been forgotten."""
        if not self.closed:
            self.closed = True
            if self.engine_id:
                self.relay.by_engine_id.pop(self.engine_id, None)
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
            if not self.restoring and not self.asking:         # else it is an answer to us, and the client is as idle as before
                self.owner.active_ns = self.used_ns = now
            self._take(self.relay.buffer, n, now)
            if self.relay.suspects.group is not None:
                self.relay.suspects.over(False)
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
            if self.raw and not self.answered_well and data[0] != ERROR and (n < 6 or memcmp(data, b"+RESET", 6) != 0):
                self.answered_well = True      # nothing else is known of whom it is answered
            self.owner.deliver(data, n)
            sent = True
        elif self.locals and (framer.type == 0 and framer.size == 0 or framer.event != MORE):
            unsent = self._insert_locals(unsent, p)
        while p < end and not self.raw and not self.closed:
            front = self.pending.front()
            if framer.type == 0 and framer.size == 0 or framer.event != MORE:
                framer.descend = front != NULL and front.awaiting == EXEC_REPLY and not self._executing()
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
            if self._out_of_band() or (self.transaction is not None and not self.transaction.executing and framer.type == STATUS
                                         and whole == b"+QUEUED\r\n"):
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
                self.task = self.relay.poller.start_task(self.owner, self._answer_later(answer, whole), answer)
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
            if self.relay.suspects.group is not None:
                self.relay.suspects.over(False)
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

    cdef bytes _local_answer(self, int answer):
        """Our answer to TRACEPARENT, as Valkey would give it at this moment."""
        if not self.answered_well and self.relay.auth_required:
            return _NOAUTH
        if not self.pushes and self.subscriptions is not None:
            return _SUBSCRIBED
        return local_answer(answer)

    cdef object _plan(self):
        """The plan of the reply that comes next."""
        cdef Pending* front = self.pending.front()
        if self._executing():
            return self.transaction.plan()
        return self.pending.plans[0] if front != NULL and front.flags & PLANNED else None

    cdef bint _executing(self) noexcept:
        """Whether elements of EXEC's reply are still to come."""
        return self.transaction is not None and self.transaction.executing != 0

    cdef bint _out_of_band(self):
        """Whether the frame is no reply: a push, a monitor line, a message in RESP2."""
        cdef ReplyFramer framer = self.replies
        if framer.type == PUSH or self._is_monitor_line():
            return True
        return framer.type == ARRAY and self._in_pubsub() and message_kind(framer) == MESSAGE

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
        return self.subscriptions is not None

    cdef int _frame(self, long long now) except -1:
        """A frame, or the header of EXEC's reply, is complete."""
        cdef ReplyFramer framer = self.replies
        cdef int kind
        if framer.event == HEADER:
            if framer.count != (self.transaction.queued.length if self.transaction is not None else 0):
                return self._go_raw("transaction_mismatch")
            if framer.count == 0:
                return self._complete(now)
            self.transaction.executing = framer.count
            self.transaction.header_size = framer.size
            return 0
        if framer.type == PUSH or (framer.type == ARRAY and self._in_pubsub()):
            kind = message_kind(framer)
            if kind != NO_MESSAGE:
                self.pushes = framer.type == PUSH
            if kind > MESSAGE:
                return self._confirmation(kind, now)
            if kind == MESSAGE or framer.type == PUSH:
                self.pushed += framer.size
                return 0
        if self._is_monitor_line():
            self.pushed += framer.size
            return 0
        if self._executing():
            self.planned -= self.transaction.executed(self.recorder, self.owner, now)
            if self.transaction.executing:
                return 0
            framer.type = ARRAY                # EXEC itself: the array, whatever its last element was
            framer.size = self.transaction.header_size
        elif self.pending.length == 0:
            return self._go_raw("reply_without_request")
        return self._complete(now)

    cdef int _confirmation(self, int kind, long long now) except -1:
        """The engine says that a subscription began or ended."""
        cdef Pending* front = self.pending.front() if not self._executing() else NULL
        cdef Confirmation confirmation
        if self.subscriptions is None:
            self.subscriptions = Subscriptions()
        confirmation = self.subscriptions.confirmed(kind, self.replies.integer, front)
        if self.subscriptions.none_left():
            self.subscriptions = None
        if confirmation == OF_FRONT:
            self.recorder.add_bytes(front, 0, self.replies.size)
        return self._complete(now) if confirmation == LAST_OF_FRONT else 0

    cdef int _complete(self, long long now) except -1:
        """The oldest command in flight has its whole reply."""
        cdef ReplyFramer framer = self.replies
        cdef Pending entry = self.pending.front()[0]
        cdef Pending* front
        cdef bint failed = framer.type == ERROR or framer.type == BIG_ERROR
        if self.transaction is not None and framer.type == STATUS and entry.awaiting != EXEC_REPLY and framer.head_length >= 6 \
                and memcmp(framer.head, b"QUEUED", 6) == 0:
            if self.debugger and self._is_script(&entry):      # EXEC's reply will not be its own
                return self._go_raw("debugger")
            if entry.awaiting not in (REPLY, HELLO_REPLY, UNWATCH_REPLY):    # what it does inside EXEC cannot be followed
                return self._go_raw("transaction")
            self.recorder.add_bytes(&entry, 0, framer.size)
            self.pending.move(self.transaction.queued)
            entry.unit = NULL                  # it has moved, and the key with it
            entry.key = NULL
            self._settle(&entry)
            if self.transaction.queued.length > self.relay.flight_limit:
                self.relay.strike(limits.FLIGHT, self.owner.peer)
                return self._go_raw("too_many_in_flight")
            self.recorder.answered(now)
            return self._unanswered()
        self.recorder.replied(&entry, now)
        if self.pushed:
            self._book(entry.command)
        if entry.flags & PLANNED:
            self.pending.plans.popleft()
            self.planned -= 1
        if entry.flags & NOTED:
            change = self.pending.notes.popleft()
            if not failed:
                self.owner.changed(change)
            elif entry.awaiting == HELLO_REPLY and change is not None and "credentials" in dict(change):    # a part of it may have been done
                self.owner.changed(None)
        self.pending.pop()
        self._settle(&entry)
        self.recorder.answered(now)
        self.silent_block = False
        if not failed:
            self.answered_well = True
            if self.debugger and self._is_script(&entry):      # this was the debugger's greeting: its lines follow, then the end
                return self._go_raw("debugger")
        elif not self.answered_well and framer.head_length > 6 and memcmp(framer.head, b"NOAUTH", 6) == 0:
            self.relay.auth_required = True    # as ACL SETUSER may have made it
        if framer.size > LARGE_BYTES or entry.size > LARGE_BYTES:
            self.owner.home_turns = LARGE_TURNS
        if entry.awaiting != REPLY:
            self._take_effect(entry.awaiting, failed)
        front = self.pending.front()
        return self._unanswered() if front != NULL and front.awaiting >= SILENT else 0

    cdef bint _is_script(self, Pending* entry):
        """Whether it is a command that SCRIPT DEBUG makes interactive."""
        return self.relay.table.names[entry.command] in ("EVAL", "EVAL_RO")

    cdef int _book(self, Py_ssize_t command) except -1:
        """The engine takes what it pushes to a client for a part of the client's next reply, which its log of large ones shows then."""
        if self.pushed > LARGE_BYTES:
            self.relay.booked.append((self.relay.tracer.names[command], self.pushed + self.replies.size))
        self.pushed = 0
        return 0

    cdef int _take_effect(self, int awaiting, bint failed) except -1:
        """What the reply that is complete changes in the state of the connection."""
        cdef ReplyFramer framer = self.replies
        if awaiting == RESET_REPLY:
            self.resetting -= 1
            if not failed:
                self._reset()
        elif awaiting == MONITOR_REPLY:
            self.monitoring -= 1
            if not failed:
                self.monitor = True
        elif awaiting == RESTORED:
            self.restoring -= 1
            if failed:
                self.owner.unrestored(framer.head[:framer.head_length])
            elif self.restoring == 0:
                self.owner.follow()
        elif awaiting == ASKED:
            self.asking = False
            if failed:                         # it cannot be made again: HELLO is needed for that
                self.owner.irreplaceable()
        elif awaiting == PROOF:                # not where PING is another command: then nobody is refused for it
            self.standing = STRANGER if failed and framer.head_length > 6 and memcmp(framer.head, b"NOAUTH", 6) == 0 else LOGGED_IN
        elif awaiting == SYNC_REPLY:           # refused: an ordinary session again
            self.owner.follow()
        elif awaiting == EXEC_REPLY:
            self._end_transaction()
        elif failed:
            return 0
        elif awaiting == MULTI_REPLY:
            self._begin_transaction()
        elif awaiting == DISCARD_REPLY:
            self._end_transaction()
        elif awaiting == HELLO_REPLY:
            self.pushes = framer.type == MAP
        elif awaiting == WATCH_REPLY:
            self.watching = True
        elif awaiting == UNWATCH_REPLY:
            self.watching = False
        return 0

    cdef int _reset(self) except -1:
        """RESET has been executed."""
        self._end_transaction()
        self.monitor = self.pushes = self.answered_well = self.watching = False
        self.subscriptions = None
        self.standing = UNASKED
        return self.owner.changed(AFTER_RESET)

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
                    self.owner.changed(self.pending.notes.popleft())
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

    # ---- what cannot be followed ---------------------------------------------------------------------------------------------

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
