# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What a session does to measure commands, without its sockets: framing, the queue of commands in flight, the ledger.

Owns a loop over the product's own compiled parts, in the session's order. It forwards nothing.
"""

from libc.time cimport time_t

from sidecar.relay.commands cimport CommandTable
from sidecar.relay.framer cimport FRAME
from sidecar.relay.pending cimport Pending, PendingQueue
from sidecar.relay.reply_framer cimport ReplyFramer
from sidecar.relay.request_framer cimport RequestFramer
from telemetry.ledger cimport Ledger

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now)
    int CLOCK_MONOTONIC


cdef inline long long _now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * 1_000_000_000 + now.tv_nsec


def run(CommandTable table, bytes requests, bytes replies, Py_ssize_t reads, bint ledger_on):
    """Nanoseconds that `reads` reads of `requests`, each answered by one read of `replies`, take.

    Returns (nanoseconds in all, commands counted). With ledger_on False the bytes are only framed and queued.
    """
    cdef RequestFramer request = RequestFramer(table)
    cdef ReplyFramer reply = ReplyFramer()
    cdef PendingQueue queue = PendingQueue()
    cdef Ledger ledger = Ledger(table.names)
    cdef Pending* pending
    cdef const char* p
    cdef const char* end
    cdef long long begin = _now_ns(), at, commands = 0
    cdef Py_ssize_t i
    for i in range(reads):
        p = requests
        end = p + len(requests)
        at = _now_ns()
        while p < end:
            p = request.next(p, end)
            if request.event == FRAME:
                pending = queue.push()
                pending.at_ns = at
                pending.command = request.command.id if request.command != NULL else 0
                pending.size = request.size
        p = replies
        end = p + len(replies)
        at = _now_ns()
        while p < end:
            p = reply.next(p, end)
            if reply.event == FRAME:
                pending = queue.front()
                if ledger_on:
                    ledger.reply(pending.command, at - pending.at_ns, pending.size, reply.size)
                queue.pop()
                commands += 1
    return _now_ns() - begin, commands
