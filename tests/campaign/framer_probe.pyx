"""What the framers find in bytes that come in pieces, each piece in memory of exactly its size.

So the address sanitizer sees every byte read beyond one. It judges nothing.
"""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from sidecar.relay.commands cimport CommandTable
from sidecar.relay.framer cimport ARRAY, BIG_ERROR, BROKEN, EMPTY, ERROR, FRAME, HEADER, INTEGER, MAP, MORE, NULL_VALUE, PUSH, SET, STATUS, STRING, VERBATIM
from sidecar.relay.reply_framer cimport ReplyFramer
from sidecar.relay.request_framer cimport FIRST_KEPT, RequestFramer, says_block


def requests(CommandTable table not None, bytes data not None, list cuts not None):
    """Events of a RequestFramer, for data cut at these ascending places: ("frame", name, argc, odd, first, size), ("inline", size), ("empty", size), ("broken",).

    first: the first FIRST_KEPT bytes of the argument behind the name, None where there is none, or it is a part of the name.
    """
    cdef RequestFramer framer = RequestFramer(table)
    cdef list found = []
    cdef Py_ssize_t at = 0, cut
    cdef char* piece
    for cut in [*cuts, len(data)]:
        piece = _piece(data, at, cut)
        try:
            if not _requests(framer, table, piece, piece + cut - at, found):
                break
        finally:
            free(piece)
        at = cut
    return found


cdef char* _piece(bytes data, Py_ssize_t begin, Py_ssize_t end) except NULL:
    cdef char* piece = <char*>malloc(end - begin)
    if piece == NULL:
        raise MemoryError
    memcpy(piece, <const char*>data + begin, end - begin)
    return piece


cdef bint _requests(RequestFramer framer, CommandTable table, const char* p, const char* end, list found) except -1:
    """Whether more may follow."""
    cdef const char* start
    while p < end:
        start = p
        p = framer.next(p, end)
        if not start <= p <= end:
            raise AssertionError("the framer left its piece")
        if framer.event == FRAME and framer.is_inline:
            found.append(("inline", framer.size))
        elif framer.event == FRAME:
            if framer.size == p - start:           # as the session asks about one that is here as a whole
                says_block(start, p)
                if framer.first != NULL and framer.first != framer.kept and not start < framer.first <= framer.first + framer.first_length <= p - 2:
                    raise AssertionError("the first argument is not inside the request")
            first = framer.first[:min(framer.first_length, FIRST_KEPT)] if framer.first != NULL else None
            found.append(("frame", table.names[framer.command.id if framer.command != NULL else 0], framer.argc, bool(framer.odd), first, framer.size))
        elif framer.event == EMPTY:
            found.append(("empty", framer.size))
        elif framer.event == BROKEN:
            found.append(("broken",))
            return False
        elif p != end:
            raise AssertionError("the framer stopped inside its piece")
    return True


def replies(bytes data not None, list cuts not None, bint descend):
    """Events of a ReplyFramer: ("frame", type, what is known of such a reply, size), ("header", elements, size), ("broken",).

    descend: whether an array's header and its elements are frames of their own, as EXEC's reply is taken.
    """
    cdef ReplyFramer framer = ReplyFramer()
    cdef list found = []
    cdef Py_ssize_t at = 0, cut
    cdef char* piece
    framer.descend = descend
    for cut in [*cuts, len(data)]:
        piece = _piece(data, at, cut)
        try:
            if not _replies(framer, piece, piece + cut - at, found):
                break
        finally:
            free(piece)
        at = cut
    return found


cdef bint _replies(ReplyFramer framer, const char* p, const char* end, list found) except -1:
    """Whether more may follow."""
    cdef const char* start
    while p < end:
        start = p
        p = framer.next(p, end)
        if not start <= p <= end:
            raise AssertionError("the framer left its piece")
        if framer.event == FRAME:
            found.append(("frame", chr(framer.type), _known(framer), framer.size))
        elif framer.event == HEADER:
            found.append(("header", framer.count, framer.size))
        elif framer.event == BROKEN:
            found.append(("broken",))
            return False
        elif p != end:
            raise AssertionError("the framer stopped inside its piece")
    return True


cdef object _known(ReplyFramer framer):
    if framer.type == STATUS or framer.type == ERROR or framer.type == BIG_ERROR:
        return framer.head[:framer.head_length]
    if framer.type == INTEGER:
        return framer.integer
    if framer.type == STRING or framer.type == VERBATIM or framer.type == NULL_VALUE:
        return bool(framer.null)
    if framer.type == ARRAY or framer.type == PUSH:
        return bool(framer.null), framer.count, framer.nulls, framer.first[:framer.first_length]
    if framer.type == MAP or framer.type == SET:
        return bool(framer.null), framer.count, framer.nulls
    return None
