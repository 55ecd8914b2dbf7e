# Headers that Valkey takes only of who has logged in.

cdef Py_ssize_t barred_at(const char* p, const char* end) noexcept nogil
