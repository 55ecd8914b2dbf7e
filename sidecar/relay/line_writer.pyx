"""Writes the lines of CLIENT LIST. There may be ten thousand of them, and no command moves while they are written.

Owns joining what the engine says about a client with what we know about it. It knows no session and no filter.
"""

from libc.stdio cimport snprintf
from libc.stdlib cimport realloc
from libc.string cimport memchr, memcpy

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <string.h>
    static const char* find_word(const char* p, const char* end, const char* word, size_t length) {
        return (const char*)memmem(p, end - p, word, length);
    }
    """
    const char* find_word(const char* p, const char* end, const char* word, size_t length) nogil

from sidecar.relay.client_lines import command_shown

cdef enum:
    NUMBERS_MOST = 160          # bytes of the numbers and field names that a line begins with

cdef char* _buffer = NULL
cdef size_t _capacity = 0


cdef int _need(size_t size) except -1:
    global _buffer, _capacity
    cdef char* bigger
    if size > _capacity:
        bigger = <char*>realloc(_buffer, size)
        if bigger == NULL:
            raise MemoryError
        _buffer = bigger
        _capacity = size
    return 0


cdef inline char* _put(char* out, const char* p, size_t n) noexcept nogil:
    memcpy(out, p, n)
    return out + n


cdef inline char* _put_bytes(char* out, bytes text) noexcept:
    return _put(out, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


def id_of(bytes line not None):
    """The id in a line of CLIENT LIST, 0 where it is no such line."""
    cdef const char* p = line
    cdef const char* end = p + len(line)
    cdef long long number = 0
    if end - p < 4 or p[0] != 105 or p[1] != 100 or p[2] != 61:     # id=
        return 0
    p += 3
    while p < end and 48 <= p[0] <= 57:
        number = number * 10 + (p[0] - 48)
        p += 1
    return number


def is_redirected(bytes line not None):
    """Whether the client's invalidations go to another client."""
    cdef const char* p = line
    cdef const char* end = p + len(line)
    p = find_word(p, end, " redir=", 7)
    return p != NULL and end - p > 7 and p[7] != 45     # -1: to nobody


def true_line(bytes line not None, shown, bint times):
    """The engine's line of a client with what we know about it, a client_lines.Shown.

    times: use our age, idle time and command; the engine's are those of one of several connections of the client.
    """
    cdef long long client_id, age_s, idle_s
    cdef bytes address, local, command
    client_id, peer, own, age_s, idle_s, name = shown
    address, local, command = peer.encode(), own.encode(), command_shown(name)
    cdef const char* p = line
    cdef const char* end = p + len(line)
    cdef const char* number = find_word(p, end, " fd=", 4)
    cdef const char* age
    cdef const char* flags
    cdef const char* flags_end
    cdef const char* own_command
    cdef const char* rest
    cdef const char* q
    cdef char* out
    cdef bint by_path = address.endswith(b":0")
    if number == NULL:
        return line
    age = find_word(number, end, " age=", 5)
    flags = find_word(number, end, " flags=", 7)
    own_command = find_word(number, end, " cmd=", 5)
    if age == NULL or flags == NULL or own_command == NULL:
        return line
    flags += 7
    flags_end = <const char*>memchr(flags, 32, end - flags)
    rest = <const char*>memchr(own_command + 5, 32, end - own_command - 5)
    if flags_end == NULL or rest == NULL:
        return line
    _need(NUMBERS_MOST + len(line) + len(address) + len(local) + len(command))
    out = _buffer
    out += snprintf(out, 32, "id=%lld addr=", client_id)
    out = _put_bytes(out, address)
    out = _put(out, " laddr=", 7)
    out = _put_bytes(out, local)
    if times:
        out = _put(out, number, age - number)
        out += snprintf(out, 64, " age=%lld idle=%lld flags=", age_s, idle_s)
    else:
        out = _put(out, number, flags - number)
    if by_path:
        out = _put(out, flags, flags_end - flags)
    else:                                       # U: it came over a Unix socket; N: there is nothing to say
        q = out
        while flags < flags_end:
            if flags[0] != 85:
                out[0] = flags[0]
                out += 1
            flags += 1
        if out == q:
            out[0] = 78
            out += 1
    if times:
        out = _put(out, flags_end, own_command + 5 - flags_end)
        out = _put_bytes(out, command)
        out = _put(out, rest, end - rest)
    else:
        out = _put(out, flags_end, end - flags_end)
    return PyBytes_FromStringAndSize(_buffer, out - _buffer)


cdef bytes aged_line(bytes head, long long age_s, long long idle_s, bytes tail):
    """A line whose other fields are ready: [head] age= idle= [tail]."""
    cdef char* out
    _need(NUMBERS_MOST + len(head) + len(tail))
    out = _put_bytes(_buffer, head)
    out += snprintf(out, 64, " age=%lld idle=%lld ", age_s, idle_s)
    out = _put_bytes(out, tail)
    return PyBytes_FromStringAndSize(_buffer, out - _buffer)
