# cython: language_level=3
"""The event loop of a worker whose turns Callgrind counts: a turn of a poller's loop, and no instruction of anybody else.

Owns the requests to Callgrind, and what stands between a relay and asyncio's loop. Outside of Valgrind nothing is counted, and all the same
happens.
"""

cdef extern from *:
    """
    #include <valgrind/callgrind.h>
    static inline void start_instrumentation(void) { CALLGRIND_START_INSTRUMENTATION; }
    static inline void zero_stats(void) { CALLGRIND_ZERO_STATS; }
    static inline void toggle_collect(void) { CALLGRIND_TOGGLE_COLLECT; }
    static inline void dump_stats_at(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
    """
    void start_instrumentation() nogil
    void zero_stats() nogil
    void toggle_collect() nogil
    void dump_stats_at(const char* name) nogil


def watch():
    """Begin to look at every instruction, which makes everything much slower, and forget what has been counted."""
    start_instrumentation()
    zero_stats()


def dump(bytes name not None):
    """Have Callgrind write what it has counted since `watch`, under this name."""
    dump_stats_at(name)


cdef class Soon:
    """What `call_soon` returns while turns are counted."""

    cdef bint cancelled
    cdef object callback
    cdef tuple arguments

    def cancel(self):
        """It is not called any more."""
        self.cancelled = True


cdef class Loop:
    """loop: of asyncio, which serves the relay until `counts` is set; from then on `turn` does, and nothing else runs.

    A task that begins then is an error: it would run, and cost, outside of what is counted.
    """

    cdef public bint counts
    cdef object loop
    cdef object reader
    cdef list soon

    def __init__(self, loop not None):
        self.loop = loop
        self.soon = []

    def __getattr__(self, name):
        return getattr(self.loop, name)

    def turn(self):
        """Serve what is ready, then what was left for the end of the turn."""
        cdef Soon one
        cdef list soon
        toggle_collect()
        try:
            self.reader()
            if self.soon:
                soon = self.soon
                self.soon = []
                for one in soon:
                    if not one.cancelled:
                        one.callback(*one.arguments)
        finally:
            toggle_collect()

    def add_reader(self, fd, callback):
        """A relay has one descriptor watched, its poller's."""
        if self.reader is not None:
            raise RuntimeError("the relay watches a second descriptor: turn() has to serve it, too")
        self.reader = callback
        self.loop.add_reader(fd, callback)

    def call_soon(self, callback, *arguments):
        cdef Soon one
        if not self.counts:
            return self.loop.call_soon(callback, *arguments)
        one = Soon()
        one.callback = callback
        one.arguments = arguments
        self.soon.append(one)
        return one

    def create_task(self, coroutine):
        if self.counts:
            coroutine.close()
            raise RuntimeError("a command that is counted began a task")
        return self.loop.create_task(coroutine)

    def call_exception_handler(self, context):
        raise RuntimeError(context["message"]) from context.get("exception")
