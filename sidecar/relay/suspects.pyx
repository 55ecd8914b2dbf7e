"""Late replies, until we know which command took the time.

The engine sends the replies of a pipeline together, so a late read only shows that one of its commands was slow. Owns the records of those
replies from their read until the engine's slow log (COMMANDLOG, SLOWLOG) has answered; `sidecar.relay.blame` has the rule. Replies themselves
are never delayed, and a reply that was in time never gets here. Everything is bounded: without room, a read is judged at once.
"""

cimport cython
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from sidecar.relay.pending cimport ENDS, EXEC_REPLY, Pending
from telemetry cimport spans
from telemetry.spans cimport Identity, Tracer, Unit

from sidecar.relay.blame import judge

cdef int _ROWS_MOST = 512           # of one read; 60 KB
cdef int _WAITING_MOST = 16         # groups
cdef double _ASKED_PER_S = 20.0     # as many as spans that are kept for being slow, in a burst
cdef double _ASKED_AT_ONCE = 50.0


@cython.final
cdef class Group:
    def __cinit__(self):
        self.who = []
        self.whole = True

    def __dealloc__(self):
        cdef int i
        for i in range(self.length):
            free(self.rows[i].key)
            free(self.rows[i].error)
        free(self.rows)

    cdef Suspect* _row(self, Identity who) except NULL:
        cdef Suspect* bigger
        if self.length == self.capacity:
            bigger = <Suspect*>realloc(self.rows, (self.capacity * 2 or 8) * sizeof(Suspect))
            if bigger == NULL:
                raise MemoryError
            self.rows = bigger
            self.capacity = self.capacity * 2 or 8
        self.who.append(who)
        self.length += 1
        return &self.rows[self.length - 1]

    cdef Suspect* add(self, Identity who, Pending* entry, long long since_ns, long long response) except NULL:
        cdef Suspect* row = self._row(who)
        row.unit = NULL
        row.key = row.error = NULL
        row.error_length = row.flags = 0
        row.owner = NOBODY
        row.ends = False
        row.command = entry.command
        row.since_ns = since_ns
        row.start_ns = entry.at_ns
        row.request = entry.size
        row.response = response
        return row


@cython.final
cdef class Suspects:
    def __init__(self, Tracer tracer not None):
        self.tracer = tracer
        self.allowed = _ASKED_AT_ONCE
        self.asked = []

    cdef Group _group_of(self, long long now):
        if self.group is not None and self.group.now != now:     # a fault has ended its read
            self.over(False)
        if self.group is None:
            self.group = Group()
            self.group.now = now
        return self.group

    cdef int suspect(self, Identity who, Pending* entry, long long since_ns, long long start_ns, long long now, long long response, int flags,
                     const char* error, int error_length) except -1:
        """A reply came late, and its command gets a span or a log record if it was slow. flags, error: as in Tracer.done; start_ns: of the span."""
        cdef Group group = self._group_of(now)
        cdef Suspect* row
        cdef int i
        row = group.add(who, entry, since_ns, response)
        row.owner = group.length - 1
        row.ends = entry.flags & ENDS != 0
        row.start_ns = start_ns
        row.flags = flags
        row.unit = entry.unit
        if row.unit != NULL:
            row.unit.refs += 1
        row.key = entry.key
        entry.key = NULL
        if error_length:
            row.error = <char*>malloc(error_length)
            if row.error == NULL:
                raise MemoryError
            memcpy(row.error, error, error_length)
            row.error_length = error_length
        group.candidates += 1
        if entry.awaiting == EXEC_REPLY:
            for i in range(group.length - 2, -1, -1):
                if group.rows[i].owner != UNCLAIMED:
                    break
                group.rows[i].owner = row.owner
        if group.length > _ROWS_MOST:      # no room: this one counts as in time
            group.whole = False
            group.candidates -= 1
            self._tell(group, row.owner, False, 0)
            group.length -= 1
            group.who.pop()
        return 0

    cdef int beside(self, Identity who, Pending* entry, long long now, long long response, bint queued) except -1:
        """A late reply without a span of its own whose command may have taken the time. queued: it's an element of the EXEC reply that follows."""
        cdef Group group = self._group_of(now)
        if group.length >= _ROWS_MOST:
            group.whole = False
            return 0
        group.add(who, entry, now, response).owner = UNCLAIMED if queued else NOBODY
        return 0

    cdef int over(self, bint shared) except -1:
        """The read is complete. shared: the connection is a lane."""
        cdef Group group = self.group
        cdef long long since_ns
        cdef Suspect* row
        cdef int i
        self.group = None
        if group.candidates == 0:
            return 0
        if self.ask is None or self.waiting >= _WAITING_MOST or not self._may_ask(group.now):
            return self._decide(group, None)
        since_ns = group.now
        rows = []
        for i in range(group.length):
            row = &group.rows[i]
            since_ns = min(since_ns, row.since_ns)
            rows.append([self.tracer.names[row.command], row.request, row.response, max(row.owner, NOBODY)])
        self.waiting += 1
        self.asked.append(group)

        def decide(answer):
            if group in self.asked:
                self.asked.remove(group)
                self.waiting -= 1
                self._decide(group, answer)

        self.ask({"since": since_ns, "until": group.now, "shared": bool(shared), "rows": rows, "slow": self.tracer.slow_ns}, decide)
        return 0

    def give_up(self):
        """Decide all that is waiting, without the engine's answer."""
        while self.asked:
            self.waiting -= 1
            self._decide(self.asked.pop(), None)

    cdef bint _may_ask(self, long long now) noexcept:
        self.allowed = min(_ASKED_AT_ONCE, self.allowed + (now - self.asked_ns) * 1e-9 * _ASKED_PER_S)
        self.asked_ns = now
        if self.allowed < 1.0:
            return False
        self.allowed -= 1.0
        return True

    cdef int _decide(self, Group group, object answer) except -1:
        """answer: {"known": whether the engine's log was read whole, "took": {row: nanoseconds in the engine}}, or None."""
        cdef dict took = {} if answer is None else {int(row): ns for row, ns in answer["took"].items()}
        cdef int i
        sessions = [id(who) for who in group.who]
        may_be_slow = [group.rows[i].owner == i for i in range(group.length)]
        slow, together = judge(sessions, may_be_slow, took, answer is not None and answer["known"] and group.whole)
        for rows in together:
            self._tell_together(group, rows)
        for i in range(group.length):
            if group.rows[i].owner == i:
                self._tell(group, i, i in slow, took.get(i, 0))
        return 0

    cdef int _tell(self, Group group, int i, bint slow, long long engine_ns) except -1:
        """Hand one command to the tracer."""
        cdef Suspect* row = &group.rows[i]
        cdef Tracer tracer = self.tracer
        cdef Unit* unit = row.unit
        cdef int flags = row.flags | (<int>spans.SLOW if slow else 0)
        if unit == NULL:
            if not slow:
                return 0
            unit = tracer.root()
        row.unit = NULL
        if slow:
            tracer.engine_us = <unsigned int>min(engine_ns // 1000, 4294967295)
        try:
            if row.ends and unit.form == spans.TRANSACTION:
                tracer.close(unit, group.who[i], group.now, flags, row.error, row.error_length)
            else:
                tracer.done(unit, group.who[i], row.command, row.start_ns, group.now, row.request, row.response, flags, row.error, row.error_length,
                            row.key)
        finally:
            tracer.engine_us = 0
            free(row.key)
            free(row.error)
            row.key = row.error = NULL
            tracer.release(unit, group.who[i])
        return 0

    cdef int _tell_together(self, Group group, object rows) except -1:
        """One of these commands of a session was slow, but not known which: mark their pipeline, if they are in one."""
        cdef Tracer tracer = self.tracer
        cdef Unit* unit = group.rows[<int>rows[0]].unit
        cdef int row
        for row in rows:
            if group.rows[row].unit != unit:
                return 0
        if unit != NULL:
            return tracer.blame(unit, group.now)
        unit = tracer.root()
        tracer.surround(unit)
        unit.start_ns = group.rows[<int>rows[0]].start_ns
        unit.end_ns = group.now
        unit.count = unit.omitted = len(rows)
        for row in rows:
            unit.request += group.rows[row].request
            unit.response += group.rows[row].response
        tracer.blame(unit, group.now)
        return tracer.release(unit, group.who[<int>rows[0]])
