"""RESP2 and RESP3 framing: where a request or a reply ends, whichever way the bytes were cut.

A framer keeps a few numbers and at most 64 bytes of a name or of an error, never the frame: a 512 MB value streams through it. The rules
for requests are those of Valkey's ``parseMultibulkBuffer`` and ``parseInlineBuffer`` (networking.c), for replies those of the RESP3
specification, streamed forms included. A framer answers nothing: bytes that are not RESP are the engine's to refuse.
"""

from libc.string cimport memchr

from sidecar.relay.commands cimport CONTAINER, HELD, MAYBE_BLOCKING, find_short

cdef enum:
    START, COUNT, AFTER_COUNT, DOLLAR, LENGTH, AFTER_LENGTH, BODY, INLINE
    R_TYPE, R_LINE, R_NUMBER, R_BODY

cdef enum:
    NO_DIGIT, ZERO, DIGITS, MINUS, NEGATIVE, QUESTION, BAD     # number_state

cdef long long _INLINE_MAX = 64 * 1024       # PROTO_INLINE_MAX_SIZE
cdef long long _COUNT_MAX = 2147483647       # INT_MAX
cdef long long _NUMBER_MAX = 100000000000000000
cdef long long _MANY = 1 << 60               # elements of a streamed aggregate: until its end marker


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
        self.name_length = 0
        self.command = NULL
        self.argc = 0
        self.size = 0
        self.is_inline = False

    cdef bint undecided(self) noexcept nogil:
        """Whether the request that has begun could still turn out to be one that must be seen whole before it is forwarded."""
        if self.state == START:
            return False
        if self.state == INLINE:
            return True
        if self.naming:
            return self.name_length <= NAME_MAX and (self.state != BODY or self.body_length <= NAME_MAX)
        return self.command != NULL and (self.command.kind == HELD or self.command.kind == MAYBE_BLOCKING)

    cdef void _name_done(self) noexcept nogil:
        cdef const Command* found = NULL
        if self.name_length <= NAME_MAX:
            found = self.table.find(self.name, self.name_length)
        self.command = found
        if found != NULL and found.kind == CONTAINER and self.args_left > 1 and self.name_length < NAME_MAX:
            self.name[self.name_length] = 124    # |
            self.name_length += 1
        else:
            self.naming = False

    cdef int _digit(self, char c) noexcept nogil:
        """One character of a number, as strict as Valkey's string2ll."""
        if 48 <= c <= 57:
            if self.number_state == DIGITS and self.number < _NUMBER_MAX:
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
        cdef bytes spelled = name.upper()
        cdef const Command* found = NULL
        if 0 < len(spelled) <= NAME_MAX:
            found = self.table.find(spelled, len(spelled))
            if found != NULL and found.kind == CONTAINER and second is not None:
                spelled = spelled + b"|" + second.upper()
                found = NULL
                if len(spelled) <= NAME_MAX:
                    found = self.table.find(spelled, len(spelled))
        self.command = found

    cdef const char* _whole(self, const char* p, const char* end) noexcept nogil:
        """The end of an ordinary request that is all here, else NULL: nothing but speed distinguishes it from what `next` does."""
        cdef const char* q = p + 1
        cdef const char* first = NULL
        cdef int argc = 0, i
        cdef long long length, first_length = 0
        cdef unsigned int digit
        if end - p < 8 or p[0] != 42:
            return NULL
        argc = q[0] - 48
        if argc < 1 or argc > 9:
            return NULL
        if q[1] == 13:
            q += 3
        elif 48 <= q[1] <= 57 and q[2] == 13:
            argc = argc * 10 + (q[1] - 48)
            q += 4
        else:
            return NULL
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
            if q >= end or q[0] != 13 or end - q < length + 4:
                return NULL
            q += 2
            if i == 0:
                first = q
                first_length = length
            q += length + 2
        if 0 < first_length <= 8:
            self.command = find_short(self.table, first, <int>first_length) if end - first >= 8 else NULL
            if self.command == NULL:
                self.command = self._lookup(first, first_length)
        elif first_length > NAME_MAX:
            self.command = NULL
        else:
            self.command = self._lookup(first, first_length)
        if self.command != NULL and self.command.kind == CONTAINER and argc > 1:
            return NULL
        self.argc = argc
        self.naming = False
        self.is_inline = False
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
                    while i < n and self.body_left - i > 2 and self.name_length <= NAME_MAX:
                        self.name[self.name_length] = _upper(p[i])
                        self.name_length += 1
                        i += 1
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
            elif self.state == AFTER_LENGTH:    # Valkey skips one byte after the CR without a look
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


def split_inline(bytes line):
    """The arguments of an inline request, None when its quotes do not match (the engine refuses it)."""
    if line.isascii() and not any(special in line for special in (b'"', b"'", b"\\", b"\0")):
        return line.split()
    from sidecar.conf import ConfError, split_words      # late: it costs every worker's start, and few clients write quotes inline
    try:
        return split_words(line, inline=True)
    except ConfError:
        return None


cdef class ReplyFramer:
    """Finds the replies and pushes in what the engine sends."""

    def __init__(self):
        self.reset()

    cdef void reset(self) noexcept nogil:
        self.state = R_TYPE
        self.event = MORE
        self.remaining = 1
        self.depth = 0
        self.type = 0
        self.null = False
        self.count = 0
        self.nulls = 0
        self.size = 0
        self.head_length = 0
        self.first_length = 0
        self.child_index = 0
        self.opened = False

    cdef bint _element_done(self) noexcept nogil:
        """One element is complete; whether the whole frame is."""
        self.remaining -= 1
        return self.remaining == 0 and self.depth == 0

    cdef void _open(self, long long elements) noexcept nogil:
        """An aggregate's header is complete: the aggregate itself is replaced by its elements."""
        self.remaining += elements - 1

    cdef const char* _whole(self, const char* p, const char* end) noexcept nogil:
        """The end of a string, a status or an integer that is all here, else NULL: nothing but speed distinguishes it from what `next` does."""
        cdef const char* q = p + 1
        cdef long long n = 0
        cdef unsigned int digit
        cdef char c = p[0]
        if c == 36 or c == 58:    # $ :
            while q < end and n < _NUMBER_MAX:
                digit = <unsigned char>q[0] - 48
                if digit > 9:
                    break
                n = n * 10 + digit
                q += 1
            if q == p + 1 or end - q < 2 or q[0] != 13 or q[1] != 10:
                return NULL
            q += 2
            if c == 58:
                self.integer = n
            else:
                if end - q < n + 2:
                    return NULL
                q += n + 2
        elif c == 43:    # +
            while q < end and q[0] != 10 and n < HEAD_MAX:
                self.head[n] = q[0]
                n += 1
                q += 1
            if q == end or q[0] != 10:
                return NULL
            q += 1
            self.head_length = <int>n
        else:
            return NULL
        self.type = c
        self.null = False
        return q

    cdef const char* next(self, const char* p, const char* end) noexcept nogil:
        """Go on from p; returns where the frame ended (FRAME), its header did (HEADER), or end (MORE), or where it broke (BROKEN)."""
        cdef const char* began = p
        cdef const char* newline
        cdef long long n, i
        cdef char c
        cdef bint top, done
        if self.event == FRAME or self.event == HEADER or (self.type == 0 and self.size == 0):
            newline = self._whole(p, end)
            if newline != NULL:
                self.size = newline - p
                self.event = FRAME
                return newline
            self.reset()
        while p < end:
            if self.state == R_TYPE:
                c = p[0]
                p += 1
                self.line_type = c
                top = self.type == 0 and self.remaining == 1 and self.depth == 0
                if top and c != 124:
                    if c == 59 or c == 46:
                        self.event = BROKEN
                        return p
                    self.type = c
                    self.child_index = 0    # an attribute may have gone before
                    self.first_length = 0
                    self.nulls = 0
                if c == 36 or c == 42 or c == 37 or c == 126 or c == 62 or c == 124 or c == 61 or c == 33 or c == 59:    # $ * % ~ > | = ! ;
                    self.number_state = NO_DIGIT
                    self.number = 0
                    self.state = R_NUMBER
                elif c == 43 or c == 45 or c == 58 or c == 95 or c == 44 or c == 35 or c == 40 or c == 46:    # + - : _ , # ( .
                    self.number_state = NO_DIGIT
                    self.number = 0
                    self.state = R_LINE
                else:
                    self.event = BROKEN
                    return p
            elif self.state == R_LINE:
                newline = <const char*>memchr(p, 10, end - p)
                n = (newline if newline != NULL else end) - p
                if self.line_type == 58:    # an integer: keep its value
                    for i in range(n):
                        c = p[i]
                        if 48 <= c <= 57:
                            self.number = self.number * 10 + (c - 48)
                        elif c == 45:
                            self.number_state = MINUS
                elif self.type == self.line_type and not self.opened:
                    for i in range(n):
                        if self.head_length == HEAD_MAX:
                            break
                        self.head[self.head_length] = p[i]
                        self.head_length += 1
                p += n
                if newline == NULL:
                    break
                p += 1
                self.state = R_TYPE
                c = self.line_type
                if c == 58:
                    self.integer = -self.number if self.number_state == MINUS else self.number
                elif c == 95:
                    if self.type == 95:
                        self.null = True
                    else:
                        self.nulls += 1
                elif c == 46:    # the end of a streamed aggregate
                    if self.depth == 0:
                        self.event = BROKEN
                        return p
                    self.depth -= 1
                    self.remaining = self.stack[self.depth]
                    if self._element_done():
                        self.size += p - began
                        self.event = FRAME
                        return p
                    continue
                self.child_index += 1
                if self._element_done():
                    self.size += p - began
                    self.event = FRAME
                    return p
            elif self.state == R_NUMBER:
                while p < end:
                    c = p[0]
                    p += 1
                    if c == 10:
                        break
                    if c == 13:
                        continue
                    if 48 <= c <= 57 and self.number < _NUMBER_MAX:
                        self.number = self.number * 10 + (c - 48)
                        if self.number_state == NO_DIGIT:
                            self.number_state = DIGITS
                    elif c == 45 and self.number_state == NO_DIGIT:
                        self.number_state = MINUS
                    elif c == 63 and self.number_state == NO_DIGIT:
                        self.number_state = QUESTION
                    else:
                        self.event = BROKEN
                        return p
                if (p - 1)[0] != 10:
                    break
                if self.number_state == NO_DIGIT:
                    self.event = BROKEN
                    return p
                c = self.line_type
                done = False
                if c == 36 or c == 61 or c == 33 or c == 59:    # strings
                    if self.number_state == QUESTION:
                        self.state = R_TYPE    # chunks follow, each `;length`
                        continue
                    if c == 59 and self.number == 0:
                        done = True
                    elif self.number_state == MINUS:
                        if self.type == c and not self.opened and self.remaining == 1:
                            self.null = True
                        else:
                            self.nulls += 1
                        done = True
                    else:
                        self.body_left = self.number + 2
                        self.state = R_BODY
                        continue
                else:
                    if self.number_state == MINUS:
                        if self.type == c and not self.opened and self.remaining == 1:
                            self.null = True
                        else:
                            self.nulls += 1
                        done = True
                    else:
                        if self.type == c and not self.opened and self.remaining == 1:
                            self.opened = True
                            self.count = -1 if self.number_state == QUESTION else (self.number * 2 if c == 37 else self.number)
                            if self.descend and c == 42 and self.number_state != QUESTION:
                                self.size += p - began
                                self.event = HEADER
                                return p
                        if self.number_state == QUESTION:
                            if self.depth == STREAM_DEPTH:
                                self.event = BROKEN
                                return p
                            self.stack[self.depth] = self.remaining
                            self.depth += 1
                            self.remaining = _MANY
                            self.state = R_TYPE
                            continue
                        if c == 37:
                            self._open(self.number * 2)
                        elif c == 124:
                            self._open(self.number * 2 + 1)    # the value it describes follows
                        else:
                            self._open(self.number)
                        self.state = R_TYPE
                        if self.remaining == 0 and self.depth == 0:
                            self.size += p - began
                            self.event = FRAME
                            return p
                        continue
                if done:
                    self.state = R_TYPE
                    self.child_index += 1
                    if self._element_done():
                        self.size += p - began
                        self.event = FRAME
                        return p
            elif self.state == R_BODY:
                n = end - p
                if n > self.body_left:
                    n = self.body_left
                if self.type == 33:
                    for i in range(n):
                        if self.head_length == HEAD_MAX or self.body_left - i <= 2:
                            break
                        self.head[self.head_length] = p[i]
                        self.head_length += 1
                elif self.child_index == 0 and (self.type == 42 or self.type == 62):
                    for i in range(n):
                        if self.first_length == 16 or self.body_left - i <= 2:
                            break
                        self.first[self.first_length] = p[i]
                        self.first_length += 1
                self.body_left -= n
                p += n
                if self.body_left:
                    break
                self.state = R_TYPE
                if self.line_type == 59:
                    continue    # one chunk of a streamed string; the last one has length 0
                self.child_index += 1
                if self._element_done():
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
        """Frame `data` (bytes): a list of (event, type, end offset in data). For tests."""
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
                found.append(("frame", chr(self.type), p - base))
            elif self.event == BROKEN:
                found.append(("broken", "", p - base))
                break
        return found
