"""Span packets to OTLP's `Span` messages.

Owns the wire format of a span and its attributes, as telemetry.md has them. It never samples, never sends, and never reads past the
end of a packet: every length is checked before it is followed. What repeats (a command's name, who sent it, an error's text) is encoded
once and copied after that. Not for use by two threads at once.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from telemetry.spans cimport BLOCKED, ERROR_REPLY, HAS_PARENT, HIT, KEPT_ERROR, KEPT_SLOW, MISS, REMOTE_PARENT, SAMPLED, SLOW

from telemetry.otlp.encoded import Encoded, Observed
from telemetry.redaction import SCRIPTS, redact_reply
from telemetry.spanpacket import TRANSPORTS, Identity, PacketError

ctypedef unsigned char u8
ctypedef unsigned short u16
ctypedef unsigned int u32
ctypedef unsigned long long u64

cdef extern from *:
    """
    /* The layouts of telemetry.spanpacket; a test compares the sizes by reading its packets. */
    #pragma pack(push, 1)
    typedef struct { unsigned char kind; long long offset_ns; unsigned int spans; } packet_header;
    typedef struct { unsigned char row; unsigned short id, length; } name_row;
    typedef struct { unsigned char row; unsigned int id; unsigned char transport; int database; unsigned short port; } identity_row;
    typedef struct {
        unsigned char row, kind; unsigned short flags; unsigned char trace_flags, trace_id[16], span_id[8], parent_id[8];
        long long start_ns, end_ns; unsigned short name; unsigned int identity; unsigned long long request, response;
        unsigned int batch, omitted, omitted_errors, engine_us; unsigned short error_length, state_length, key_length;
    } span_row;
    #pragma pack(pop)
    """
    ctypedef struct packet_header:
        u8 kind
        long long offset_ns
        u32 spans
    ctypedef struct name_row:
        u16 id
        u16 length
    ctypedef struct identity_row:
        u32 id
        u8 transport
        int database
        u16 port
    ctypedef struct span_row:
        u8 kind
        u16 flags
        u8 trace_flags
        u8 trace_id[16]
        u8 span_id[8]
        u8 parent_id[8]
        long long start_ns
        long long end_ns
        u16 name
        u32 identity
        u64 request
        u64 response
        u32 batch
        u32 omitted
        u32 omitted_errors
        u32 engine_us
        u16 error_length
        u16 state_length
        u16 key_length

cdef enum:
    CODE_MAX = 32              # as in the ledger
    SPAN_FIXED_BYTES = 1024    # what a span needs beside its name, identity, error, tracestate and key
    NAMES_MAX = 4096
    IDENTITIES_MAX = 1024
    ERRORS_MAX = 512
    ERROR_CACHED_BYTES = 512

OTHER_CODE = "_OTHER"
cdef bytes _LACKING = b"ERR unknown "    # errors that are shown by the command's name


cdef bytes varint(u64 value):
    cdef bytearray out = bytearray()
    while value > 127:
        out.append((value & 127) | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


cdef bytes field(int tag, bytes value):
    """A field with a length."""
    return varint(tag) + varint(len(value)) + value


cdef bytes text_attribute(str key, str value):
    return field(0x4A, field(0x0A, key.encode()) + field(0x12, field(0x0A, value.encode("utf-8", "replace"))))


cdef bytes number_attribute(str key, u64 value):
    return field(0x4A, field(0x0A, key.encode()) + field(0x12, b"\x18" + varint(value)))


cdef bytes switch_attribute(str key, bint value):
    return field(0x4A, field(0x0A, key.encode()) + field(0x12, b"\x10\x01" if value else b"\x10\x00"))


# Attributes whose values are few, and the keys of the others.
cdef bytes CACHE_HIT = switch_attribute("valkey.cache.hit", True)
cdef bytes CACHE_MISS = switch_attribute("valkey.cache.hit", False)
cdef bytes IS_BLOCKED = switch_attribute("valkey.blocked", True)
cdef bytes BECAUSE_ERROR = text_attribute("valkey.kept", "error")
cdef bytes BECAUSE_SLOW = text_attribute("valkey.kept", "slow")
cdef bytes SYSTEM = text_attribute("db.system.name", "valkey")
cdef bytes BATCH_SIZE = field(0x0A, b"db.operation.batch.size")
cdef bytes REQUEST_SIZE = field(0x0A, b"valkey.request.size")
cdef bytes RESPONSE_SIZE = field(0x0A, b"valkey.response.size")
cdef bytes ENGINE_DURATION = field(0x0A, b"valkey.engine.duration")
cdef bytes OMITTED = field(0x0A, b"valkey.pipeline.omitted")
cdef bytes OMITTED_ERRORS = field(0x0A, b"valkey.pipeline.omitted.errors")


cdef inline u8* put(u8* to, bytes what) noexcept:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(what)
    memcpy(to, PyBytes_AS_STRING(what), size)
    return to + size


cdef inline u8* put_varint(u8* to, u64 value) noexcept:
    while value > 127:
        to[0] = (value & 127) | 128
        value >>= 7
        to += 1
    to[0] = value
    return to + 1


cdef inline u8* put_number(u8* to, bytes key, u64 value) noexcept:
    """An attribute; with these keys none of its lengths needs a second byte."""
    cdef u8* end = put_varint(to + 5 + PyBytes_GET_SIZE(key), value)
    cdef u8* at
    to[0] = 0x4A
    at = put(to + 2, key)
    at[0] = 0x12
    at[1] = <u8>(end - at - 2)
    at[2] = 0x18
    to[1] = <u8>(end - to - 2)
    return end


cdef inline u8* put_moment(u8* to, u8 tag, long long ns) noexcept:
    """A fixed64, little endian whatever the machine is."""
    cdef int i
    to[0] = tag
    for i in range(8):
        to[1 + i] = <u8>((<u64>ns) >> (8 * i))
    return to + 9


cdef inline u8* put_seconds(u8* to, bytes key, double value) noexcept:
    """An attribute that is a double."""
    cdef u64 bits
    cdef u8* at
    memcpy(&bits, &value, 8)
    to[0] = 0x4A
    to[1] = <u8>(PyBytes_GET_SIZE(key) + 11)
    at = put(to + 2, key)
    at[0] = 0x12
    at[1] = 9
    return put_moment(at + 2, 0x21, <long long>bits)


cdef str text_of(const u8* at, Py_ssize_t length):
    return (<const char*>at)[:length].decode("utf-8", "replace")


cdef str code_of(str text):
    """An error's first word, by the ledger's rule."""
    cdef str word = text.partition(" ")[0].partition("\r")[0]
    if 0 < len(word) <= CODE_MAX and word.isascii() and word[0].isalpha() and word.upper() == word and word.replace("_", "").isalnum():
        return word
    return OTHER_CODE


cdef class _Error:
    """An error as a span shows it: its type, and the encoded status and attributes."""
    cdef str error_type
    cdef bytes encoded

    def __cinit__(self, bytes raw, bint is_reply, str command):
        cdef str text = raw.decode("utf-8", "replace")
        cdef bytes status = b"\x18\x02"
        if is_reply:
            self.error_type = code_of(text)
            status = field(0x12, redact_reply(command, text.strip()).encode("utf-8", "replace")) + status
            self.encoded = text_attribute("db.response.status_code", self.error_type)
        else:
            self.error_type = text
            self.encoded = b""
        self.encoded = self.encoded + text_attribute("error.type", self.error_type) + field(0x7A, status)


cdef class _Name:
    """A command's name: the span's name field and the attribute."""
    cdef str name
    cdef bytes encoded
    cdef bint single

    def __cinit__(self, str name):
        self.name = name
        self.single = name not in ("PIPELINE", "MULTI")
        self.encoded = field(0x2A, name.encode("utf-8", "replace")) + SYSTEM + text_attribute("db.operation.name", name)


cdef class _Who:
    """A row of identity and its attributes."""
    cdef object identity
    cdef bytes encoded

    def __cinit__(self, str transport, long long database, int port, list texts):
        cdef list parts = [text_attribute("db.namespace", str(database)), text_attribute("network.transport", transport)]
        self.identity = Identity(transport, texts[0], port, database, texts[1], texts[2], texts[3])
        if texts[0]:
            parts.append(text_attribute("network.peer.address", texts[0]))
        if port:
            parts.append(number_attribute("network.peer.port", port))
        for key, text in (("valkey.client.name", texts[1]), ("valkey.client.lib", texts[2]), ("enduser.id", texts[3])):
            if text:
                parts.append(text_attribute(key, text))
        self.encoded = b"".join(parts)


@cython.final
cdef class SpanEncoder:
    cdef dict names
    cdef dict identities
    cdef dict errors
    cdef u8* out              # the spans of the packet so far
    cdef Py_ssize_t size
    cdef Py_ssize_t used
    cdef u8* scratch          # the span that is being written
    cdef Py_ssize_t scratch_size

    def __init__(self):
        self.names = {}
        self.identities = {}
        self.errors = {}

    def __dealloc__(self):
        free(self.out)
        free(self.scratch)

    def encode(self, bytes packet not None, bint spans=True):
        cdef const u8* at = <const u8*>PyBytes_AS_STRING(packet)
        cdef const u8* end = at + PyBytes_GET_SIZE(packet)
        cdef packet_header header
        cdef name_row name_head
        cdef span_row span
        cdef dict names = {}
        cdef dict identities = {}
        cdef list ends = []
        cdef list slow = []
        cdef _Name name = None
        cdef _Who who = None
        cdef _Error error
        cdef int name_id = -1
        cdef long long who_id = -1
        cdef long long longest = -1
        cdef long long duration
        cdef Py_ssize_t tail
        cdef span_row best
        cdef _Name best_name = None
        cdef _Who best_who = None
        cdef _Error best_error = None
        if end - at < <Py_ssize_t>sizeof(header) or at[0] != b"T":
            raise PacketError("a span packet begins with T and 12 bytes more")
        memcpy(&header, at, sizeof(header))
        at += sizeof(header)
        self.used = 0
        while at < end:
            if at[0] == b"S":
                if end - at < <Py_ssize_t>sizeof(span):
                    raise PacketError("a span packet ends inside a span")
                memcpy(&span, at, sizeof(span))
                at += sizeof(span)
                tail = <Py_ssize_t>span.error_length + span.state_length + span.key_length
                if end - at < tail or span.kind > 5:
                    raise PacketError("a span of a packet is longer than the packet, or of no kind")
                if span.name != name_id:
                    name = names.get(span.name)
                    name_id = span.name
                if span.identity != who_id:
                    who = identities.get(span.identity)
                    who_id = span.identity
                if name is None or who is None:
                    raise PacketError("a span's name or identity does not stand before it")
                error = self.error(at, span.error_length, span.flags, name.name) if span.error_length or span.flags & ERROR_REPLY else None
                if spans:
                    self.write(&span, header.offset_ns, at, name, who, error)
                    ends.append(self.used)
                duration = span.end_ns - span.start_ns
                if span.flags & SLOW:
                    slow.append(observed(&span, header.offset_ns, name, who, error))
                if span.flags & SAMPLED and name.single and duration > longest and not span.flags & BLOCKED and (error is None or span.flags & ERROR_REPLY):
                    longest = duration
                    best, best_name, best_who, best_error = span, name, who, error
                at += tail
            elif at[0] == b"N":
                if end - at < <Py_ssize_t>sizeof(name_head):
                    raise PacketError("a span packet ends inside a name")
                memcpy(&name_head, at, sizeof(name_head))
                at += sizeof(name_head)
                if end - at < name_head.length:
                    raise PacketError("a span packet ends inside a name")
                names[name_head.id] = self.name(at, name_head.length)
                name_id = -1
                at += name_head.length
            elif at[0] == b"I":
                at = self.identity(at, end, identities)
                who_id = -1
            else:
                raise PacketError("a span packet has a row of an unknown kind")
        return Encoded(
            PyBytes_FromStringAndSize(<const char*>self.out, self.used),
            ends,
            slow,
            None if best_name is None else observed(&best, header.offset_ns, best_name, best_who, best_error),
        )

    cdef _Name name(self, const u8* at, Py_ssize_t length):
        cdef bytes raw = (<const char*>at)[:length]
        cdef _Name name = self.names.get(raw)
        if name is None:
            if len(self.names) >= NAMES_MAX:
                self.names.clear()
            name = self.names[raw] = _Name(text_of(at, length))
        return name

    cdef _Error error(self, const u8* at, Py_ssize_t length, int flags, str command):
        cdef bytes raw = (<const char*>at)[:length]
        cdef bint is_reply = flags & ERROR_REPLY
        cdef tuple key = (raw, is_reply, command if raw.startswith(_LACKING) else command in SCRIPTS)
        cdef _Error error = self.errors.get(key)
        if error is None:
            error = _Error(raw, is_reply, command)
            if length <= ERROR_CACHED_BYTES:
                if len(self.errors) >= ERRORS_MAX:
                    self.errors.clear()
                self.errors[key] = error
        return error

    cdef const u8* identity(self, const u8* at, const u8* end, dict identities) except NULL:
        """Reads a row; returns where the next one begins."""
        cdef const u8* begin = at + 5    # behind the row's kind and id, which mean nothing in another packet
        cdef identity_row head
        cdef Py_ssize_t length
        cdef bytes raw
        cdef _Who who
        cdef list texts
        cdef int i
        if end - at < <Py_ssize_t>sizeof(head):
            raise PacketError("a span packet ends inside an identity")
        memcpy(&head, at, sizeof(head))
        at += sizeof(head)
        for i in range(4):
            if end - at < 2:
                raise PacketError("a span packet ends inside an identity")
            length = at[0] | at[1] << 8
            if end - at - 2 < length:
                raise PacketError("a span packet ends inside an identity")
            at += 2 + length
        if head.transport >= len(TRANSPORTS):
            raise PacketError("an identity of a span packet has an unknown transport")
        raw = (<const char*>begin)[:at - begin]
        who = self.identities.get(raw)
        if who is None:
            texts = []
            begin += sizeof(head) - 5
            for i in range(4):
                length = begin[0] | begin[1] << 8
                texts.append(text_of(begin + 2, length))
                begin += 2 + length
            if len(self.identities) >= IDENTITIES_MAX:
                self.identities.clear()
            who = self.identities[raw] = _Who(TRANSPORTS[head.transport], head.database, head.port, texts)
        identities[head.id] = who
        return at

    cdef int write(self, span_row* span, long long offset_ns, const u8* tails, _Name name, _Who who, _Error error) except -1:
        """Append one span."""
        cdef bytes state = b""
        cdef bytes key = b""
        cdef u8* at
        cdef Py_ssize_t needed, length
        if span.state_length:
            state = field(0x1A, text_of(tails + span.error_length, span.state_length).encode())
        if span.key_length:
            key = text_attribute("valkey.key", key_text((<const char*>tails + span.error_length + span.state_length)[:span.key_length]))
        needed = SPAN_FIXED_BYTES + len(name.encoded) + len(who.encoded) + len(state) + len(key)
        if error is not None:
            needed += len(error.encoded)
        if needed > self.scratch_size:
            self.scratch = grown(self.scratch, needed)
            self.scratch_size = needed
        at = self.scratch
        at[0] = 0x0A
        at[1] = 16
        memcpy(at + 2, span.trace_id, 16)
        at[18] = 0x12
        at[19] = 8
        memcpy(at + 20, span.span_id, 8)
        at = put(at + 28, state)
        if span.flags & HAS_PARENT:
            at[0] = 0x22
            at[1] = 8
            memcpy(at + 2, span.parent_id, 8)
            at += 10
        at[0] = 0x30
        at[1] = span.kind
        at = put_moment(at + 2, 0x39, span.start_ns + offset_ns)
        at = put_moment(at, 0x41, span.end_ns + offset_ns)
        at = put(at, name.encoded)
        at = put(at, who.encoded)
        at = put_number(at, REQUEST_SIZE, span.request)
        at = put_number(at, RESPONSE_SIZE, span.response)
        if span.batch >= 2:
            at = put_number(at, BATCH_SIZE, span.batch)
        if span.omitted:
            at = put_number(at, OMITTED, span.omitted)
            at = put_number(at, OMITTED_ERRORS, span.omitted_errors)
        if span.engine_us:
            at = put_seconds(at, ENGINE_DURATION, span.engine_us / 1e6)
        if span.flags & HIT:
            at = put(at, CACHE_HIT)
        elif span.flags & MISS:
            at = put(at, CACHE_MISS)
        if span.flags & BLOCKED:
            at = put(at, IS_BLOCKED)
        if span.flags & KEPT_ERROR:
            at = put(at, BECAUSE_ERROR)
        elif span.flags & KEPT_SLOW:
            at = put(at, BECAUSE_SLOW)
        at = put(at, key)
        if error is not None:
            at = put(at, error.encoded)
        at[0] = 0x85    # flags, a fixed32: the trace flags, and that it is known whether the parent is remote
        at[1] = 0x01
        at[2] = span.trace_flags
        at[3] = 3 if span.flags & REMOTE_PARENT else 1
        at[4] = 0
        at[5] = 0
        length = at + 6 - self.scratch
        if self.used + length + 11 > self.size:
            self.out = grown(self.out, 2 * (self.used + length + 11))
            self.size = 2 * (self.used + length + 11)
        at = self.out + self.used
        at[0] = 0x12
        at = put_varint(at + 1, length)
        memcpy(at, self.scratch, length)
        self.used = at + length - self.out
        return 0


cdef u8* grown(u8* old, Py_ssize_t size) except NULL:
    cdef u8* new = <u8*>realloc(old, size)
    if new == NULL:
        raise MemoryError
    return new


cdef str key_text(bytes key):
    """A key as it is when it is text, else in hexadecimal digits."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key.hex()


cdef object observed(span_row* span, long long offset_ns, _Name name, _Who who, _Error error):
    return Observed(
        name.name,
        "" if error is None else error.error_type,
        span.end_ns - span.start_ns,
        span.end_ns + offset_ns,
        (<const char*>span.trace_id)[:16],
        (<const char*>span.span_id)[:8],
        span.trace_flags,
        who.identity,
        span.engine_us * 1000,
    )
