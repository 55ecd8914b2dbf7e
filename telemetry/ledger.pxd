# The ledger: one write per command.

cimport cython

cdef enum:
    BUCKETS = 34        # telemetry.names: 33 bounds and the rest
    CODE_MAX = 32

cdef struct Outcome:
    unsigned long long calls
    unsigned long long sum_ns
    unsigned long long buckets[BUCKETS]

cdef struct Totals:
    unsigned long long request_bytes
    unsigned long long response_bytes
    unsigned long long hits
    unsigned long long misses
    unsigned long long blocked_sum_ns
    unsigned long long blocked[BUCKETS]

cdef struct Row:
    Outcome success
    Totals totals
    unsigned char rule              # how hits and misses show in the reply, see telemetry/lookups.py
    bint changed

cdef struct Failure:
    Outcome outcome
    bint changed

cdef extern from *:
    """
    static inline int bit_length(unsigned long long v) { return v ? 64 - __builtin_clzll(v) : 0; }
    """
    int bit_length(unsigned long long v) noexcept nogil

@cython.final
cdef class Ledger:
    cdef list names
    cdef object lacking             # names that the engine lacks
    cdef Py_ssize_t size
    cdef Row** rows                 # by command id, allocated at the first call
    cdef dict errors                # (command id, code) -> index into `failures`
    cdef list failure_keys
    cdef Failure** failures
    cdef Py_ssize_t failure_count
    cdef Py_ssize_t failure_capacity
    cdef set codes
    cdef dict counters
    cdef set changed_counters
    cdef public bint enabled
    cdef unsigned long long bounds_ns[BUCKETS - 1]
    cdef unsigned char first_bucket[65]      # by the bit length of a duration in ns: the first bucket that can hold it

    cdef int grow(self) except -1
    cdef unsigned char _rule(self, Py_ssize_t command) except? 0
    cdef Row* new_row(self, Py_ssize_t command) except NULL
    cdef Failure* failure(self, Py_ssize_t command, str name) except NULL
    cdef int error(self, Py_ssize_t command, const char* text, Py_ssize_t length, long long duration_ns, long long request, long long response) except -1
    cdef int add_bytes(self, Py_ssize_t command, long long request, long long response) except -1
    cdef int blocked(self, Py_ssize_t command, long long duration_ns) except -1

    cdef inline Row* row(self, Py_ssize_t command) except NULL:
        return self.rows[command] if self.rows[command] != NULL else self.new_row(command)

    cdef inline int bucket(self, long long duration_ns) noexcept nogil:
        cdef int i = self.first_bucket[bit_length(duration_ns)]
        while i < BUCKETS - 1 and <unsigned long long>duration_ns > self.bounds_ns[i]:
            i += 1
        return i

    cdef inline Row* reply(self, Py_ssize_t command, long long duration_ns, long long request, long long response) except NULL:
        """A command has succeeded. duration_ns: -1 when it has no duration of its own; request, response: bytes. Returns its row."""
        cdef Row* row = self.row(command)
        row.success.calls += 1
        row.totals.request_bytes += request
        row.totals.response_bytes += response
        row.changed = True
        if duration_ns >= 0:
            row.success.sum_ns += duration_ns
            row.success.buckets[self.bucket(duration_ns)] += 1
        return row
