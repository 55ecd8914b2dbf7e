"""The lane route: connections to the engine that carry stateless commands of many sessions.

Owns whose reply comes next on such a connection, and what a session has in flight there. Every command is sent once: when a lane breaks, what
was in flight gets an error. It decides about no command: who sends one here knows that it needs nothing of its connection, and is on its way
home only when nothing of it is in flight here.
"""

import os
from collections import deque

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free, malloc

from sidecar.relay.channel cimport BACKLOG, Channel
from sidecar.relay.framer cimport BROKEN, FRAME, MORE, PUSH
from sidecar.relay.owner cimport LARGE_BYTES, LARGE_TURNS, Owner, local_answer
from sidecar.relay.pending cimport LOCAL, Pending, PendingQueue, REPLY
from sidecar.relay.recorder cimport Recorder
from sidecar.relay.reply_framer cimport ReplyFramer
from sidecar.relay.shared cimport Relay, now_ns

cdef Py_ssize_t _OWN_REPLY_MOST = 65536      # to a request of ours

cdef bytes _LOST = b"-ERR valkey-sidecar: the connection to the engine was lost, the command may have been executed\r\n"
cdef const char* NULL_TEXT = ""


cdef class Pool:
    """All lanes of one worker, as far as a lane knows of the others."""

    def __init__(self, Relay relay not None):
        self.relay = relay
        self.lanes = []
        self.emptied = []

    def when_empty(self):
        """A future: done when nothing is in flight on any lane."""
        future = self.relay.loop.create_future()
        if self.runs == 0:
            future.set_result(None)
        else:
            self.emptied.append(future)
        return future

    cdef int became_empty(self) except -1:
        emptied, self.emptied = self.emptied, []
        for future in emptied:
            if not future.done():
                future.set_result(None)
        return 0


cdef class Rider:
    def __init__(self, Relay relay not None, Owner owner not None, Recorder recorder not None):
        self.relay = relay
        self.owner = owner
        self.recorder = recorder
        self.pending = PendingQueue()

    cdef int expect(self, Py_ssize_t command, long long expected, long long size, long long now) except -1:
        """A request is about to be sent. expected: its arguments after the name."""
        cdef Pending* entry = self.pending.add(REPLY, command, 0, <int>expected, size, now)
        if self.relay.tracer.enabled:
            self.recorder.assign(entry, REPLY, now)
            self.recorder.request(NULL, NULL, NULL, 0, 0)
        self.relay.in_flight += 1
        self.boarding += 1
        return 0

    cdef int expect_local(self, int answer, long long now) except -1:
        """A request that is not sent: we answer it when its turn comes."""
        self.pending.add(LOCAL, 0, 0, answer, 0, now)
        self.locals += 1
        self.relay.in_flight += 1
        return 0

    cdef int send(self, const char* p, size_t n) except -1:
        """Send the requests that were expected since the last time: these bytes."""
        if self.boarding:
            self.lane.take(self, p, n, self.boarding)
            self.boarding = 0
        return 0

    cdef int answer_locals(self) except -1:
        """All requests of a read are taken: give the answers of ours, if nothing else follows them that they can go with."""
        if self.locals and self.pending.length == self.locals:
            self._insert_locals(NULL_TEXT, NULL_TEXT)
            self._deliver(NULL_TEXT, 0)
            self.relay.check_quiet()
        return 0

    cdef int abandon(self, str error_type) except -1:
        """The client has left or is cut off: count what is in flight as lost, and drop its replies."""
        cdef Pending entry
        cdef long long now = now_ns() if self.relay.tracer.enabled else 0
        self.gone = True
        self.locals = 0
        self.write_by(None)
        self.out = None
        while self.pending.length:
            entry = self.pending.front()[0]
            self.pending.pop()
            self.relay.in_flight -= 1
            self.recorder.lost(&entry, error_type, now)
            if entry.unit != NULL:
                self.recorder.release(&entry)
        return 0

    cdef int write_by(self, Lane lane) except -1:
        """The lane that carries a write now. The one before it need not be kept for a WAIT."""
        cdef Lane before = self.wrote
        if before is lane:
            return 0
        self.wrote = lane
        if lane is not None:
            lane.writers += 1
        if before is not None:
            before.writers -= 1
            before.leave()
        return 0

    cdef int _completed(self, ReplyFramer framer, long long now) except -1:
        """The oldest command in flight has its whole reply, which is in the framer."""
        cdef Pending* entry = self.pending.front()
        self.recorder.replied(entry, now)
        if entry.unit != NULL:
            self.recorder.release(entry)
        self.pending.pop()
        self.relay.in_flight -= 1
        self.recorder.answered(now)
        if framer.size > LARGE_BYTES:
            self.owner.home_turns = LARGE_TURNS
        return 0

    cdef int _deliver(self, const char* data, Py_ssize_t n) except -1:
        cdef bytearray out = self.out
        if out is None:
            return self.owner.deliver(data, n)
        self.out = None
        out += data[:n]
        return self.owner.deliver(PyByteArray_AS_STRING(out), PyByteArray_GET_SIZE(out))

    cdef const char* _insert_locals(self, const char* unsent, const char* upto) except NULL:
        """Put the answers of ours whose turn it is behind [unsent, upto). Where the bytes that still wait begin."""
        cdef Pending* front = self.pending.front()
        while front != NULL and front.awaiting == LOCAL:
            if self.out is None:
                self.out = bytearray()
            if upto > unsent:
                self.out += unsent[:upto - unsent]
                unsent = upto
            self.out += local_answer(front.expected)
            self.pending.pop()
            self.locals -= 1
            self.relay.in_flight -= 1
            front = self.pending.front()
        return unsent

    cdef int _lost(self) except -1:
        """The lane is gone: an error for everything that was in flight. Nobody knows what of it was executed."""
        cdef Pending entry
        cdef long long now = now_ns() if self.relay.tracer.enabled else 0
        if self.gone:
            return 0
        if self.midway:                        # no error can follow half a reply
            self.owner.close()
            return 0
        while self.pending.length:
            entry = self.pending.front()[0]
            self.pending.pop()
            self.relay.in_flight -= 1
            if entry.awaiting == LOCAL:
                self.locals -= 1
                answer = local_answer(entry.expected)
            else:
                self.recorder.lost(&entry, "connection_lost", now)
                if entry.unit != NULL:
                    self.recorder.release(&entry)
                answer = _LOST
            if self.out is None:
                self.out = bytearray()
            self.out += answer
        if self.out:
            self._deliver(NULL_TEXT, 0)
        self.owner.rode()
        return 0


cdef class Lane:
    """sock: connected to the engine. It takes commands when `open` is set."""

    def __init__(self, Relay relay not None, Pool pool not None, sock):
        self.relay = relay
        self.pool = pool
        self.replies = ReplyFramer()
        self.waiting = []
        self.asked = deque()
        self.used_ns = now_ns()
        self.upstream = Channel(relay.poller, self, sock, self._readable, self._drained)
        pool.lanes.append(self)
        relay.lane_count += 1
        relay.upstreams_changed()

    def __dealloc__(self):
        free(self.runs)

    cdef int take(self, Rider rider, const char* p, size_t n, long long count) except -1:
        """`count` requests, n bytes in all, of one session."""
        cdef Run* last
        if self.length:
            last = &self.runs[(self.head + self.length - 1) & (self.capacity - 1)]
            if last.rider == <PyObject*>rider:
                last.count += count
            else:
                self._push(<PyObject*>rider, count)
        else:
            self._push(<PyObject*>rider, count)
        self.upstream.cork(p, n)
        if self.upstream.behind():
            self.waiting.append(rider)
            rider.owner.behind()
        return 0

    def ask(self, bytes request):
        """Send a request of ours, behind all others. A future of its reply; ConnectionError when the lane breaks."""
        future = self.relay.loop.create_future()
        self.asked.append(future)
        self._push(NULL, 1)
        self.upstream.cork(request, len(request))
        return future

    async def wait(self, bytes request):
        """Send a request of ours that may block, on this lane alone: nothing else goes by it any more. Its reply.

        The lane stays for those whose last write it carried: they may ask, too, and again.
        """
        self.open = False
        self.retired = True
        try:
            return await self.ask(request)
        finally:
            self.leave()

    cdef int leave(self) except -1:
        """Close a lane that takes no commands any more, if nobody needs it for a WAIT."""
        if self.retired and self.writers == 0 and self.length == 0:
            self.close()
        return 0

    cdef int _push(self, PyObject* rider, long long count) except -1:
        cdef Run* bigger
        cdef Run* run
        cdef size_t i
        if self.length == self.capacity:
            bigger = <Run*>malloc((self.capacity * 2 or 64) * sizeof(Run))
            if bigger == NULL:
                raise MemoryError
            for i in range(self.length):
                bigger[i] = self.runs[(self.head + i) & (self.capacity - 1)]
            free(self.runs)
            self.runs = bigger
            self.capacity = self.capacity * 2 or 64
            self.head = 0
        run = &self.runs[(self.head + self.length) & (self.capacity - 1)]
        run.rider = rider
        run.count = count
        self.length += 1
        self.pool.runs += 1
        if rider != NULL:
            Py_INCREF(<object>rider)
        return 0

    cdef int _pop(self) except -1:
        """Forget the oldest run. Its reference is the caller's."""
        self.head = (self.head + 1) & (self.capacity - 1)
        self.length -= 1
        self.pool.runs -= 1
        if self.pool.runs == 0 and self.pool.emptied:
            self.pool.became_empty()
        return 0

    def _readable(self):
        cdef Py_ssize_t n = self.upstream.receive(self.relay.buffer, self.relay.buffer_size)
        cdef long long now
        if n > 0:
            now = now_ns()
            self.used_ns = now
            self._take(self.relay.buffer, n, now)
            if self.relay.suspects.group is not None:
                self.relay.suspects.over(True)
        elif n != -1:
            self.close()

    def _drained(self):
        self._let_go()

    def _let_go(self):
        """The engine reads again, or the lane is gone: so may the clients that waited for it."""
        cdef Rider rider
        waiting, self.waiting = self.waiting, []
        for item in waiting:
            rider = item
            if not rider.gone:
                rider.owner.taken()

    cdef int _take(self, const char* data, Py_ssize_t n, long long now) except -1:
        cdef const char* p = data
        cdef const char* end = data + n
        cdef const char* unsent = data
        cdef ReplyFramer framer = self.replies
        cdef Run* run
        cdef Rider rider
        cdef const char* began
        cdef bint fresh = framer.event != MORE or (framer.type == 0 and framer.size == 0)
        while p < end:
            if self.length == 0:               # nobody has asked
                return self._broken("reply_without_request")
            run = &self.runs[self.head]
            if run.rider == NULL:
                p = framer.next(p, end)
                if framer.event == BROKEN or framer.type == PUSH:
                    return self._broken("reply_not_understood")
                self._own(unsent, p - unsent, framer.event == FRAME)
                unsent = p
                fresh = framer.event == FRAME
                continue
            rider = <Rider>run.rider
            rider.owner.active_ns = now
            while True:                        # the replies to this run
                if rider.locals and fresh and not rider.gone:
                    unsent = rider._insert_locals(unsent, p)
                began = p
                p = framer.next(p, end)
                if framer.event != FRAME or framer.type == PUSH:
                    break
                fresh = True
                if not rider.gone:
                    rider._completed(framer, now)
                run.count -= 1
                if run.count == 0 or p == end:
                    break
            if framer.event == BROKEN or framer.type == PUSH:
                if not rider.gone:
                    rider._deliver(unsent, began - unsent)
                return self._broken("reply_not_understood")
            if run.count == 0:
                self._pop()
                rider.midway = False
                if not rider.gone:
                    if rider.locals:
                        unsent = rider._insert_locals(unsent, p)
                    rider._deliver(unsent, p - unsent)
                    rider.owner.rode()
                Py_DECREF(rider)
            elif not rider.gone:
                fresh = framer.event == FRAME
                rider.midway = not fresh
                rider._deliver(unsent, p - unsent)
                rider.owner.rode()
            unsent = p
        if self.retired:
            self.leave()
        self.relay.check_quiet()
        return 0

    cdef int _own(self, const char* p, Py_ssize_t n, bint complete) except -1:
        """A part of the reply to a request of ours."""
        cdef bytes reply
        if self.collected is None:
            self.collected = bytearray()
        self.collected += p[:n]
        if len(self.collected) > _OWN_REPLY_MOST:
            return self._broken("reply_not_understood")
        if complete:
            reply = bytes(self.collected)
            self.collected = None
            self._pop()
            future = self.asked.popleft()
            if not future.done():
                future.set_result(reply)
        return 0

    cdef int _broken(self, str reason) except -1:
        """The engine has said something that cannot be an answer: whose is whose is not known any more."""
        self.fault = reason
        self.close()
        return 0

    def hung_up(self, channel):
        """The engine has cut the connection while it was not read."""
        self.close()

    def close(self):
        """Close the connection; who has commands in flight gets errors. May be called twice."""
        cdef Rider rider
        cdef PyObject* waits
        if self.closed:
            return
        self.closed = True
        self.open = False
        if self.fault is not None or self.length > <size_t>len(self.asked):
            self.relay.ledger.count("lanes.broken", self.fault or "connection_lost")
        self.upstream.close()
        self.pool.lanes.remove(self)
        self.relay.lane_count -= 1
        self.relay.upstreams_changed()
        while self.length:
            waits = self.runs[self.head].rider
            self._pop()
            if waits == NULL:
                future = self.asked.popleft()
                if not future.done():
                    future.set_exception(ConnectionError("the lane is gone"))
                continue
            rider = <Rider>waits
            try:
                rider._lost()
            except Exception as error:
                self.relay.poller.fault(rider.owner, error)
            Py_DECREF(rider)
        self._let_go()
        self.relay.check_quiet()

    @property
    def inode(self):
        """Of our side of the connection."""
        return 0 if self.upstream.sock is None else os.fstat(self.upstream.sock.fileno()).st_ino
