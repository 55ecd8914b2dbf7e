# cython: language_level=3
"""The event loop of a worker whose turns Callgrind counts: a turn of a poller's loop, and no instruction of anybody else.

Owns the requests to Callgrind and the least loop that a relay can live in. It never waits, and timers never run out. Outside of Valgrind
nothing is counted, and all the same happens.
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


cdef class Timer:
    """What call_later and call_soon return."""

    cdef bint cancelled
    cdef object callback
    cdef tuple arguments

    def cancel(self):
        """It is not called any more."""
        self.cancelled = True


cdef class Loop:
    """`turn` is what the loop of asyncio does between two waits. counts: whether turns are counted now."""

    cdef public bint counts
    cdef object reader
    cdef list soon

    def __init__(self):
        self.soon = []

    def turn(self):
        """Serve what is ready, then what was left for the end of the turn."""
        cdef Timer timer
        cdef list soon
        if self.counts:
            toggle_collect()
        try:
            self.reader()
            if self.soon:
                soon = self.soon
                self.soon = []
                for timer in soon:
                    if not timer.cancelled:
                        timer.callback(*timer.arguments)
        finally:
            if self.counts:
                toggle_collect()

    def add_reader(self, _fd, callback):
        """The one descriptor that a relay has watched: its poller's."""
        if self.reader is not None:
            raise RuntimeError("the relay watches a second descriptor: turn() has to serve it, too")
        self.reader = callback

    def remove_reader(self, _fd):
        self.reader = None

    def time(self):
        return 0.0

    def call_soon(self, callback, *arguments):
        cdef Timer timer = self.call_later(0, callback, *arguments)
        self.soon.append(timer)
        return timer

    def call_later(self, _delay_s, callback, *arguments):
        cdef Timer timer = Timer()
        timer.callback = callback
        timer.arguments = arguments
        return timer

    def create_task(self, coroutine):
        coroutine.close()
        raise RuntimeError("a command of the gate is decided in Python, and not in the compiled path")

    def call_exception_handler(self, context):
        raise RuntimeError(context["message"]) from context.get("exception")
