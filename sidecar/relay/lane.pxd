# The lane route: one connection to the engine for the stateless commands of many sessions.

cimport cython
from cpython.object cimport PyObject

from sidecar.relay.channel cimport Channel
from sidecar.relay.owner cimport Owner
from sidecar.relay.pending cimport PendingQueue
from sidecar.relay.recorder cimport Recorder
from sidecar.relay.reply_framer cimport ReplyFramer
from sidecar.relay.shared cimport Relay

cdef struct Run:
    PyObject* rider             # holds a reference; NULL: a request of ours
    long long count             # of its replies still to come

cdef class Pool:
    cdef Relay relay
    cdef readonly list lanes            # all that are connected
    cdef readonly long long runs        # on all of them
    cdef list emptied                   # futures that wait for them to be empty

    cdef int became_empty(self) except -1

@cython.final
cdef class Rider:
    """What one session has in flight on a lane: all of it on the same one."""

    cdef Relay relay
    cdef Owner owner
    cdef Recorder recorder
    cdef PendingQueue pending
    cdef Lane lane                      # on which `pending` is, or was
    cdef Lane wrote                     # that carried the last command that may have written
    cdef int locals                     # LOCAL items of `pending`
    cdef long long boarding             # commands that were expected and not sent yet
    cdef bint gone                      # nobody waits for the replies any more
    cdef bint midway                    # a part of the front's reply was delivered
    cdef bytearray out                  # replies that go to the client with what follows

    cdef int expect(self, Py_ssize_t command, long long expected, long long size, long long now) except -1
    cdef int expect_local(self, int answer, long long now) except -1
    cdef int send(self, const char* p, size_t n) except -1
    cdef int answer_locals(self) except -1
    cdef int abandon(self, str error_type) except -1
    cdef int write_by(self, Lane lane) except -1
    cdef int _completed(self, ReplyFramer framer, long long now) except -1
    cdef int _deliver(self, const char* data, Py_ssize_t n) except -1
    cdef const char* _insert_locals(self, const char* unsent, const char* upto) except NULL
    cdef int _lost(self) except -1

@cython.final
cdef class Lane:
    cdef Relay relay
    cdef Pool pool
    cdef Channel upstream
    cdef ReplyFramer replies
    cdef Run* runs                      # a ring
    cdef size_t capacity
    cdef size_t head
    cdef readonly size_t length
    cdef readonly bint open             # commands may go by it
    cdef bint retired                   # it takes no commands any more, but those who wrote by it may ask it
    cdef long long writers              # riders whose last write it carried
    cdef bint closed
    cdef str fault                      # of the engine's, for which it is closed
    cdef long long used_ns
    cdef public long long engine_id      # the engine's id of the connection, 0: not known yet
    cdef list waiting                   # riders whose clients are not read until the engine reads
    cdef object asked                   # deque of futures: of our own requests
    cdef bytearray collected            # the beginning of the reply to one

    cdef int take(self, Rider rider, const char* p, size_t n, long long count) except -1
    cdef int _take(self, const char* data, Py_ssize_t n, long long now) except -1
    cdef int _push(self, PyObject* rider, long long count) except -1
    cdef int _pop(self) except -1
    cdef int leave(self) except -1
    cdef int _broken(self, str reason) except -1
    cdef int _own(self, const char* p, Py_ssize_t n, bint complete) except -1
