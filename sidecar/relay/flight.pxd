# What is in flight on a session's own connection, and what state that connection is in.

from sidecar.relay.channel cimport Channel
from sidecar.relay.owner cimport Owner
from sidecar.relay.pending cimport BLOCKS, Pending, PendingQueue
from sidecar.relay.recorder cimport Recorder
from sidecar.relay.shared cimport Relay
from sidecar.relay.subscriptions cimport Subscriptions
from sidecar.relay.transaction cimport Transaction

cdef enum:
    FEW = 256                            # commands in flight that nobody is denied because of what others have

cdef enum Standing:
    UNASKED = 0
    LOGGED_IN                            # or whoever it is need not
    STRANGER                             # it must log in first

cdef class Flight:
    cdef Relay relay
    cdef Owner owner
    cdef Channel upstream
    cdef PendingQueue pending
    cdef Recorder recorder               # its commands in ledger and spans
    cdef Transaction transaction         # None: it is in none
    cdef Subscriptions subscriptions     # None: there are none
    cdef object task                     # transforms a reply; what follows it waits
    cdef long long used_ns               # when something of the client's was last sent or answered here
    cdef long long blocking              # how many of `pending` may wait by nature
    cdef int planned                     # items that need their reply collected, those of the transaction among them
    cdef int locals                      # LOCAL items of `pending`
    cdef int monitoring                  # MONITORs in flight
    cdef int resetting                   # RESETs in flight
    cdef int restoring                   # replies still to come to requests that make this connection what an earlier one was
    cdef bint asking                     # the engine's reply to ask_id() is still to come
    cdef readonly long long engine_id    # the engine's id of this connection, 0: not known yet
    cdef Standing standing               # of its client, as far as our own question has found out
    cdef bint raw                        # replies pass unseen, nothing is measured
    cdef bint unmeasured                 # raw as soon as what is in flight has its replies
    cdef bint monitor
    cdef bint watching
    cdef bint pushes                     # RESP3: messages come as pushes, and an array is a reply
    cdef bint debugger                   # scripts run in the engine's debugger (SCRIPT DEBUG)
    cdef bint silent_block               # a command that may wait by nature was sent without a reply to come, and may be waiting

    cdef int expect(self, int awaiting, Py_ssize_t command, int flags, long long expected, long long size, bint silent, long long now) except -1
    cdef int expect_planned(self, object plan, Py_ssize_t command, long long size, bint silent, long long now) except -1
    cdef int expect_local(self, int answer, long long now) except -1
    cdef int _expect_special(self, Pending* entry, bint silent) except -1
    cdef int restore(self, list requests, bint pushes) except -1
    cdef int ask_id(self) except -1
    cdef int _send_ours(self, int awaiting, object plan) except -1
    cdef int identify(self, long long engine_id) except -1
    cdef int prove(self) except -1
    cdef bint _is_full(self) noexcept
    cdef int _too_many(self, long long now) except -1
    cdef int unfollow(self, str reason, long long now) except -1
    cdef bint streaming(self) noexcept
    cdef bint settled(self) noexcept
    cdef bint idle(self) noexcept
    cdef bint resting(self) noexcept
    cdef bint spared(self) noexcept
    cdef int forget(self, str error_type) except -1
    cdef int _begin_transaction(self) except -1
    cdef int _end_transaction(self) except -1
    cdef int _clear(self) except -1
    cdef int _unanswered(self) except -1

    cdef inline int _settle(self, Pending* entry) except -1:
        """It was popped: nobody waits for it any more."""
        self.relay.in_flight -= 1
        if entry.flags & BLOCKS:
            self.blocking -= 1
            self.relay.blocking -= 1
        if entry.unit != NULL:
            self.recorder.release(entry)
        return 0
