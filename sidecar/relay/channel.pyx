"""The sockets of the data plane: non-blocking, with direct sends and a backlog for what the kernel does not take.

Owns one epoll set for all of a worker's sockets, which the event loop watches as a single descriptor, and per socket the backlog and the
reasons why it is not read. Backlogs are bounded by their user, who stops reading the other side while one is not empty. It never looks at
the bytes. An epoll set of its own, because libuv stops watching a socket that has an error although bytes are still to be read, and because
a descriptor watched by the loop costs twice as much per event.
"""

from libc.errno cimport EAGAIN, EINTR, ENOENT, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove

import os
import ssl

from sidecar.relay.tls_stream cimport TlsStream

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_send "send"(int fd, const void* buffer, size_t n, int flags)
    ssize_t c_recv "recv"(int fd, void* buffer, size_t n, int flags)
    int c_shutdown "shutdown"(int fd, int how)
    int MSG_NOSIGNAL
    int SHUT_WR
    int MSG_DONTWAIT

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "<linux/sockios.h>" nogil:
    unsigned long SIOCOUTQNSD

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int n, int timeout)
    int EPOLL_CTL_ADD
    int EPOLL_CTL_DEL
    int EPOLL_CTL_MOD
    int EPOLL_CLOEXEC
    unsigned int EPOLLIN
    unsigned int EPOLLOUT
    unsigned int EPOLLERR
    unsigned int EPOLLHUP

cdef enum:
    EVENTS = 256
    CORK_BYTES = 1 << 18                # the largest buffer that is kept for corked bytes
    BEGIN_BYTES = 4096                  # corked bytes that do not wait for the end of the turn
    POUR_BYTES = 1 << 16                # the same where they come in large pieces: each call costs both sides
    RECORD_BYTES = 5 + 16384 + 2048     # of TLS, at most


cdef class Poller:
    """The channels of one worker; `loop` calls ``dispatch`` when any of them is ready."""

    def __init__(self, loop):
        self.loop = loop
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, os.strerror(errno))
        self.channels = []
        self.corked = []
        loop.add_reader(self.epoll, self.dispatch)

    def close(self):
        """Watch nothing any more."""
        if self.epoll >= 0:
            self.loop.remove_reader(self.epoll)
            os.close(self.epoll)
            self.epoll = -1

    def dispatch(self):
        """Serve the channels that are ready, EVENTS of them at most before the loop's other work. How many were."""
        cdef int served = 0
        cdef int n = self._serve(EVENTS)
        while n > 1:                # while several were served, others became ready
            served += n
            n = self._serve(EVENTS - served) if served < EVENTS else 0
        return served + n

    cdef int _serve(self, int most) except -1:
        """One look at who is ready. How many were."""
        cdef epoll_event events[EVENTS]
        cdef Channel channel
        cdef unsigned int ready
        cdef int i
        cdef int n = epoll_wait(self.epoll, events, most, 0)
        self.dispatching = True
        for i in range(n):
            item = self.channels[events[i].data.fd]
            if item is None:        # closed by what came before it in this turn
                continue
            channel = item
            ready = events[i].events
            try:
                if ready & EPOLLOUT or (ready & (EPOLLERR | EPOLLHUP) and channel.length):
                    channel._flush()
                if ready & (EPOLLIN | EPOLLERR | EPOLLHUP) and channel.sock is not None:
                    if channel.paused == 0:
                        channel.on_readable()
                    elif channel.length == 0:       # an end that nobody reads now would be reported for ever
                        self.forget(channel)
                        channel.owner.hung_up(channel)
            except Exception as error:
                self.fault(channel.owner, error)
        self.dispatching = False
        if self.corked:
            self.uncork()
        return 0 if n < 0 else n

    def uncork(self):
        """Send what was corked in this turn."""
        cdef Channel channel
        cdef list corked = self.corked
        self.corked = []
        for item in corked:
            channel = item
            try:
                channel.uncork()
            except Exception as error:
                self.fault(channel.owner, error)

    cdef int fault(self, object owner, Exception error) except -1:
        """A fault of ours ends one session, not the others."""
        self.loop.call_exception_handler({"message": "a session failed and is closed", "exception": error})
        if owner is not None:
            owner.close()
        return 0

    def start_task(self, owner, coroutine, awaits=None):
        """Run what a callback of `owner` leaves for later; it ends as the callback would when it fails.

        awaits: a coroutine that it was given to await; it ends with it, also when that was cancelled before it had begun.
        """
        def ended(task):
            if hasattr(awaits, "close"):
                awaits.close()
            if not task.cancelled() and task.exception() is not None:
                self.fault(owner, task.exception())
        task = self.loop.create_task(coroutine)
        task.add_done_callback(ended)
        return task

    cdef int watch(self, Channel channel, unsigned int events) except -1:
        cdef epoll_event event
        event.events = events
        event.data.u64 = 0
        event.data.fd = channel.fd
        while len(self.channels) <= channel.fd:
            self.channels.append(None)
        self.channels[channel.fd] = channel
        if epoll_ctl(self.epoll, EPOLL_CTL_MOD if channel.watched else EPOLL_CTL_ADD, channel.fd, &event) < 0:
            raise OSError(errno, os.strerror(errno))
        channel.watched = events
        return 0

    cdef int forget(self, Channel channel) except -1:
        cdef epoll_event event
        if channel.watched:
            channel.watched = 0
            self.channels[channel.fd] = None
            if epoll_ctl(self.epoll, EPOLL_CTL_DEL, channel.fd, &event) < 0 and errno != ENOENT:
                raise OSError(errno, os.strerror(errno))
        return 0


cdef class Channel:
    """on_readable() is called while reading and bytes, or the end, are there; on_drained() when a backlog has been sent or given up.

    tls: its bytes are sealed so on the way. When one of them fails, owner.close() is called; owner.hung_up(channel) when the other side has closed or failed while nobody reads.
    """

    def __init__(self, Poller poller not None, owner, sock, on_readable, on_drained, int paused=0, TlsStream tls=None):
        self.poller = poller
        self.tls = tls
        self.owner = owner
        self.sock = sock
        self.fd = sock.fileno()
        self.on_readable = on_readable
        self.on_drained = on_drained
        self.paused = paused
        self._watch()

    def __dealloc__(self):
        free(self.backlog)

    cdef Py_ssize_t receive(self, char* buffer, size_t size) except -3:
        """Bytes received; 0 at the end of the stream; -1 when there is nothing now; -2 when the connection is broken."""
        cdef Py_ssize_t n
        if self.tls is not None:
            return self._receive_sealed(buffer, size)
        n = c_recv(self.fd, buffer, size, MSG_DONTWAIT)
        if n >= 0:
            return n
        return -1 if errno == EAGAIN or errno == EINTR else -2

    cdef Py_ssize_t _receive_sealed(self, char* buffer, size_t size) except -3:
        cdef Py_ssize_t n
        cdef bytes answer
        if self.tls.over != 1:
            return self.tls.over
        n = c_recv(self.fd, buffer + RECORD_BYTES, size - RECORD_BYTES, MSG_DONTWAIT)
        if n <= 0:
            return n if n == 0 else -1 if errno == EAGAIN or errno == EINTR else -2
        n = self.tls.decrypt(buffer + RECORD_BYTES, n, buffer, size)
        answer = self.tls.answer()
        if answer:
            self._send(answer, len(answer))
        if n > 0 and self.tls.over != 1:    # no event will tell
            self.poller.loop.call_soon(self._over)
        return n

    def _over(self):
        """The other side has ended the stream, or broken it, behind the bytes that were there."""
        if self.sock is not None and self.paused == 0:
            try:
                self.on_readable()
            except Exception as error:
                self.poller.fault(self.owner, error)

    cdef int send(self, const char* p, size_t n) except -1:
        """Send, or keep in the backlog, n bytes. After a failure (`failed`) bytes are dropped."""
        if self.tls is not None:
            return self._send_sealed(p, n)
        return self._send(p, n)

    cdef int _send_sealed(self, const char* p, size_t n) except -1:
        cdef bytes records
        if self.failed or n == 0:
            return 0
        try:
            records = self.tls.encrypt(p, n)
        except ssl.SSLError:        # the other side has broken the connection's rules
            self.failed = True
            return 0
        return self._send(records, len(records))

    cdef int _send(self, const char* p, size_t n) except -1:
        cdef Py_ssize_t sent
        if self.failed or n == 0:
            return 0
        if self.length == 0:
            sent = c_send(self.fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent == <Py_ssize_t>n:
                return 0
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.failed = True
                    return 0
                sent = 0
            p += sent
            n -= sent
        self._keep(p, n)
        return self._watch()

    cdef int cork(self, const char* p, size_t n) except -1:
        """Send n bytes together with all others that are corked in this turn of the loop. Not for TLS."""
        if self.failed or n == 0:
            return 0
        if not self.corked:
            self.corked = True
            if not self.poller.corked and not self.poller.dispatching:
                self.poller.loop.call_soon(self.poller.uncork)
            self.poller.corked.append(self)
        self._keep(p, n)
        if self.length >= <size_t>(BEGIN_BYTES if n < BEGIN_BYTES else POUR_BYTES):     # the other side may begin with these
            return self._pour()
        return 0

    cdef int uncork(self) except -1:
        """The turn is over."""
        self.corked = False
        return self._pour()

    cdef int _pour(self) except -1:
        """Send what is corked, as far as the other side takes it."""
        cdef Py_ssize_t sent
        if self.length == 0 or self.watched & EPOLLOUT:     # the poller will tell when the other side reads again
            return 0
        sent = c_send(self.fd, self.backlog + self.start, self.length, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                self.failed = True
                self.length = 0
                return 0
            sent = 0
        self.start += sent
        self.length -= sent
        if self.length:
            return self._watch()
        self.start = 0
        if self.capacity > CORK_BYTES:
            self._drop_backlog()
        return 0

    cdef bint behind(self) noexcept:
        """Whether the other side does not read what is sent."""
        return self.watched & EPOLLOUT != 0

    cdef int _keep(self, const char* p, size_t n) except -1:
        """Put n bytes behind the backlog."""
        cdef char* bigger
        cdef size_t capacity
        if self.start + self.length + n > self.capacity:
            if self.length + n <= self.capacity and self.start >= self.capacity // 2:
                memmove(self.backlog, self.backlog + self.start, self.length)
            else:
                capacity = self.capacity * 2 if self.capacity else 16384
                while capacity < self.length + n:
                    capacity *= 2
                bigger = <char*>malloc(capacity)
                if bigger == NULL:
                    raise MemoryError
                if self.length:     # else there may be no backlog yet
                    memcpy(bigger, self.backlog + self.start, self.length)
                free(self.backlog)
                self.backlog = bigger
                self.capacity = capacity
            self.start = 0
        memcpy(self.backlog + self.start + self.length, p, n)
        self.length += n
        return 0

    cdef bint sent(self) noexcept:
        """Whether all has been sent. Closed earlier, with bytes unread, the connection is reset and the rest lost."""
        cdef int unsent = 0
        return self.length == 0 and (ioctl(self.fd, SIOCOUTQNSD, &unsent) < 0 or unsent == 0)  # no TCP: nothing is lost

    cdef int end(self) except -1:
        """Nothing more will be sent: the other side reads an end. It may still send. To be called again when a backlog has been sent."""
        cdef bytes farewell
        if self.sock is None or self.failed:
            return 0
        if self.tls is not None:
            farewell = self.tls.farewell()      # nothing the second time
            self._send(farewell, len(farewell))
        if self.length == 0:
            c_shutdown(self.fd, SHUT_WR)
        return 0

    cdef int _flush(self) except -1:
        cdef Py_ssize_t sent = 0
        if self.length:
            sent = c_send(self.fd, self.backlog + self.start, self.length, MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent < 0:
                if errno == EAGAIN or errno == EINTR:
                    return 0
                self.failed = True
                sent = self.length
        self.start += sent
        self.length -= sent
        if self.length == 0:
            self._drop_backlog()    # an idle session keeps no buffer
            self._watch()
            self.on_drained()
        return 0

    cdef void _drop_backlog(self) noexcept:
        self.start = 0
        self.capacity = 0
        free(self.backlog)
        self.backlog = NULL

    cdef int _watch(self) except -1:
        """Let the poller wait for what we can use now."""
        cdef unsigned int events = EPOLLERR    # that the other side is gone is always told
        if self.sock is None:
            return 0
        if self.paused == 0:
            events |= EPOLLIN
        if self.length:
            events |= EPOLLOUT
        if events != self.watched:
            return self.poller.watch(self, events)
        return 0

    cdef int pause(self, int reason) except -1:
        """Stop reading until every reason given is taken back."""
        self.paused |= reason
        return self._watch()

    cdef int resume(self, int reason) except -1:
        self.paused &= ~reason
        if self.paused == 0 and self.tls is not None and self.tls.over != 1 and self.sock is not None:
            self.poller.loop.call_soon(self._over)
        return self._watch()

    cdef int close(self) except -1:
        """Close the socket and forget the backlog. May be called twice."""
        cdef bytes farewell
        if self.sock is None:
            return 0
        if self.tls is not None and not self.failed and self.length == 0:
            farewell = self.tls.farewell()
            c_send(self.fd, <const char*>farewell, len(farewell), MSG_NOSIGNAL | MSG_DONTWAIT)
        self.poller.forget(self)
        self.failed = True
        self.length = 0
        self.sock.close()
        self.sock = None
        self.owner = self.on_readable = self.on_drained = None
        return 0
