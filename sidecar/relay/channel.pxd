# Sockets of the data plane: who is ready (Poller), and one of them (Channel).

cimport cython

from sidecar.relay.tls_stream cimport TlsStream

cdef enum Pause:
    BACKLOG = 2         # the other side does not read
    HOLD = 4            # a command waits for an answer that is not the engine's
    STOPPED = 8         # the worker takes no requests

@cython.final
cdef class Poller:
    cdef object loop
    cdef int epoll
    cdef list channels          # by descriptor
    cdef list corked            # channels with bytes for the end of this turn
    cdef bint dispatching

    cdef int _serve(self, int most) except -1
    cdef int fault(self, object owner, Exception error) except -1
    cdef int watch(self, Channel channel, unsigned int events) except -1
    cdef int forget(self, Channel channel) except -1

@cython.final
cdef class Channel:
    cdef Poller poller
    cdef object owner           # closed when one of the callbacks fails
    cdef readonly object sock
    cdef TlsStream tls          # None: the bytes of the socket are those of the session
    cdef int fd
    cdef object on_readable
    cdef object on_drained
    cdef int paused             # Pause bits; reading when 0
    cdef unsigned int watched   # epoll events the poller waits for; 0: it does not know us
    cdef bint failed            # a send failed for good: what follows is dropped
    cdef char* backlog
    cdef size_t start
    cdef readonly size_t length
    cdef size_t capacity
    cdef bint corked            # the backlog is to be sent at the end of this turn

    cdef int send(self, const char* p, size_t n) except -1
    cdef Py_ssize_t receive(self, char* buffer, size_t size) except -3
    cdef int cork(self, const char* p, size_t n) except -1
    cdef int uncork(self) except -1
    cdef int _pour(self) except -1
    cdef bint behind(self) noexcept
    cdef int _send(self, const char* p, size_t n) except -1
    cdef int _keep(self, const char* p, size_t n) except -1
    cdef int _send_sealed(self, const char* p, size_t n) except -1
    cdef Py_ssize_t _receive_sealed(self, char* buffer, size_t size) except -3
    cdef bint sent(self) noexcept
    cdef int end(self) except -1
    cdef int pause(self, int reason) except -1
    cdef int resume(self, int reason) except -1
    cdef int close(self) except -1
    cdef int _flush(self) except -1
    cdef void _drop_backlog(self) noexcept
    cdef int _watch(self) except -1
