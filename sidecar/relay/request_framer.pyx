"""Where a request ends, whichever way the bytes were cut.

The framer keeps a few numbers, at most NAME_MAX bytes of a name and, of a request that comes in parts, the first bytes of its first argument. It
never keeps the request: a 512 MB value streams through it. The rules are those
of Valkey's ``parseMultibulkBuffer`` and ``parseInlineBuffer`` (networking.c). It answers nothing: bytes that are not RESP are the engine's to
refuse. Versions before 9.1 skip two bytes behind an argument, and one behind the CR of a number, without a look: so does it, and says so (`odd`).

A NUL byte ends a name, because the engine compares names as C strings. But it finds a first word by a hash of all its bytes: whether it takes
``MULTI\\0x`` for MULTI is a matter of chance, so special.py sees to it that the engine refuses such a request, as it most often would.
"""

from libc.string cimport memchr, memcmp

from sidecar.relay.commands cimport CONTAINER, HELD, HELLO, LACKS, MAYBE_BLOCKING, NAME_MAX, TRACEPARENT, Command, CommandTable, find_short
from sidecar.relay.framer cimport BAD, BROKEN, DIGITS, EMPTY, FRAME, MINUS, MORE, NEGATIVE, NO_DIGIT, NUMBER_MAX, ZERO

cdef enum:
    START, COUNT, AFTER_COUNT, DOLLAR, LENGTH, AFTER_LENGTH, BODY, INLINE

cdef extern from *:
    """
    /* n more bytes of an argument, of which `left` were to come (its CR LF included): keep what is among the first FIRST_KEPT.
       Not inlined: whole requests, which never come here, would pay for it. */
    __attribute__((noinline))
    static void keep_bytes(char *kept, long long length, long long left, const char *p, long long n) {
        long long at = length + 2 - left;
        long long upto = at + n < length ? at + n : length;
        if (upto > FIRST_KEPT) upto = FIRST_KEPT;
        if (at < upto) memcpy(kept + at, p, (size_t)(upto - at));
    }
    """
    void keep_bytes(char* kept, long long length, long long left, const char* p, long long n) noexcept nogil

cdef long long _INLINE_MAX = 64 * 1024       # PROTO_INLINE_MAX_SIZE
cdef long long _COUNT_MAX = 2147483647       # INT_MAX


cdef inline char _upper(char c) noexcept nogil:
    return c - 32 if 97 <= c <= 122 else c


cdef class RequestFramer:
    """Finds the requests in what a client sends."""

    def __init__(self, CommandTable table not None):
        self.table = table
        self.reset()

    cdef void reset(self) noexcept nogil:
        self.state = START
        self.event = MORE
        self.naming = True
        self.cut = False
        self.name_length = 0
        self.body_left = 0
        self.command = NULL
        self.container = NULL
        self.argc = 0
        self.size = 0
        self.is_inline = False
        self.odd = False
        self.first = NULL

    cdef bint midway(self) noexcept nogil:
        """Whether a request has begun and not ended."""
        return self.event == MORE and self.state != START

    cdef bint undecided(self) noexcept nogil:
        """Whether the request that has begun could still turn out to be one that must be seen whole before it is forwarded."""
        if self.state == START:
            return False
        if self.state == INLINE:
            return True
        if self.naming:
            return self.name_length <= NAME_MAX and (self.state != BODY or self.body_length <= HELD_MAX) and not self._lacks()
        return self.command != NULL and (self.command.kind >= MAYBE_BLOCKING or self.command.kind == HELLO)

    cdef bint _lacks(self) noexcept nogil:
        """Whether the first word of the name is one that the engine does not know: then all of the request is the engine's to refuse."""
        return self.container != NULL and self.container.route & LACKS

    cdef bint inspected(self) noexcept nogil:
        """Of a request that is undecided: whether it may not pass unseen, however long it is."""
        return self.state != INLINE and (self.naming or (self.command != NULL and self.command.kind >= TRACEPARENT))

    cdef void _name_done(self) noexcept nogil:
        """A word of the name is complete."""
        cdef const Command* found = NULL
        if self.name_length <= NAME_MAX:
            found = self.table.find(self.name, self.name_length)
        if found != NULL and self.cut and self.argc == self.args_left:
            found = &self.table.disguise if not found.route & LACKS else NULL
        self.command = found
        self.cut = False
        if found != NULL and found.kind == CONTAINER and self.args_left > 1 and self.name_length < NAME_MAX:
            self.container = found
            self.name[self.name_length] = 0
            self.name_length += 1
        else:
            self.naming = False

    cdef int _digit(self, char c) noexcept nogil:
        """One character of a number, as strict as Valkey's string2ll."""
        if 48 <= c <= 57:
            if self.number_state == DIGITS and self.number < NUMBER_MAX:
                self.number = self.number * 10 + (c - 48)
            elif self.number_state == NO_DIGIT:
                self.number = c - 48
                self.number_state = ZERO if c == 48 else DIGITS
            elif self.number_state == NEGATIVE or (self.number_state == MINUS and c != 48):
                self.number = -1    # how far below zero does not matter
                self.number_state = NEGATIVE
            else:
                self.number_state = BAD
        elif c == 45 and self.number_state == NO_DIGIT:
            self.number_state = MINUS
        else:
            self.number_state = BAD
        return self.number_state

    cdef void inline_command(self, bytes name, bytes second):
        cdef bytes spelled = name.partition(b"\0")[0].upper()
        cdef const Command* found = NULL
        self.container = NULL
        if 0 < len(spelled) <= NAME_MAX:
            found = self.table.find(spelled, len(spelled))
            if found != NULL and b"\0" in name:
                found = &self.table.disguise if not found.route & LACKS else NULL
            elif found != NULL and found.kind == CONTAINER and second is not None:
                self.container = found
                spelled = spelled + b"\0" + second.partition(b"\0")[0].upper()
                found = NULL
                if len(spelled) <= NAME_MAX:
                    found = self.table.find(spelled, len(spelled))
        self.command = found

    cdef const char* _whole(self, const char* p, const char* end) noexcept nogil:
        """The end of an ordinary request that is all here, else NULL: nothing but speed distinguishes it from what `next` does."""
        cdef const char* q = p + 1
        cdef const char* name = NULL
        cdef int argc = 0, i
        cdef long long length, name_length = 0
        cdef unsigned int digit
        if end - p < 8 or p[0] != 42:
            return NULL
        argc = q[0] - 48
        if argc < 1 or argc > 9:
            return NULL
        q += 1
        if 48 <= q[0] <= 57:
            argc = argc * 10 + (q[0] - 48)
            q += 1
        if memcmp(q, b"\r\n", 2) != 0:
            return NULL
        q += 2
        for i in range(argc):
            if end - q < 4 or q[0] != 36:
                return NULL
            length = <unsigned char>q[1] - 48
            if length < 0 or length > 9:
                return NULL
            q += 2
            while q < end and length < 100000000:
                digit = <unsigned char>q[0] - 48
                if digit > 9:
                    break
                if length == 0:
                    return NULL
                length = length * 10 + digit
                q += 1
            if end - q < length + 4 or memcmp(q, b"\r\n", 2) != 0:
                return NULL
            q += 2
            if memcmp(q + length, b"\r\n", 2) != 0:
                return NULL
            if i == 0:
                name = q
                name_length = length
            elif i == 1:
                self.first = q
                self.first_length = length
            q += length + 2
        if argc == 1:
            self.first = NULL
        self.command = NULL
        if 0 < name_length <= 8 and end - name >= 8:
            self.command = find_short(self.table, name, <int>name_length)
        if self.command == NULL:
            if memchr(name, 0, name_length) != NULL:
                return NULL
            if name_length <= NAME_MAX:
                self.command = self._lookup(name, name_length)
        if self.command != NULL and self.command.kind == CONTAINER and argc > 1:
            return NULL
        self.container = NULL
        self.argc = argc
        self.naming = False
        self.is_inline = False
        self.odd = False
        return q

    cdef const Command* _lookup(self, const char* first, long long first_length) noexcept nogil:
        cdef long long i
        for i in range(first_length):
            self.name[i] = _upper(first[i])
        return self.table.find(self.name, first_length)

    cdef const char* next(self, const char* p, const char* end) noexcept nogil:
        """Go on from p; returns where the request ended (event FRAME, EMPTY), or end (MORE), or where it broke (BROKEN)."""
        cdef const char* began = p
        cdef const char* newline
        cdef long long n, i
        cdef char c
        if self.event != MORE or self.state == START:
            newline = self._whole(p, end)
            if newline != NULL:
                self.size = newline - p
                self.event = FRAME
                return newline
            self.reset()
        while p < end:
            if self.state == BODY:
                n = end - p
                if n > self.body_left:
                    n = self.body_left
                if self.naming:
                    i = 0
                    while i < n and self.body_left - i > 2 and self.name_length <= NAME_MAX and not self.cut:
                        if p[i] == 0:
                            self.cut = True
                            if self.body_length > HELD_MAX and not self._lacks():    # its beginning is on its way already: it must not end
                                self.event = BROKEN
                                return p
                        else:
                            self.name[self.name_length] = _upper(p[i])
                            self.name_length += 1
                        i += 1
                elif self.argc - self.args_left == 1:
                    keep_bytes(self.kept, self.body_length, self.body_left, p, n)
                    self.first = self.kept
                    self.first_length = self.body_length
                if self.body_left <= n + 1:    # the CR LF behind it, or a half of it
                    if self.body_left >= 2 and p[self.body_left - 2] != 13:
                        self.odd = self.ever_odd = True
                    if self.body_left <= n and p[self.body_left - 1] != 10:
                        self.odd = self.ever_odd = True
                self.body_left -= n
                p += n
                if self.body_left:
                    break
                if self.naming:
                    self._name_done()
                self.args_left -= 1
                if self.args_left == 0:
                    self.size += p - began
                    self.event = FRAME
                    return p
                self.state = DOLLAR
            elif self.state == DOLLAR:
                if p[0] != 36:    # $
                    self.event = BROKEN
                    return p
                p += 1
                self.number_state = NO_DIGIT
                self.state = LENGTH
            elif self.state == LENGTH:
                while p < end:
                    c = p[0]
                    p += 1
                    if c == 13:
                        self.state = AFTER_LENGTH
                        break
                    if self._digit(c) == BAD:
                        self.event = BROKEN
                        return p
            elif self.state == AFTER_LENGTH:
                if p[0] != 10:
                    self.odd = self.ever_odd = True
                p += 1
                if self.number_state != DIGITS and self.number_state != ZERO:
                    self.event = BROKEN
                    return p
                self.body_length = self.number
                self.body_left = self.number + 2
                self.state = BODY
            elif self.state == START:
                if p[0] == 42:    # *
                    p += 1
                    self.number_state = NO_DIGIT
                    self.state = COUNT
                else:
                    self.is_inline = True
                    self.inline_length = 0
                    self.state = INLINE
            elif self.state == COUNT:
                while p < end:
                    c = p[0]
                    p += 1
                    if c == 13:
                        self.state = AFTER_COUNT
                        break
                    if self._digit(c) == BAD:
                        self.event = BROKEN
                        return p
            elif self.state == AFTER_COUNT:
                if p[0] != 10:
                    self.odd = self.ever_odd = True
                p += 1
                if self.number_state == MINUS or self.number_state == NO_DIGIT or self.number > _COUNT_MAX:
                    self.event = BROKEN
                    return p
                if self.number <= 0:
                    self.size += p - began
                    self.event = EMPTY
                    return p
                self.argc = self.number
                self.args_left = self.number
                self.state = DOLLAR
            elif self.state == INLINE:
                newline = <const char*>memchr(p, 10, end - p)
                if newline == NULL:
                    self.inline_length += end - p
                    p = end
                    if self.inline_length > _INLINE_MAX:
                        self.event = BROKEN
                        return p
                    break
                p = newline + 1
                self.size += p - began
                self.event = FRAME
                return p
            else:
                self.event = BROKEN
                return p
        self.size += p - began
        self.event = MORE
        return p

    def feed(self, data):
        """Frame `data` (bytes) after what came before: a list of (event, name, argc, end offset in data).

        For tests; the session calls ``next`` itself. event: "frame", "empty" or "broken" (then nothing follows).
        """
        cdef const unsigned char[:] view = data
        cdef list found = []
        cdef const char* base
        cdef const char* p
        cdef const char* end
        if view.shape[0] == 0:
            return found
        base = <const char*>&view[0]
        p = base
        end = base + view.shape[0]
        while p < end:
            p = self.next(p, end)
            if self.event == FRAME:
                found.append(("frame", self.table.names[self.command.id] if self.command != NULL else self.table.names[0], self.argc, p - base))
            elif self.event == EMPTY:
                found.append(("empty", "", 0, p - base))
            elif self.event == BROKEN:
                found.append(("broken", "", 0, p - base))
                break
        return found


cdef bint _is_word(const char* p, long long length, const char* word) noexcept nogil:
    """Whether these bytes are the word, in any case."""
    cdef long long i = 0
    while i < length and word[i] != 0 and (p[i] | 32) == word[i]:
        i += 1
    return i == length and word[i] == 0


cdef bint says_block(const char* p, const char* end) noexcept nogil:
    """Whether a whole XREAD or XREADGROUP has a BLOCK option. It stands before STREAMS; GROUP and COUNT are followed by names and a number.

    Where line ends are wrong it may take an argument's bytes for a length: it reads no further than `end` whatever that says.
    """
    cdef long long length
    cdef int skipped = 1
    p = <const char*>memchr(p, 10, end - p)
    while p != NULL and p + 2 < end:
        length = 0
        p += 2                                 # behind the $
        while p < end and 48 <= p[0] <= 57 and length <= end - p:
            length = length * 10 + (p[0] - 48)
            p += 1
        p += 2
        if end - p < length + 2:
            return False
        if skipped:
            skipped -= 1
        elif _is_word(p, length, b"block"):
            return True
        elif _is_word(p, length, b"streams"):
            return False
        elif _is_word(p, length, b"group"):
            skipped = 2
        elif _is_word(p, length, b"count"):
            skipped = 1
        p += length + 1
    return False


def split_inline(bytes line):
    """The arguments of an inline request, None when its quotes do not match (the engine refuses it)."""
    if line.isascii() and not any(special in line for special in (b'"', b"'", b"\\", b"\0", b"\v", b"\f")):
        return line.split()
    from sidecar.conf import ConfError, split_words      # late: it costs every worker's start, and few clients write quotes inline
    try:
        return split_words(line, inline=True)
    except ConfError:
        return None
