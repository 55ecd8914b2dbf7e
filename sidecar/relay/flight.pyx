"""What is in flight on a session's own connection to the engine, and what state that connection is in.

Owns the queue of commands that have been forwarded and have no reply yet, and their numbers. It never sees a byte of a request or a reply: who
forwards the requests says what is expected, and home.pyx, who reads the replies, takes it off.
"""

from sidecar.relay.owner cimport Owner
from sidecar.relay.pending cimport (
    ASKED, BLOCKS, DISCARD_REPLY, ENDS, EXEC_REPLY, LOCAL, MONITOR_REPLY, MULTI_REPLY, OPENS, PLANNED, Pending, PendingQueue, PROOF, REFUSAL, REPLY,
    RESET_REPLY, RESTORED, SILENT, SYNC_REPLY, UNMEASURED,
)
from sidecar.relay.recorder cimport Recorder
from sidecar.relay.shared cimport Relay, now_ns
from sidecar.relay.transaction cimport Transaction

from sidecar.relay import limits
from sidecar.relay.attributes import id_in
from sidecar.relay.plan import Plan, encode

cdef object _SWALLOW = Plan(transform=lambda _reply: b"")
cdef bytes _ASK = encode([b"HELLO"])         # no user can be denied it, and it changes nothing
cdef bytes _PING = b"*1\r\n$4\r\nPING\r\n"      # refused to nobody but who must log in first, and changes nothing


cdef class Flight:
    """A HomeRoute reads its replies, and sets `upstream`."""

    def __init__(self, Relay relay not None, Owner owner not None, Recorder recorder not None):
        self.relay = relay
        self.owner = owner
        self.recorder = recorder
        self.used_ns = now_ns()
        self.pending = PendingQueue()

    # ---- what is expected ------------------------------------------------------------------------------------------------------

    cdef int expect(self, int awaiting, Py_ssize_t command, int flags, long long expected, long long size, bint silent, long long now) except -1:
        """A request was, or is about to be, forwarded. expected: its arguments after the name; silent: CLIENT REPLY holds its reply back."""
        cdef Pending* entry
        if self.raw or (self.unmeasured and awaiting != UNMEASURED):
            return 0
        if self.pending.length >= FEW and self._is_full() and awaiting != UNMEASURED:
            return self._too_many(now)
        entry = self.pending.add(awaiting, command, flags, <int>expected if expected < 2000000000 else 2000000000, size, now)
        if self.relay.tracer.enabled and awaiting < SILENT:
            self.recorder.assign(entry, awaiting, now)
            self.recorder.request(NULL, NULL, NULL, 0, 0)
        self.relay.in_flight += 1
        if flags & BLOCKS:
            self.blocking += 1
            self.relay.blocking += 1
        return self._expect_special(entry, silent) if awaiting != REPLY or silent else 0

    cdef int _expect_special(self, Pending* entry, bint silent) except -1:
        """It has no reply, or one that may change the state of the connection."""
        cdef int awaiting = entry.awaiting
        if silent and awaiting < REFUSAL:
            if awaiting == MULTI_REPLY:
                entry.flags |= OPENS
            elif awaiting == EXEC_REPLY or awaiting == DISCARD_REPLY:
                entry.flags |= ENDS
            elif awaiting == RESET_REPLY:
                entry.flags |= OPENS | ENDS
            entry.awaiting = SILENT
        elif awaiting == MONITOR_REPLY:
            self.monitoring += 1
        elif awaiting == RESET_REPLY:
            self.resetting += 1
        if entry.awaiting >= SILENT and self.pending.length == 1:
            self._unanswered()
        return 0

    cdef int expect_planned(self, object plan, Py_ssize_t command, long long size, bint silent, long long now) except -1:
        """The same for a request with a plan."""
        cdef int flags = BLOCKS if plan.sync or plan.blocks else 0    # a replica's copy may be a long time coming
        if plan.transform is not None and not silent and not self.unmeasured and not self.raw:
            flags |= PLANNED
            self.pending.add_plan(plan)
            self.planned += 1
        return self.expect(SYNC_REPLY if plan.sync else REPLY, command, flags, 0, size, silent, now)

    cdef int expect_local(self, int answer, long long now) except -1:
        """A request that is not forwarded: we answer it when its turn comes."""
        if self.pending.length >= FEW and self._is_full():
            return self._too_many(now)
        self.pending.add(LOCAL, 0, 0, answer, 0, now)
        self.locals += 1
        self.relay.in_flight += 1
        return 0

    cdef int restore(self, list requests, bint pushes) except -1:
        """Send requests that make this new connection what an earlier one of the same client was; nobody else sees their replies.

        The first of them is HELLO. pushes: the connection will speak RESP3. The owner's follow() is called when all have succeeded, unrestored()
        when one has not.
        """
        cdef bytes request = b"".join(requests)
        for _ in requests:
            self._send_ours(RESTORED, _SWALLOW if self.restoring else self._learning_plan())
            self.restoring += 1
        self.pushes = pushes
        return self.upstream.send(request, len(request))

    cdef int ask_id(self) except -1:
        """Ask the engine for its id of this connection; nobody else sees the reply. The connection must be resting, and authenticated."""
        self.asking = True
        self._send_ours(ASKED, self._learning_plan())
        return self.upstream.send(_ASK, len(_ASK))

    cdef int _send_ours(self, int awaiting, object plan) except -1:
        """A request of ours is about to be sent."""
        self.pending.add_plan(plan)
        self.pending.add(awaiting, 0, PLANNED, 0, 0, self.used_ns)
        self.planned += 1
        self.relay.in_flight += 1
        return 0

    def _learning_plan(self):
        """Swallow the reply to a HELLO of ours, and keep the connection's id."""
        return Plan(transform=self._learn)

    def _learn(self, bytes reply):
        cdef long long engine_id = id_in(reply)
        if engine_id:
            self.identify(engine_id)
        return b""

    cdef int identify(self, long long engine_id) except -1:
        """The engine's id of this connection is known now."""
        self.engine_id = engine_id
        self.relay.by_engine_id[engine_id] = self.owner
        return 0

    cdef int prove(self) except -1:
        """Ask the engine whether the client must log in first (`standing`); nobody else sees the reply. Nothing may be in flight."""
        self._send_ours(PROOF, _SWALLOW)
        return self.upstream.send(_PING, len(_PING))

    cdef bint _is_full(self) noexcept:
        return self.pending.length >= self.relay.flight_limit or self.relay.in_flight >= self.relay.flights_limit

    cdef int _too_many(self, long long now) except -1:
        """What follows is not measured any more: there is no room for it."""
        self.relay.strike(limits.FLIGHT if self.pending.length >= self.relay.flight_limit else limits.FLIGHTS, self.owner.peer)
        return self.unfollow("too_many_in_flight", now)

    cdef int unfollow(self, str reason, long long now) except -1:
        """The replies to what follows cannot be matched: raw, once those in flight are there."""
        if self.unmeasured or self.raw:
            return 0
        self.unmeasured = True
        self.relay.ledger.count("sessions.raw", reason)
        return self.expect(UNMEASURED, 0, 0, 0, 0, False, now)

    # ---- the state of the connection -------------------------------------------------------------------------------------------

    cdef bint streaming(self) noexcept:
        """Bytes may come at any time, without a command."""
        return self.raw or self.monitor or self.subscriptions is not None

    cdef bint settled(self) noexcept:
        """Everything that was forwarded has been executed, or waits by nature."""
        cdef Pending* front = self.pending.front()
        return self.task is None and not self.raw and self.upstream.length == 0 and (front == NULL or front.flags & BLOCKS or self.silent_block)

    cdef bint idle(self) noexcept:
        """Nothing that was forwarded can still be answered."""
        return self.pending.length == 0 and not self.silent_block

    cdef bint resting(self) noexcept:
        """Nothing is in flight, and the connection is in no state that the next command may need."""
        return self.pending.length == 0 and self.upstream.length == 0 and self.transaction is None and self.subscriptions is None \
            and self.task is None and (self.raw | self.unmeasured | self.monitor | self.watching | self.silent_block) == 0

    cdef bint spared(self) noexcept:
        """Whether Valkey's `timeout` does not concern this session now."""
        return self.streaming() or self.pending.length or self.upstream.length or self.silent_block

    cdef int _begin_transaction(self) except -1:
        if self.transaction is None:
            self.transaction = Transaction()
        return 0

    cdef int _end_transaction(self) except -1:
        if self.transaction is not None:
            self.planned -= self.transaction.abandon(self.recorder)
            self.transaction = None
            self.watching = False
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
        self.pending.empty()
        self.planned = self.locals = 0
        return 0

    cdef int _unanswered(self) except -1:
        """A command without a reply has come to the front."""
        return 0
