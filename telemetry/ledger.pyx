"""The ledger: what every command cost, counted where it happened.

Owns, per (command, outcome), the calls and a fixed histogram of durations, and per command the bytes, hits and misses and the waiting time
of blocking commands. One write per command; everything is cumulative since the worker's start. It never reads a clock and knows no
connection: the session gives durations (nanoseconds) and sizes (bytes). Snapshots are binary frames, decoded by ``telemetry.totals``.
"""

import struct

cimport cython
from libc.stdlib cimport calloc, free, realloc

from telemetry.lookups import LACKED, RULES
from telemetry.names import DURATION_BOUNDS_NS

cdef enum:
    CODES_MAX = 64

OTHER_CODE = "_OTHER"
cdef Py_ssize_t _FRAME_BYTES = 60_000     # a frame is one packet of the link


@cython.final
cdef class Ledger:
    """names: the command table's list, by id; it may grow while the ledger lives."""

    def __init__(self, list names not None, enabled=True):
        cdef int i, bits
        if len(DURATION_BOUNDS_NS) != BUCKETS - 1:
            raise ValueError("telemetry.names.DURATION_BOUNDS_NS does not fit the ledger")
        for i in range(BUCKETS - 1):
            self.bounds_ns[i] = DURATION_BOUNDS_NS[i]
        for bits in range(65):
            i = 0
            while i < BUCKETS - 1 and bits > 0 and self.bounds_ns[i] < (<unsigned long long>1 << (bits - 1)):
                i += 1
            self.first_bucket[bits] = i
        self.names = names
        self.lacking = frozenset()
        self.errors = {}
        self.failure_keys = []
        self.codes = set()
        self.counters = {}
        self.changed_counters = set()
        self.enabled = enabled
        self.grow()

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.size):
            free(self.rows[i])
        for i in range(self.failure_count):
            free(self.failures[i])
        free(self.rows)
        free(self.failures)

    cdef int grow(self) except -1:
        """Make room for every name there is."""
        cdef Py_ssize_t size = len(self.names), i
        if size <= self.size:
            return 0
        rows = <Row**>realloc(self.rows, size * sizeof(Row*))
        if rows == NULL:
            raise MemoryError
        for i in range(self.size, size):
            rows[i] = NULL
        self.rows = rows
        self.size = size
        return 0

    def names_grew(self, lacking=frozenset()):
        """The command table has changed. lacking: the names that the engine lacks; one that is there no more has come with a module."""
        cdef Py_ssize_t i
        self.grow()
        self.lacking = lacking
        for i in range(self.size):
            if self.rows[i] != NULL:
                self.rows[i].rule = self._rule(i)

    cdef unsigned char _rule(self, Py_ssize_t command) except? 0:
        name = self.names[command]
        return LACKED if command == 0 or name in self.lacking else RULES.get(name, 0)

    cdef Row* new_row(self, Py_ssize_t command) except NULL:
        self.rows[command] = <Row*>calloc(1, sizeof(Row))
        if self.rows[command] == NULL:
            raise MemoryError
        self.rows[command].rule = self._rule(command)
        return self.rows[command]

    cdef int blocked(self, Py_ssize_t command, long long duration_ns) except -1:
        """A blocking command waited and got its reply after duration_ns."""
        cdef Row* row = self.row(command)
        row.totals.blocked_sum_ns += duration_ns
        row.totals.blocked[self.bucket(duration_ns)] += 1
        row.changed = True
        return 0

    cdef Failure* failure(self, Py_ssize_t command, str name) except NULL:
        """The row of (command, error type)."""
        key = (command, name)
        index = self.errors.get(key)
        if index is None:
            if self.failure_count == self.failure_capacity:
                failures = <Failure**>realloc(self.failures, (self.failure_capacity * 2 + 16) * sizeof(Failure*))
                if failures == NULL:
                    raise MemoryError
                self.failures = failures
                self.failure_capacity = self.failure_capacity * 2 + 16
            index = self.failure_count
            self.failures[index] = <Failure*>calloc(1, sizeof(Failure))
            if self.failures[index] == NULL:
                raise MemoryError
            self.failure_count += 1
            self.failure_keys.append(key)
            self.errors[key] = index
        return self.failures[<Py_ssize_t>index]

    cdef int error(self, Py_ssize_t command, const char* text, Py_ssize_t length, long long duration_ns, long long request, long long response) except -1:
        """A command got an error reply; text: its beginning, after the ``-``."""
        cdef Row* row = self.row(command)
        cdef Failure* failure
        cdef Py_ssize_t i = 0
        cdef str name = OTHER_CODE
        while i < length and i <= CODE_MAX and (65 <= text[i] <= 90 or (i > 0 and (text[i] == 95 or 48 <= text[i] <= 57))):
            i += 1
        if 0 < i <= CODE_MAX and (i == length or text[i] == 32 or text[i] == 13):
            name = text[:i].decode("ascii")
            if name not in self.codes:
                if len(self.codes) >= CODES_MAX:
                    name = OTHER_CODE
                else:
                    self.codes.add(name)
        failure = self.failure(command, name)
        failure.outcome.calls += 1
        failure.changed = True
        if duration_ns >= 0:
            failure.outcome.sum_ns += duration_ns
            failure.outcome.buckets[self.bucket(duration_ns)] += 1
        row.totals.request_bytes += request
        row.totals.response_bytes += response
        row.changed = True
        return 0

    cdef int add_bytes(self, Py_ssize_t command, long long request, long long response) except -1:
        """Bytes of a command beside those that its call is counted with."""
        cdef Row* row = self.row(command)
        row.totals.request_bytes += request
        row.totals.response_bytes += response
        row.changed = True
        return 0

    def lost(self, Py_ssize_t command, str error_type, long long request=0):
        """A command that never got a reply. error_type: `connection_lost`, `client_gone`, or "" where none was to come."""
        cdef Row* row = self.row(command)
        cdef Failure* failure
        row.totals.request_bytes += request
        row.changed = True
        if error_type:
            failure = self.failure(command, error_type)
            failure.outcome.calls += 1
            failure.changed = True
        else:
            row.success.calls += 1

    def count(self, str name, str label="", long long n=1):
        """Add to a counter that belongs to no command, such as ("connections.rejected", "maxclients")."""
        key = (name, label)
        self.counters[key] = self.counters.get(key, 0) + n
        self.changed_counters.add(key)

    def record(self, Py_ssize_t command, long long duration_ns, long long request, long long response, bytes error=None):
        """Record one command: for tests; the session calls the parts itself. error: the text of an error reply after its ``-``."""
        if error is None:
            self.reply(command, duration_ns, request, response)
        else:
            self.error(command, error, len(error), duration_ns, request, response)

    def snapshot(self, gauges=(), bint everything=False):
        """The rows that changed since the last snapshot, as frames (list of bytes) for the link.

        gauges: (name, label, value) triples added to the frame; everything: all rows, changed or not.
        """
        cdef list frames = []
        cdef bytearray frame = bytearray(b"S")
        cdef Py_ssize_t i
        cdef Row* row
        cdef Failure* failure
        for i in range(self.size):
            row = self.rows[i]
            if row != NULL and (row.changed or everything):
                row.changed = False
                if row.success.calls:
                    frame = _row(frames, frame, 1, self.names[i], "", (<char*>&row.success)[:sizeof(Outcome)])
                frame = _row(frames, frame, 2, self.names[i], "", (<char*>&row.totals)[:sizeof(Totals)])
        for i in range(self.failure_count):
            failure = self.failures[i]
            if failure.changed or everything:
                failure.changed = False
                command, code = self.failure_keys[i]
                frame = _row(frames, frame, 1, self.names[command], code, (<char*>&failure.outcome)[:sizeof(Outcome)])
        for key in (list(self.counters) if everything else self.changed_counters):
            frame = _row(frames, frame, 3, key[0], key[1], struct.pack("<Q", self.counters[key]))
        self.changed_counters.clear()
        for name, label, value in gauges:
            frame = _row(frames, frame, 4, name, label, struct.pack("<q", value))
        if len(frame) > 1:
            frames.append(bytes(frame))
        return frames


cdef bytearray _row(list frames, bytearray frame, int kind, str name, str label, bytes values):
    cdef bytes encoded = name.encode()
    cdef bytes label_encoded = label.encode()
    frame += struct.pack("<BH", kind, len(encoded))
    frame += encoded
    frame += struct.pack("<H", len(label_encoded))
    frame += label_encoded
    frame += values
    if len(frame) > _FRAME_BYTES:
        frames.append(bytes(frame))
        frame = bytearray(b"S")
    return frame
