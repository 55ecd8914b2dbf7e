"""Spans of one worker: which commands become one, under which parent, and the records of those that do.

Owns the decision (sampler, budgets, errors and slow commands that are kept), ids, and packets in the layout of
``telemetry.spanpacket``. Everything is decided when a reply is complete; nothing is written before. It knows no connection: a route says
which commands belong together. Budgets are shared by all workers through memory: one number each, the time at which the bucket is full.
"""

import hashlib
import os
import time

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memset
from posix.mman cimport MAP_SHARED, PROT_READ, PROT_WRITE, MAP_FAILED, mmap as c_mmap

from telemetry import spanpacket
from telemetry.housekeeping import KEY_PREFIX, is_housekeeping

cdef enum:
    BUDGET_OF_REMOTE, BUDGET_OF_ROOTS, BUDGET_OF_CHILDREN, BUDGET_OF_KEPT
    SPAN_BYTES = 97
    CHILDREN_APART_NS = 1000
    HEADER_BYTES = 13
    PIPELINE_NAME = 65535
    SPARES_MAX = 1024
    KEY_ARGUMENTS_MAX = 8

BUDGETS_BYTES = 4 * 8
"""Bytes of the memory that workers share."""

REASONS_OF_DROPS = ("sampler", "budget_remote", "budget_root", "budget_children", "budget_kept", "omitted", "raw")
"""Labels of valkey.sidecar.spans.dropped that a worker counts, in the order of `Reason`."""

cdef Py_ssize_t _PACKET_BYTES = 48 * 1024     # one packet of the link, with room for the longest row
cdef int _CHILDREN_MAX = 128
# Commands of StackExchange.Redis with its own keys and channels.
_OWN_COMMANDS = frozenset({"DEL", "GET", "SET", "SETEX", "PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"})
if KEY_PREFIX != <bytes>OWN:
    raise ImportError("telemetry.spans and telemetry.housekeeping do not agree")

if (HAS_PARENT, REMOTE_PARENT, HIT, MISS, BLOCKED, ERROR_REPLY, KEPT_ERROR, KEPT_SLOW, SLOW, SAMPLED) != (
        spanpacket.HAS_PARENT, spanpacket.REMOTE_PARENT, spanpacket.HIT, spanpacket.MISS, spanpacket.BLOCKED, spanpacket.ERROR_REPLY,
        spanpacket.KEPT_ERROR, spanpacket.KEPT_SLOW, spanpacket.SLOW, spanpacket.SAMPLED) \
        or SPAN_BYTES != spanpacket.SPAN.size or HEADER_BYTES != spanpacket.HEADER.size:
    raise ImportError("telemetry.spans and telemetry.spanpacket do not agree")

cdef extern from *:
    """
    static inline long long budget_load(long long *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline int budget_swap(long long *p, long long old, long long new_) {
        return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }
    """
    long long budget_load(long long* p) noexcept nogil
    bint budget_swap(long long* p, long long old, long long new_) noexcept nogil


cdef class Identity:
    """Who sends commands. transport: "tcp" or "unix"; the user is "" when it is the default one."""

    def __init__(self, str address, int port, str transport):
        self.address = address
        self.port = port
        self.transport = transport
        self.client_name = self.lib_name = self.lib_version = self.user = ""

    def changed(self):
        """What it says is not what the present packet says."""
        self.packet = 0


cdef class Tracer:
    """names: the command table's list, by id; it may grow. Disabled until `configure`."""

    def __cinit__(self):
        self.capacity = _PACKET_BYTES + 16 * 1024
        self.buffer = <char*>malloc(self.capacity)
        if self.buffer == NULL:
            raise MemoryError

    def __init__(self, list names not None):
        self.names = names
        self.excluded = ()
        self.packet = 1
        self.length = HEADER_BYTES
        seed = os.urandom(16)
        memcpy(self.random_state, <const char*>seed, 16)
        self.random_state[0] |= 1

    def __dealloc__(self):
        cdef Unit* unit
        while self.spare != NULL:
            unit = self.spare
            self.spare = unit.next
            free(unit)
        free(self.buffer)
        free(self.treatments)
        free(self.first_keys)
        free(self.name_packets)

    def configure(self, settings, int budgets_fd):
        """Begin to trace.

        settings: {"root": "on" | "off" | ratio, "parent_based": bool, "budgets": [remote, root, children, kept] in spans per second,
        "bursts": the same in spans, "slow_ns": int, "exclude": patterns of names, "limited": whether the budgets count for what is sampled,
        "keys": "off" | "hash" | "whole", "exported": spans go to somebody; else only slow commands are told, and no drops counted}.
        budgets_fd: BUDGETS_BYTES of shared memory; it is closed.
        """
        cdef void* memory
        root = settings["root"]
        self.always = root == "on"
        self.threshold = 0 if root in ("on", "off") else <unsigned long long>min(int(float(root) * 2.0 ** 64), 2 ** 64 - 1)
        if root not in ("on", "off") and float(root) >= 1.0:
            self.always = True
        self.parent_based = settings["parent_based"]
        self.budgets_apply = settings["limited"]
        for i in range(4):
            rate, burst = settings["budgets"][i], settings["bursts"][i]
            self.intervals_ns[i] = 1_000_000_000 // rate if rate else 0
            self.bursts_ns[i] = self.intervals_ns[i] * burst
        self.slow_ns = settings["slow_ns"]
        self.excluded = tuple(settings["exclude"])
        self.wants_keys = settings["keys"] != "off"
        self.hashes_keys = settings["keys"] == "hash"
        self.exported = settings["exported"]
        memory = c_mmap(NULL, BUDGETS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, budgets_fd, 0)
        os.close(budgets_fd)
        if memory == MAP_FAILED:
            raise OSError("the memory of the budgets cannot be mapped")
        self.times = <long long*>memory
        self.enabled = True
        self.names_grew({})

    def names_grew(self, first_keys):
        """The command table has more names than before. first_keys: by name, the position of the first key."""
        cdef Py_ssize_t size = len(self.names), i
        if size > self.size:
            self.treatments = <unsigned char*>realloc(self.treatments, size)
            self.first_keys = <int*>realloc(self.first_keys, size * sizeof(int))
            self.name_packets = <unsigned int*>realloc(self.name_packets, size * sizeof(int))
            if self.treatments == NULL or self.first_keys == NULL or self.name_packets == NULL:
                raise MemoryError
            for i in range(self.size, size):
                self.name_packets[i] = 0
                self.first_keys[i] = 0
            self.size = size
        for i in range(size):
            name = self.names[i]
            if is_housekeeping(name):          # the client's side knows this list, not what is excluded here
                self.treatments[i] = PASSED_OVER if is_housekeeping(name, self.excluded) else TRACED_ALONE
            elif is_housekeeping(name, self.excluded):
                self.treatments[i] = UNTRACED
            else:
                self.treatments[i] = TRACED_BUT_OWN if name in _OWN_COMMANDS else TRACED
            self.first_keys[i] = first_keys.get(name, self.first_keys[i])

    def take_drops(self):
        """How many spans were not sent since the last time, by reason."""
        cdef dict found = {}
        cdef int i
        for i in range(<int>REASONS):
            if self.drops[i]:
                found[REASONS_OF_DROPS[i]] = self.drops[i]
                self.drops[i] = 0
        return found

    def flush(self):
        """Hand over the packet that has been begun."""
        cdef long long offset
        cdef unsigned int spans = self.spans
        if spans == 0:
            return
        offset = time.time_ns() - time.monotonic_ns()
        self.buffer[0] = 84     # T
        memcpy(self.buffer + 1, &offset, 8)
        memcpy(self.buffer + 9, &spans, 4)
        packet = PyBytes_FromStringAndSize(self.buffer, self.length)
        self.packet += 1
        self.identities = self.spans = 0
        self.length = HEADER_BYTES
        self.on_packet(packet)

    # ---- units -----------------------------------------------------------------------------------------------------------------

    cdef Unit* _new(self) except NULL:
        cdef Unit* unit = self.spare
        if unit != NULL:
            self.spare = unit.next
            self.spares -= 1
        else:
            unit = <Unit*>malloc(sizeof(Unit))
            if unit == NULL:
                raise MemoryError
        memset(unit, 0, sizeof(Unit))
        unit.refs = 1
        self.units += 1
        return unit

    cdef Unit* root(self) except NULL:
        """Commands without a context. The caller holds the reference."""
        cdef Unit* unit = self._new()
        self._random_id(unit.trace_id, TRACE_ID)
        unit.sampled = self._root_sampled(unit.trace_id)
        unit.trace_flags = 1
        self._refuse_unsampled(unit)
        return unit

    cdef Unit* below(self, const char* trace_id, const char* parent_id, unsigned char trace_flags, const char* state, int state_length) except NULL:
        """Commands with a context. The caller holds the reference."""
        cdef Unit* unit = self._new()
        memcpy(unit.trace_id, trace_id, TRACE_ID)
        memcpy(unit.parent_id, parent_id, ID)
        unit.remote = True
        unit.trace_flags = trace_flags
        unit.sampled = (trace_flags & 1) if self.parent_based else self._root_sampled(trace_id)
        if state_length:
            unit.state = <char*>malloc(state_length)
            if unit.state == NULL:
                raise MemoryError
            memcpy(unit.state, state, state_length)
            unit.state_length = state_length
        self._refuse_unsampled(unit)
        return unit

    cdef Unit* transaction(self, Unit* context, unsigned short command, long long start_ns) except NULL:
        """What MULTI begins: in a context, or (NULL) on its own. The caller holds the reference."""
        cdef Unit* unit
        if context == NULL:
            unit = self.root()
        else:
            unit = self.below(context.trace_id, context.parent_id, context.trace_flags, context.state, context.state_length)
        unit.form = TRANSACTION
        unit.command = command
        unit.start_ns = start_ns
        self._random_id(unit.span_id, ID)
        return unit

    cdef int surround(self, Unit* unit) except -1:
        """It has more than one command: there is a span around them."""
        unit.form = PIPELINE
        unit.command = PIPELINE_NAME
        self._random_id(unit.span_id, ID)
        return 0

    cdef int release(self, Unit* unit, Identity who) except -1:
        """Give a reference back. With the last one, a span around is written."""
        unit.refs -= 1
        if unit.refs:
            return 0
        if unit.form == PIPELINE and unit.children + unit.omitted and not unit.told:
            self._write_around(unit, who, <int>SLOW if unit.slow else 0, NULL, 0)
        elif unit.form == TRANSACTION and not unit.told:       # the connection ended, or RESET did it
            self.close(unit, who, unit.end_ns if unit.end_ns else unit.start_ns, 0, NULL, 0)
        self.units -= 1
        free(unit.state)
        if self.spares < SPARES_MAX:
            unit.next = self.spare
            self.spare = unit
            self.spares += 1
        else:
            free(unit)
        return 0

    # ---- decisions -------------------------------------------------------------------------------------------------------------

    cdef unsigned long long _random(self) noexcept nogil:
        """xorshift128+."""
        cdef unsigned long long a = self.random_state[0]
        cdef unsigned long long b = self.random_state[1]
        self.random_state[0] = b
        a ^= a << 23
        self.random_state[1] = a ^ b ^ (a >> 17) ^ (b >> 26)
        return self.random_state[1] + b

    cdef void _random_id(self, char* id, int length) noexcept nogil:
        cdef unsigned long long half
        cdef int at
        for at in range(0, length, 8):
            half = 0
            while half == 0:
                half = self._random()
            memcpy(id + at, &half, 8)

    cdef bint _root_sampled(self, const char* trace_id) noexcept nogil:
        """The specification's TraceIdRatioBased: the low 64 bits of the id, as a big-endian number, against the ratio."""
        cdef unsigned long long low = 0
        cdef int i
        if self.always or self.threshold == 0:
            return self.always
        for i in range(8, TRACE_ID):
            low = (low << 8) | <unsigned char>trace_id[i]
        return low < self.threshold

    cdef bint _take(self, int budget, long long now) noexcept nogil:
        """Take one span from a budget. The number is the time at which the bucket will be full again (GCRA)."""
        cdef long long interval = self.intervals_ns[budget]
        cdef long long full, later
        if interval == 0:
            return False
        while True:
            full = budget_load(self.times + budget)
            later = (full if full > now else now) + interval
            if later - now > self.bursts_ns[budget]:
                return False
            if budget_swap(self.times + budget, full, later):
                return True

    cdef void _refuse_unsampled(self, Unit* unit) noexcept nogil:
        """What the sampler does not want needs no look at the budgets."""
        if not unit.sampled:
            unit.decision = REFUSED
            unit.reason = SAMPLER

    cdef void _admit(self, Unit* unit, long long now) noexcept nogil:
        """Decide about a unit that the sampler wants: whether its spans go out."""
        if not self.budgets_apply or self._take(BUDGET_OF_REMOTE if unit.remote else BUDGET_OF_ROOTS, now):
            unit.decision = SENT
        else:
            unit.decision = REFUSED
            unit.reason = BUDGET_REMOTE if unit.remote else BUDGET_ROOT

    cdef int done(self, Unit* unit, Identity who, unsigned short command, long long start_ns, long long end_ns, long long request, long long response,
                  int flags, const char* error, int error_length, const char* key) except -1:
        """A command of the unit has ended. flags: of the span; error: its reply's text, or an error.type, if any; key: NULL, or two bytes of length and the key."""
        cdef char span_id[ID]
        cdef bint child = unit.form != SINGLE and not unit.told
        cdef bint notable = flags & SLOW or (error_length > 0 and self.exported)
        cdef bint sent
        cdef int reason = OMITTED
        self._ended(unit, end_ns, request, response)
        if unit.decision == OPEN:
            self._admit(unit, end_ns)
        sent = unit.decision == SENT
        if not sent:
            reason = unit.reason
        elif child:
            if unit.children >= _CHILDREN_MAX:
                sent = False
            elif self.budgets_apply and not self._take(BUDGET_OF_REMOTE if unit.remote else BUDGET_OF_CHILDREN, end_ns):
                sent = False
                reason = BUDGET_REMOTE if unit.remote else BUDGET_CHILDREN
        if not sent and notable:
            if self._take(BUDGET_OF_KEPT, end_ns):
                flags |= KEPT_ERROR if error_length else KEPT_SLOW
                unit.kept |= flags & (KEPT_ERROR | KEPT_SLOW)
                sent = True
            else:
                reason = BUDGET_KEPT
        if not sent:
            if unit.form != SINGLE:
                unit.omitted += 1
                unit.omitted_errors += error_length > 0
            self.drop(reason)
            return 0
        if unit.sampled:
            flags |= SAMPLED
        self._random_id(span_id, ID)
        if child:
            unit.children += 1
            return self._write(who, 1, flags | HAS_PARENT, unit, span_id, unit.span_id, command, start_ns, end_ns, request, response, 0, error,
                               error_length, key)
        if unit.remote:
            flags |= HAS_PARENT | REMOTE_PARENT
        return self._write(who, 2, flags, unit, span_id, unit.parent_id, command, start_ns, end_ns, request, response, 0, error, error_length, key)

    cdef long long place(self, Unit* unit, long long at_ns, long long end_ns) noexcept:
        """Where the span of a command of this unit begins: viewers sort children by that. At the earliest 1 µs behind the one before it.

        Commands that came together have only their order. Where they all took less than 1 µs each, there is as much room as there is.
        """
        cdef long long apart = CHILDREN_APART_NS
        if at_ns < unit.next_ns:
            at_ns = unit.next_ns if unit.next_ns < end_ns else end_ns
        if end_ns - unit.start_ns < unit.count * apart:
            apart = (end_ns - unit.start_ns) // (unit.count + 1)
        unit.next_ns = at_ns + apart
        return at_ns

    cdef int blame(self, Unit* unit, long long now) except -1:
        """One of the commands of a pipeline was slow, and nobody knows which: the span around them is."""
        if unit.form != PIPELINE or unit.told or unit.slow:
            return 0
        if unit.decision == OPEN:
            self._admit(unit, now)
        if unit.decision != SENT and not unit.kept:
            if not self._take(BUDGET_OF_KEPT, now):            # its commands are counted as not sent; it is none
                return 0
            unit.kept = KEPT_SLOW
        unit.slow = True
        return 0

    cdef int close(self, Unit* unit, Identity who, long long end_ns, int flags, const char* error, int error_length) except -1:
        """A transaction has ended: EXEC or DISCARD was answered, or the connection is lost. flags, error: as of `done`."""
        cdef int reason
        if unit.told:
            return 0
        unit.end_ns = end_ns
        if unit.decision == OPEN:
            self._admit(unit, end_ns)
        if unit.decision != SENT and not unit.kept:
            reason = unit.reason
            if flags & SLOW or (error_length > 0 and self.exported):
                reason = BUDGET_KEPT
                if self._take(BUDGET_OF_KEPT, end_ns):
                    unit.kept = KEPT_ERROR if error_length else KEPT_SLOW
            if not unit.kept:
                unit.told = True
                self.drop(reason)
                return 0
        return self._write_around(unit, who, flags, error, error_length)

    cdef int _write_around(self, Unit* unit, Identity who, int flags, const char* error, int error_length) except -1:
        unit.told = True
        if unit.decision != SENT and not unit.kept:
            return 0
        flags |= unit.kept if unit.decision != SENT else 0
        if unit.sampled:
            flags |= SAMPLED
        if unit.remote:
            flags |= HAS_PARENT | REMOTE_PARENT
        return self._write(who, 2, flags, unit, unit.span_id, unit.parent_id, unit.command, unit.start_ns, unit.end_ns, unit.request, unit.response,
                           unit.count if unit.count > 1 else 0, error, error_length, NULL)

    # ---- keys ------------------------------------------------------------------------------------------------------------------

    cdef char* key(self, Py_ssize_t command, const char* start, const char* end) except? NULL:
        """The first key of a whole request, as `--sidecar-trace-keys` wants it: two bytes of length and the bytes; NULL when there is none to show.

        The caller frees it.
        """
        cdef const char* p = start
        cdef long long length = 0
        cdef int position, i
        if command >= self.size or start == NULL or p[0] != 42:
            return NULL
        position = self.first_keys[command]
        if position <= 0 or position > KEY_ARGUMENTS_MAX:
            return NULL
        for i in range(position + 1):
            p = <const char*>memchr(p, 36, end - p) if i == 0 else p
            if p == NULL or p >= end or p[0] != 36:
                return NULL
            p += 1
            length = 0
            while p < end and 48 <= p[0] <= 57 and length <= end - p:    # wrong line ends may show it any number
                length = length * 10 + (p[0] - 48)
                p += 1
            p += 2
            if end - p < length + 2:
                return NULL
            if i < position:
                p += length + 2
        if self.hashes_keys:
            digest = hashlib.sha256(p[:length]).hexdigest()[:16].encode()
            return _kept(digest, len(digest))
        return _kept(p, length if length < TEXT_MAX else TEXT_MAX)

    # ---- records ---------------------------------------------------------------------------------------------------------------

    cdef int _reserve(self, size_t n) except -1:
        cdef char* bigger
        if self.length + n > self.capacity:
            bigger = <char*>realloc(self.buffer, self.length + n + 16 * 1024)
            if bigger == NULL:
                raise MemoryError
            self.buffer = bigger
            self.capacity = self.length + n + 16 * 1024
        return 0

    cdef int _write_name(self, unsigned short command) except -1:
        cdef bytes name
        cdef unsigned short length
        if command == PIPELINE_NAME:
            if self.pipeline_packet == self.packet:
                return 0
            self.pipeline_packet = self.packet
            name = b"PIPELINE"
        else:
            if self.name_packets[command] == self.packet:
                return 0
            self.name_packets[command] = self.packet
            name = self.names[command].encode("utf-8", "replace")[:TEXT_MAX]
        length = <unsigned short>len(name)
        self._reserve(5 + length)
        self.buffer[self.length] = 78     # N
        memcpy(self.buffer + self.length + 1, &command, 2)
        memcpy(self.buffer + self.length + 3, &length, 2)
        memcpy(self.buffer + self.length + 5, <const char*>name, length)
        self.length += 5 + length
        return 0

    cdef int _write_identity(self, Identity who) except -1:
        cdef bytes row
        if who.packet == self.packet:
            return 0
        who.packet = self.packet
        self.identities += 1
        who.id = self.identities
        lib = f"{who.lib_name}/{who.lib_version}" if who.lib_name and who.lib_version else who.lib_name
        row = spanpacket.IDENTITY.pack(b"I", who.id, spanpacket.TRANSPORTS.index(who.transport), who.database, who.port)
        for text in (who.address, who.client_name, lib, who.user):
            encoded = text.encode("utf-8", "replace")[:TEXT_MAX]
            row += len(encoded).to_bytes(2, "little") + encoded
        self._reserve(len(row))
        memcpy(self.buffer + self.length, <const char*>row, len(row))
        self.length += len(row)
        return 0

    cdef int _write(self, Identity who, int kind, int flags, Unit* unit, const char* span_id, const char* parent_id, unsigned short command,
                    long long start_ns, long long end_ns, long long request, long long response, long long batch, const char* error,
                    int error_length, const char* key) except -1:
        cdef char* p
        cdef unsigned short key_length = 0, cut_error = <unsigned short>(error_length if error_length < TEXT_MAX else TEXT_MAX)
        cdef unsigned short state_length = <unsigned short>unit.state_length
        cdef unsigned short short_flags = <unsigned short>flags
        cdef unsigned int batch_size = <unsigned int>batch, omitted = 0, omitted_errors = 0
        self._write_name(command)
        self._write_identity(who)
        if key != NULL:
            memcpy(&key_length, key, 2)
        if batch:
            omitted, omitted_errors = <unsigned int>unit.omitted, <unsigned int>unit.omitted_errors
        self._reserve(SPAN_BYTES + cut_error + state_length + key_length)
        p = self.buffer + self.length
        p[0] = 83      # S
        p[1] = <char>kind
        memcpy(p + 2, &short_flags, 2)
        p[4] = <char>unit.trace_flags
        memcpy(p + 5, unit.trace_id, TRACE_ID)
        memcpy(p + 21, span_id, ID)
        memcpy(p + 29, parent_id, ID)
        memcpy(p + 37, &start_ns, 8)
        memcpy(p + 45, &end_ns, 8)
        memcpy(p + 53, &command, 2)
        memcpy(p + 55, &who.id, 4)
        memcpy(p + 59, &request, 8)
        memcpy(p + 67, &response, 8)
        memcpy(p + 75, &batch_size, 4)
        memcpy(p + 79, &omitted, 4)
        memcpy(p + 83, &omitted_errors, 4)
        memcpy(p + 87, &self.engine_us, 4)
        memcpy(p + 91, &cut_error, 2)
        memcpy(p + 93, &state_length, 2)
        memcpy(p + 95, &key_length, 2)
        p += SPAN_BYTES
        if cut_error:
            memcpy(p, error, cut_error)
        if state_length:
            memcpy(p + cut_error, unit.state, state_length)
        if key_length:
            memcpy(p + cut_error + state_length, key + 2, key_length)
        self.length += SPAN_BYTES + cut_error + state_length + key_length
        self.spans += 1
        self.made += 1
        if <Py_ssize_t>self.length > _PACKET_BYTES:
            self.flush()
        return 0


cdef char* _kept(const char* p, Py_ssize_t n) except NULL:
    cdef unsigned short length = <unsigned short>n
    cdef char* found = <char*>malloc(2 + n)
    if found == NULL:
        raise MemoryError
    memcpy(found, &length, 2)
    memcpy(found + 2, p, n)
    return found
