"""A queue of forwarded commands, 40 bytes each, in blocks that all sessions of the worker share when they are empty.

A million commands in flight take 40 MB; a session with nothing in flight keeps none. Owns the plans and notes of those that have one, too; it
never looks at them.
"""

cimport cython
from libc.stdlib cimport free, malloc

from collections import deque

cdef Block* _spare = NULL
cdef int _spares = 0


cdef enum:
    SPARES_MAX = 64


@cython.final
cdef class PendingQueue:
    def __dealloc__(self):
        self.clear()

    cdef int add_plan(self, object plan) except -1:
        """Of the item that is added next, which is PLANNED."""
        if self.plans is None:
            self.plans = deque()
        self.plans.append(plan)
        return 0

    cdef int add_note(self, object change) except -1:
        """Of the item that is added next, which is NOTED."""
        if self.notes is None:
            self.notes = deque()
        self.notes.append(change)
        return 0

    cdef Pending* move(self, PendingQueue other) except NULL:
        """The oldest item becomes the newest one of another queue. Where it is there."""
        cdef Pending* moved = other.push()
        moved[0] = self.front()[0]
        if moved.flags & PLANNED:
            other.add_plan(self.plans.popleft())
        if moved.flags & NOTED:
            other.add_note(self.notes.popleft())
        self.pop()
        return moved

    cdef int empty(self) except -1:
        """Forget all items, with their plans and notes."""
        self.clear()
        self.plans = self.notes = None
        return 0

    cdef int add_block(self) except -1:
        global _spare, _spares
        cdef Block* block
        if _spare != NULL:
            block = _spare
            _spare = block.next
            _spares -= 1
        else:
            block = <Block*>malloc(sizeof(Block))
            if block == NULL:
                raise MemoryError
        block.next = NULL
        block.head = block.tail = 0
        if self.last == NULL:
            self.first = block
        else:
            self.last.next = block
        self.last = block
        return 0

    cdef void drop_block(self) noexcept nogil:
        global _spare, _spares
        cdef Block* block = self.first
        self.first = block.next
        if self.first == NULL:
            self.last = NULL
        if _spares < SPARES_MAX:
            block.next = _spare
            _spare = block
            _spares += 1
        else:
            free(block)

    cdef void clear(self) noexcept nogil:
        while self.length:
            self.pop()
