# The home route: one upstream connection for one client session.

cimport cython

from sidecar.relay.flight cimport Flight
from sidecar.relay.pending cimport Pending
from sidecar.relay.reply_framer cimport ReplyFramer

@cython.final
cdef class HomeRoute(Flight):
    cdef ReplyFramer replies
    cdef bytearray collected             # the beginning of a reply that a plan transforms
    cdef bytearray stash                 # replies that wait for a plan's answer
    cdef bytearray out                   # replies that go to the client with what follows, while answers of ours stand between them
    cdef long long pushed                # bytes that came without a command since the last reply
    cdef readonly bint closed
    cdef bint replica                    # the connection is a replication stream
    cdef bint answered_well              # a command of this connection has succeeded: it need not authenticate (any more)

    cdef int answer_locals(self) except -1
    cdef int close(self) except -1
    cdef int _take(self, const char* data, Py_ssize_t n, long long now) except -1
    cdef object _plan(self)
    cdef bint _executing(self) noexcept
    cdef bint _out_of_band(self)
    cdef bint _is_monitor_line(self) noexcept
    cdef bint _is_script(self, Pending* entry)
    cdef bint _in_pubsub(self) noexcept
    cdef int _frame(self, long long now) except -1
    cdef int _confirmation(self, int kind, long long now) except -1
    cdef int _complete(self, long long now) except -1
    cdef int _book(self, Py_ssize_t command) except -1
    cdef int _take_effect(self, int awaiting, bint failed) except -1
    cdef int _reset(self) except -1
    cdef int _go_raw(self, str reason) except -1
    cdef int _pass(self) except -1
    cdef const char* _insert_locals(self, const char* unsent, const char* upto) except NULL
    cdef bytes _local_answer(self, int answer)
    cdef int _deliver(self, const char* data, Py_ssize_t n) except -1
