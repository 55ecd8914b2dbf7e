"""Where a reply or a push ends, whichever way the bytes were cut.

The framer keeps a few numbers and at most 256 bytes of an error, never the reply: a 512 MB value streams through it. The rules are those of
RESP2 and of the RESP3 specification, streamed forms included.
"""

from libc.string cimport memchr

from sidecar.relay.framer cimport (
    ARRAY, ATTRIBUTE, BIG_ERROR, BIG_NUMBER, BOOLEAN, BROKEN, CHUNK, DIGITS, DOUBLE, END, ERROR, FRAME, HEADER, INTEGER, MAP, MINUS, MORE,
    NO_DIGIT, NULL_VALUE, NUMBER_MAX, PUSH, QUESTION, SET, STATUS, STRING, VERBATIM,
)

cdef enum:
    R_TYPE, R_LINE, R_NUMBER, R_BODY

cdef long long _MANY = 1 << 60               # elements of a streamed aggregate: until its end marker
cdef long long _ELEMENTS_MAX = 1 << 40       # that an aggregate may announce: however many are nested, their sum is a number


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

    cdef void _null(self, char type) noexcept nogil:
        """A null of this type: the whole reply, or an element."""
        if self.type == type and not self.opened and self.remaining == 1:
            self.null = True
        else:
            self.nulls += 1

    cdef void _open(self, long long elements) noexcept nogil:
        """An aggregate's header is complete: the aggregate itself is replaced by its elements."""
        self.remaining += elements - 1

    cdef const char* _whole(self, const char* p, const char* end) noexcept nogil:
        """The end of a string, a status or an integer that is all here, else NULL: nothing but speed distinguishes it from what `next` does."""
        cdef const char* q = p + 1
        cdef long long n = 0
        cdef unsigned int digit
        cdef char c = p[0]
        if c == STRING or c == INTEGER:
            while q < end and n < NUMBER_MAX:
                digit = <unsigned char>q[0] - 48
                if digit > 9:
                    break
                n = n * 10 + digit
                q += 1
            if q == p + 1 or end - q < 2 or q[0] != 13 or q[1] != 10:
                return NULL
            q += 2
            if c == INTEGER:
                self.integer = n
            else:
                if end - q < n + 2:
                    return NULL
                q += n + 2
        elif c == STATUS:
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
                if top and c != ATTRIBUTE:
                    if c == CHUNK or c == END:
                        self.event = BROKEN
                        return p
                    self.type = c
                    self.child_index = 0    # an attribute may have gone before
                    self.first_length = 0
                    self.nulls = 0
                if c == STRING or c == ARRAY or c == MAP or c == SET or c == PUSH or c == ATTRIBUTE or c == VERBATIM or c == BIG_ERROR or c == CHUNK:
                    self.number_state = NO_DIGIT
                    self.number = 0
                    self.state = R_NUMBER
                elif c == STATUS or c == ERROR or c == INTEGER or c == NULL_VALUE or c == DOUBLE or c == BOOLEAN or c == BIG_NUMBER or c == END:
                    self.number_state = NO_DIGIT
                    self.number = 0
                    self.state = R_LINE
                else:
                    self.event = BROKEN
                    return p
            elif self.state == R_LINE:
                newline = <const char*>memchr(p, 10, end - p)
                n = (newline if newline != NULL else end) - p
                if self.line_type == INTEGER:    # an integer: keep its value
                    for i in range(n):
                        c = p[i]
                        if 48 <= c <= 57 and self.number < NUMBER_MAX:    # nobody asks for a larger one exactly
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
                if c == INTEGER:
                    self.integer = -self.number if self.number_state == MINUS else self.number
                elif c == NULL_VALUE:
                    if self.type == NULL_VALUE:
                        self.null = True
                    else:
                        self.nulls += 1
                elif c == END:    # the end of a streamed aggregate
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
                    if 48 <= c <= 57 and self.number < NUMBER_MAX:
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
                if c == STRING or c == VERBATIM or c == BIG_ERROR or c == CHUNK:    # strings
                    if self.number_state == QUESTION:
                        self.state = R_TYPE    # chunks follow, each `;length`
                        continue
                    if c == CHUNK and self.number == 0:
                        done = True
                    elif self.number_state == MINUS:
                        self._null(c)
                        done = True
                    else:
                        self.body_left = self.number + 2
                        self.state = R_BODY
                        continue
                else:
                    if self.number_state == MINUS:
                        self._null(c)
                        done = True
                    elif self.number > _ELEMENTS_MAX:
                        self.event = BROKEN
                        return p
                    else:
                        if self.type == c and not self.opened and self.remaining == 1:
                            self.opened = True
                            self.count = -1 if self.number_state == QUESTION else (self.number * 2 if c == MAP else self.number)
                            if self.descend and c == ARRAY and self.number_state != QUESTION:
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
                        if c == MAP:
                            self._open(self.number * 2)
                        elif c == ATTRIBUTE:
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
                if self.type == BIG_ERROR:
                    for i in range(n):
                        if self.head_length == HEAD_MAX or self.body_left - i <= 2:
                            break
                        self.head[self.head_length] = p[i]
                        self.head_length += 1
                elif self.child_index == 0 and (self.type == ARRAY or self.type == PUSH):
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
                if self.line_type == CHUNK:
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
