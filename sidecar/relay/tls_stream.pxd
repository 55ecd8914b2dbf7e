# TLS of one connection, between the bytes of the socket and those of the session.

cimport cython

@cython.final
cdef class TlsStream:
    cdef object incoming        # ssl.MemoryBIO: what the other side sent
    cdef object outgoing        # ssl.MemoryBIO: what it is to get
    cdef object connection      # ssl.SSLObject
    cdef Py_ssize_t over        # 1 while more may come; 0 at the end, -2 when the other side has broken the rules

    cdef Py_ssize_t decrypt(self, const char* data, Py_ssize_t n, char* target, Py_ssize_t size) except -3
    cdef Py_ssize_t _open(self, char* target, Py_ssize_t size) except -1
    cdef bytes encrypt(self, const char* p, Py_ssize_t n)
    cdef bytes answer(self)
    cdef bytes farewell(self)
