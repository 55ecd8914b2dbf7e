# Replies that came late together: which command took the time is decided once the engine's slow log has been asked.

cimport cython

from sidecar.relay.pending cimport Pending
from telemetry.spans cimport Identity, Tracer, Unit

cdef struct Suspect:
    Unit* unit                  # holds a reference; NULL: spans go to nobody, or the command has none
    char* key                   # owned, as in Pending
    char* error                 # owned
    int error_length
    int flags                   # of its span
    int owner                   # row of the command that it is a part of: its own, or that of its EXEC; NOBODY: none that has a span
    bint ends                   # EXEC or DISCARD: the span around ends with it
    unsigned short command
    long long since_ns          # from when it is judged
    long long start_ns          # of its span
    long long request
    long long response

cdef enum:
    NOBODY = -1
    UNCLAIMED = -2              # an element of the EXEC that comes next

@cython.final
cdef class Group:
    """The late replies of one read of one connection to the engine, in the order in which they came."""
    cdef Suspect* rows
    cdef int length
    cdef int capacity
    cdef list who               # the Identity of each row
    cdef long long now          # when they came
    cdef int candidates         # rows that may be told as slow
    cdef bint whole             # no row was left out

    cdef Suspect* add(self, Identity who, Pending* entry, long long since_ns, long long response) except NULL
    cdef Suspect* _row(self, Identity who) except NULL

@cython.final
cdef class Suspects:
    cdef Tracer tracer
    cdef public object ask      # (question, decide) -> None: calls decide with the engine's answer, or None, once; None: nobody can be asked
    cdef Group group            # of the read that is being taken, None: no reply of it is late
    cdef readonly int waiting   # groups that are not decided
    cdef list asked             # they
    cdef double allowed
    cdef long long asked_ns

    cdef int suspect(self, Identity who, Pending* entry, long long since_ns, long long start_ns, long long now, long long response, int flags, const char* error, int error_length) except -1
    cdef int beside(self, Identity who, Pending* entry, long long now, long long response, bint queued) except -1
    cdef int over(self, bint shared) except -1
    cdef Group _group_of(self, long long now)
    cdef bint _may_ask(self, long long now) noexcept
    cdef int _decide(self, Group group, object answer) except -1
    cdef int _tell(self, Group group, int i, bint slow, long long engine_ns) except -1
    cdef int _tell_together(self, Group group, object rows) except -1
