"""Headers that Valkey takes only of who has logged in: more than ten arguments, or one of more than 16 KB.

Owns these two limits, which are those of Valkey's ``parseMultibulkBuffer`` (networking.c). Who is logged in, it never asks.
"""

from libc.string cimport memchr

cdef long long _ARGUMENTS_MAX = 10
cdef long long _ARGUMENT_MAX = 16384


cdef Py_ssize_t barred_at(const char* p, const char* end) noexcept nogil:
    """Behind how many bytes of this request, as far as it is here, such a header ends; 0: there is none.

    The framer has seen these bytes, and taken them for the beginning of a request: here they are not judged again.
    """
    cdef const char* began = p
    cdef const char* line
    cdef long long number, most = _ARGUMENTS_MAX
    while p < end:
        line = <const char*>memchr(p, 13, end - p)
        if line == NULL or line + 1 >= end:
            return 0
        number = 0
        p += 1                                 # behind * or $
        while p < line and 48 <= p[0] <= 57 and number <= end - began + _ARGUMENT_MAX:
            number = number * 10 + (p[0] - 48)
            p += 1
        p = line + 2
        if number > most:
            return p - began
        if most == _ARGUMENTS_MAX:
            most = _ARGUMENT_MAX
        elif end - p < number + 2:
            return 0
        else:
            p += number + 2
    return 0
