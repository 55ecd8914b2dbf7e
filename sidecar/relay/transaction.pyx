"""A transaction: from the reply to MULTI until the reply to EXEC or DISCARD.

Owns the commands that the engine has queued, and matches the elements of EXEC's reply to them. It never sees a request, and a connection that is
in no transaction has none.
"""

cimport cython

from sidecar.relay.framer cimport BIG_ERROR, ERROR
from sidecar.relay.owner cimport Owner
from sidecar.relay.pending cimport NOTED, Pending, PendingQueue, PLANNED, QUEUED
from sidecar.relay.recorder cimport Recorder


@cython.freelist(8)
@cython.final
cdef class Transaction:
    def __cinit__(self):
        self.queued = PendingQueue()

    cdef object plan(self):
        """The plan of the element that comes next, while EXEC's reply is coming."""
        cdef Pending* front = self.queued.front()
        return self.queued.plans[0] if front != NULL and front.flags & PLANNED else None

    cdef bint executed(self, Recorder recorder, Owner owner, long long now) except -1:
        """An element of EXEC's reply is complete. Whether a plan was for it."""
        cdef Pending* entry = self.queued.front()
        cdef bint planned = entry.flags & PLANNED != 0
        entry.flags |= QUEUED
        recorder.replied(entry, now)
        if planned:
            self.queued.plans.popleft()
        if entry.flags & NOTED:
            change = self.queued.notes.popleft()
            owner.changed(change if recorder.replies.type != ERROR and recorder.replies.type != BIG_ERROR else None)
        recorder.release(entry)
        self.queued.pop()
        self.executing -= 1
        return planned

    cdef int abandon(self, Recorder recorder) except -1:
        """What is queued is never executed. How many plans were for it."""
        cdef int plans = len(self.queued.plans) if self.queued.plans is not None else 0
        while self.queued.length:
            recorder.add_bytes(self.queued.front(), self.queued.front().size, 0)
            recorder.release(self.queued.front())
            self.queued.pop()
        self.queued.empty()
        return plans
