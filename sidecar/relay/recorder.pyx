"""What is measured of one session's commands: for each a row of the ledger, and its place in a span.

Owns what a command belongs to (its context, the read it came in, its transaction) and what is told of it at its end. It decides nothing about
sampling, which is the tracer's, and never changes what is in flight.
"""

from libc.stdlib cimport free

from sidecar.relay.framer cimport ARRAY, BIG_ERROR, ERROR, MAP, SET
from sidecar.relay.pending cimport BLOCKS, DISCARD_REPLY, ENDS, EXEC_REPLY, MULTI_REPLY, OPENS, Pending, QUEUED, REFUSAL, REPLY, RESET_REPLY
from sidecar.relay.reply_framer cimport ReplyFramer
from sidecar.relay.shared cimport Relay
from telemetry import lookups
from telemetry cimport spans
from telemetry.ledger cimport Ledger, Row
from telemetry.spans cimport Identity, Tracer, Unit

cdef enum:         # telemetry/lookups.py
    NIL_RULE = 1
    EMPTY_RULE = 2
    ZERO_RULE = 3
    EACH_RULE = 4
    ARGUMENTS_RULE = 5
    LACKED_RULE = 6

if (NIL_RULE, EMPTY_RULE, ZERO_RULE, EACH_RULE, ARGUMENTS_RULE, LACKED_RULE) != \
        (lookups.NIL, lookups.EMPTY, lookups.ZERO, lookups.EACH, lookups.ARGUMENTS, lookups.LACKED):
    raise ImportError("the rules of telemetry.lookups have other numbers in sidecar.relay.recorder")


cdef class Recorder:
    """who: sends the commands. The route that carries them sets `replies`, which holds the reply that a command is said to have."""

    def __init__(self, Relay relay not None, Identity who not None):
        self.relay = relay
        self.ledger = relay.ledger
        self.tracer = relay.tracer
        self.who = who

    # ---- what a command belongs to ---------------------------------------------------------------------------------------------

    cdef int assign(self, Pending* entry, int awaiting, long long now) except -1:
        """Say which unit the command belongs to."""
        cdef Tracer tracer = self.tracer
        cdef Unit* unit = self.batch
        cdef int treatment
        if unit != NULL and unit.form == spans.PIPELINE and self.context == NULL and self.transaction == NULL and awaiting == REPLY \
                and not tracer.wants_keys and entry.command and tracer.treatment(entry.command, self.first, self.first_length) == spans.TRACED:
            # as all below would say
            unit.count += 1
            unit.refs += 1
            entry.unit = unit
            return 0
        if not tracer.exported and self.context == NULL and self.transaction == NULL:
            return 0                                          # told only if it is slow, which its reply will show
        if awaiting == RESET_REPLY and self.transaction != NULL:
            self._let_transaction_go()
        if (awaiting == EXEC_REPLY or awaiting == DISCARD_REPLY) and self.transaction != NULL:
            entry.unit = self.transaction                     # with its reference
            entry.flags |= ENDS
            self.transaction = NULL
            return 0
        # A subcommand that the engine does not know is treated as what it is of: clients try what may be there.
        treatment = tracer.treatment(self.container if entry.command == 0 else entry.command, self.first, self.first_length)
        if treatment == spans.UNTRACED:
            return self._consume_context() if self.transaction == NULL or self.context_is_inside else 0
        if treatment == spans.PASSED_OVER:
            return 0
        if awaiting == MULTI_REPLY and self.transaction == NULL:
            self.transaction = tracer.transaction(self.context, entry.command, now)
            self._consume_context()
            unit = self.transaction
            entry.flags |= OPENS
        elif self.context != NULL and treatment != spans.TRACED_ALONE and (self.transaction == NULL or self.context_is_inside):
            unit = self.context
            if unit.count == 0:
                unit.start_ns = now
            unit.count += 1
            unit.refs += 1                                    # before the context gives back its own
            self._consume_context()
            unit.refs -= 1
        elif self.transaction != NULL:
            unit = self.transaction
            unit.count += 1
        else:
            if self.batch == NULL:
                self.batch = tracer.root()
            unit = self.batch
            if unit.count == 0:
                unit.start_ns = now
            unit.count += 1
            if unit.count == 2:
                tracer.surround(unit)
        unit.refs += 1
        entry.unit = unit
        if tracer.wants_keys and self.start != NULL:
            entry.key = tracer.key(entry.command, self.start, self.end)
        return 0

    cdef int give_context(self, Unit* unit, long long count) except -1:
        """The next `count` commands belong to this unit (NULL: to none), whose reference is handed over."""
        if self.context != NULL:
            self.tracer.release(self.context, self.who)
        self.context = unit
        self.context_left = count
        self.context_is_inside = self.transaction != NULL
        if unit != NULL and count > 1:
            self.tracer.surround(unit)
        return 0

    cdef int _consume_context(self) except -1:
        """One of the commands that the context was given for."""
        cdef Unit* unit = self.context
        if unit != NULL:
            self.context_left -= 1
            if self.context_left <= 0:
                self.context = NULL
                self.tracer.release(unit, self.who)
        return 0

    cdef int end_batch(self) except -1:
        """The requests of one read are taken, and its bytes no more there."""
        cdef Unit* unit = self.batch
        self.request(NULL, NULL, NULL, 0, 0)
        if unit != NULL:
            self.batch = NULL
            self.tracer.release(unit, self.who)
        return 0

    cdef int _let_transaction_go(self) except -1:
        cdef Unit* unit = self.transaction
        if unit != NULL:
            self.transaction = NULL
            self.tracer.release(unit, self.who)
        return 0

    cdef int transaction_lost(self, str error_type, long long now) except -1:
        """The connection ends before the EXEC or DISCARD of what MULTI has begun."""
        cdef bytes text = error_type.encode()
        if self.transaction == NULL:
            return 0
        return self.tracer.close(self.transaction, self.who, now, 0, text, len(text))

    cdef int forget(self) except -1:
        """What comes next belongs to nothing."""
        self._let_transaction_go()
        self.end_batch()
        return self.give_context(NULL, 0)

    # ---- how it ended ----------------------------------------------------------------------------------------------------------

    cdef int replied(self, Pending* entry, long long now) except -1:
        """Write one command, whose reply is in the framer, to the ledger, and tell the tracer."""
        cdef Ledger ledger = self.ledger
        cdef ReplyFramer framer = self.replies
        cdef long long duration = now - entry.at_ns if not entry.flags & (BLOCKS | QUEUED) else -1
        cdef Row* row
        cdef long long hits = 0, misses = 0
        cdef Tracer tracer = self.tracer
        if entry.awaiting >= REFUSAL or not (ledger.enabled or entry.unit != NULL or tracer.enabled):
            return 0
        if framer.type == ERROR or framer.type == BIG_ERROR:
            if ledger.enabled:
                ledger.error(entry.command, framer.head, framer.head_length, duration, entry.size, framer.size)
        else:
            if ledger.enabled:
                row = ledger.reply(entry.command, duration, entry.size, framer.size)
                if entry.flags & BLOCKS and not entry.flags & QUEUED:
                    ledger.blocked(entry.command, now - entry.at_ns)
            else:
                row = ledger.row(entry.command)
            if row.rule:
                if row.rule == EACH_RULE:
                    hits, misses = framer.count - framer.nulls, framer.nulls
                elif row.rule == ARGUMENTS_RULE:
                    hits, misses = framer.integer, entry.expected - framer.integer
                elif row.rule == NIL_RULE:
                    hits = not framer.null and (framer.count != 0 or framer.type not in (ARRAY, SET, MAP))
                elif row.rule == EMPTY_RULE:
                    hits = not framer.null and framer.count != 0
                elif row.rule == ZERO_RULE:
                    hits = framer.integer != 0
                elif self.relay.on_unknown is not None:       # LACKED_RULE
                    self.relay.on_unknown()
                if row.rule < EACH_RULE:
                    misses = not hits
                if ledger.enabled:
                    row.totals.hits += hits
                    row.totals.misses += misses
        if entry.unit != NULL:
            if entry.unit.decision == spans.REFUSED and entry.flags == 0 and now - entry.at_ns <= tracer.slow_ns and \
                    framer.type != ERROR and framer.type != BIG_ERROR:
                tracer.pass_by(entry.unit, now, entry.size, framer.size)
                return 0
            self._span(entry, now, spans.MISS if misses else spans.HIT if hits else 0)
        elif tracer.enabled and now - entry.at_ns > tracer.slow_ns:
            self._late(entry, now)
        return 0

    cdef int _late(self, Pending* entry, long long now) except -1:
        """A command without a unit has its reply, and was framed some time ago."""
        cdef Tracer tracer = self.tracer
        if entry.flags & BLOCKS:
            if not entry.flags & QUEUED:
                self.answered_ns = self.before_ns = now
            return 0
        if entry.awaiting == MULTI_REPLY:                     # it takes no time itself
            return 0
        if not tracer.exported and not entry.flags & QUEUED and tracer.treatment(entry.command, NULL, 0) in (spans.TRACED, spans.TRACED_ALONE):
            return self._span(entry, now, 0)
        if now - self._since(entry, now) > tracer.slow_ns:
            return self.relay.suspects.beside(self.who, entry, now, self.replies.size, entry.flags & QUEUED)
        return 0

    cdef long long _since(self, Pending* entry, long long now) noexcept:
        """The time its reply is judged from: when it was framed, or when the replies of earlier reads came."""
        cdef long long before = self.answered_ns if self.answered_ns != now else self.before_ns
        return entry.at_ns if entry.at_ns > before else before

    cdef int _span(self, Pending* entry, long long now, int found) except -1:
        """Tell the tracer that the command has its reply, which is in the framer. found: HIT, MISS or 0."""
        cdef Tracer tracer = self.tracer
        cdef ReplyFramer framer = self.replies
        cdef long long since = self._since(entry, now)
        cdef long long start = entry.at_ns
        cdef bint late = now - since > tracer.slow_ns
        cdef int flags = found
        cdef bint failed = framer.type == ERROR or framer.type == BIG_ERROR
        cdef const char* error = NULL
        cdef int length = 0
        if failed:
            flags |= spans.ERROR_REPLY
            error = framer.head
            length = framer.head_length
            if length and error[length - 1] == 13:
                length -= 1
        if entry.flags & BLOCKS:
            flags |= spans.BLOCKED
            late = False
            if not entry.flags & QUEUED:
                self.answered_ns = self.before_ns = now       # what follows has waited for it, as was asked for
        elif entry.flags & QUEUED and late:
            self.relay.suspects.beside(self.who, entry, now, framer.size, True)
            late = False
        if entry.unit == NULL:                                # told only if it was slow
            return self.relay.suspects.suspect(self.who, entry, since, start, now, framer.size, flags, error, length) if late else 0
        if entry.flags & (OPENS | ENDS):
            entry.unit.request += entry.size
            entry.unit.response += framer.size
            if entry.flags & OPENS and not failed:
                return 0
            if entry.unit == self.transaction:                # refused: what follows runs by itself
                self._let_transaction_go()
            if late:
                return self.relay.suspects.suspect(self.who, entry, since, start, now, framer.size, flags, error, length)
            return tracer.close(entry.unit, self.who, now, flags, error, length)
        if not failed and not late and tracer.pass_by(entry.unit, now, entry.size, framer.size):
            return 0
        if entry.unit.form != spans.SINGLE:
            start = tracer.place(entry.unit, start, now)
        if late:
            return self.relay.suspects.suspect(self.who, entry, since, start, now, framer.size, flags, error, length)
        return tracer.done(entry.unit, self.who, entry.command, start, now, entry.size, framer.size, flags, error, length, entry.key)

    cdef int lost(self, Pending* entry, str error_type, long long now) except -1:
        """A command ends without a reply. error_type: why, "" when none was to come."""
        cdef bytes text = error_type.encode()
        cdef long long start = entry.at_ns
        if entry.awaiting >= REFUSAL:
            return 0
        if self.ledger.enabled:
            self.ledger.lost(entry.command, error_type, entry.size)
        if entry.unit == NULL:
            return 0
        if entry.flags & ENDS and entry.unit.form == spans.TRANSACTION:
            return self.tracer.close(entry.unit, self.who, now, 0, text, len(text))
        if entry.flags & OPENS and entry.unit.form == spans.TRANSACTION:
            return 0
        if entry.unit.form != spans.SINGLE:
            start = self.tracer.place(entry.unit, start, now)
        return self.tracer.done(entry.unit, self.who, entry.command, start, now, entry.size, 0, spans.BLOCKED if entry.flags & BLOCKS else 0,
                                text, len(text), entry.key)

    cdef int add_bytes(self, Pending* entry, long long request, long long response) except -1:
        """Bytes of a command beside those of its own reply and the request that it answers."""
        if self.ledger.enabled and entry.awaiting < REFUSAL:
            self.ledger.add_bytes(entry.command, request, response)
        return 0

    cdef int release(self, Pending* entry) except -1:
        """The command is no more in flight."""
        if entry.key != NULL:
            free(entry.key)
            entry.key = NULL
        if entry.unit != NULL:
            if entry.unit.refs > 1:
                entry.unit.refs -= 1
            else:
                self.tracer.release(entry.unit, self.who)
            entry.unit = NULL
        return 0

    cdef int apply(self, object change) except -1:
        """Something about the client has changed: sidecar.relay.notes says what. Spans show the text, and the database."""
        for name, value in change:
            if name == "lib-name":
                self.who.lib_name = value
            elif name == "lib-ver":
                self.who.lib_version = value
            elif name == "name":
                self.who.client_name = value
            elif name == "user":
                self.who.user = value
            elif name == "database":
                self.who.database = value
        self.who.changed()
        return 0
