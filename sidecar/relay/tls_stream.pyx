"""TLS of one connection, between the bytes of its socket and those of its session.

Owns the state of OpenSSL for one client, whose handshake is over. It never touches a socket: OpenSSL reads and writes memory, so that reading,
backlogs and back pressure stay the channel's, the same for every client.
"""

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.bytes cimport PyBytes_FromStringAndSize

import ssl

cdef extern from "Python.h":
    object PyMemoryView_FromMemory(char* memory, Py_ssize_t size, int flags)


cdef enum:
    SLICE_BYTES = 16384     # a record's most, and what OpenSSL's memory keeps of an idle connection that was busy once


cdef class TlsStream:
    """connection: an SSLObject over the two memory BIOs."""

    def __init__(self, connection, incoming, outgoing):
        self.connection = connection
        self.incoming = incoming
        self.outgoing = outgoing
        self.over = 1

    cdef Py_ssize_t decrypt(self, const char* data, Py_ssize_t n, char* target, Py_ssize_t size) except -3:
        """Take n bytes of the socket, and write what they complete to `target`, at most `size` bytes, which must be enough.

        `target` may lie before `data` in one buffer, by a record. Returns the number of bytes; 0 at the end of the stream; -1 when no record is
        complete; -2 when what came is no TLS of this connection (`over` says so from then on, also where bytes came before).
        """
        cdef Py_ssize_t written = 0
        cdef Py_ssize_t taken
        while n and self.over == 1:
            taken = min(n, <Py_ssize_t>SLICE_BYTES)
            self.incoming.write(PyMemoryView_FromMemory(<char*>data, taken, PyBUF_READ))
            data += taken
            n -= taken
            written += self._open(target + written, size - written)
        return written or (-1 if self.over == 1 else self.over)

    cdef Py_ssize_t _open(self, char* target, Py_ssize_t size) except -1:
        """What the records say that are complete: the number of bytes written."""
        cdef Py_ssize_t written = 0
        cdef Py_ssize_t got
        while True:
            try:
                got = self.connection.read(size - written, PyMemoryView_FromMemory(target + written, size - written, PyBUF_WRITE))
            except ssl.SSLWantReadError:
                return written
            except ssl.SSLError:
                self.over = -2
                return written
            if got == 0:
                self.over = 0
                return written
            written += got
            if self.incoming.pending == 0 and self.connection.pending() == 0:   # saves an exception
                return written

    cdef bytes encrypt(self, const char* p, Py_ssize_t n):
        """The records that carry n bytes, behind those that were waiting. Raises ssl.SSLError."""
        cdef list records = []
        cdef Py_ssize_t written
        while n:
            written = self.connection.write(PyMemoryView_FromMemory(<char*>p, min(n, <Py_ssize_t>SLICE_BYTES), PyBUF_READ))
            p += written
            n -= written
            records.append(self.outgoing.read())
        return records[0] if len(records) == 1 else b"".join(records)

    def sealed(self, bytes data):
        """The records that carry `data`."""
        return self.encrypt(data, len(data))

    cdef bytes answer(self):
        """What OpenSSL itself has to say to the other side: an alert, a new key."""
        return self.outgoing.read() if self.outgoing.pending else b""

    cdef bytes farewell(self):
        """The record that says that nothing follows."""
        try:
            self.connection.unwrap()
        except ssl.SSLError:    # it does not wait for the other side's
            pass
        return self.answer()
