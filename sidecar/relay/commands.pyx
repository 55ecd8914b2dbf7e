"""The command table: which commands the engine knows, by name, and how the relay treats each.

Owns the mapping from a request's first word (or first two: ``CONFIG GET``) to a small id that the ledger counts by. Names come from the
engine's ``COMMAND`` and from a list of names that an engine may lack, so they are bounded; every other name is id 0, ``_OTHER``. A name that the
engine lacks is only a name: the engine gets the request, and refuses it. Arguments beyond the name are never looked at.
"""

from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

OTHER = "_OTHER"
FIRST_KEY = "first-key-"     # a flag of ours: the position of the command's first key follows

cdef dict _KINDS = {
    "MULTI": MULTI,
    "EXEC": EXEC,
    "DISCARD": DISCARD,
    "RESET": RESET,
    "SUBSCRIBE": SUBSCRIBE,
    "PSUBSCRIBE": SUBSCRIBE,
    "SSUBSCRIBE": SUBSCRIBE,
    "UNSUBSCRIBE": UNSUBSCRIBE,
    "PUNSUBSCRIBE": UNSUBSCRIBE,
    "SUNSUBSCRIBE": UNSUBSCRIBE,
    "MONITOR": MONITOR,
    "HELLO": HELLO,
    "WATCH": WATCH,
    "UNWATCH": UNWATCH,
    "SELECT": NOTED_KIND,
    "AUTH": NOTED_KIND,
    "CLIENT SETNAME": NOTED_KIND,
    "CLIENT SETINFO": NOTED_KIND,
    "SCRIPT DEBUG": NOTED_KIND,
    "TRACEPARENT": TRACEPARENT,
    "XREAD": MAYBE_BLOCKING,
    "XREADGROUP": MAYBE_BLOCKING,
}
cdef dict _SUBSCRIPTIONS = {"PSUBSCRIBE": 1, "PUNSUBSCRIBE": 1, "SSUBSCRIBE": 2, "SUNSUBSCRIBE": 2}

# Read or write, but not by lane: they hold up the engine, or may one day hold up the connection.
cdef frozenset _HEAVY = frozenset({"FLUSHALL", "FLUSHDB", "MIGRATE", "SWAPDB"})
cdef frozenset _NEITHER = frozenset({"blocking", "noscript", "admin", "pubsub", "module"})
cdef frozenset _LIGHT = frozenset({"PING", "ECHO", "PUBLISH", "SPUBLISH", "TIME"})
# Subcommands of CLIENT that change nothing about the connection, or what notes.py follows.
cdef frozenset _HARMLESS = frozenset({
    "CLIENT", "CLIENT GETNAME", "CLIENT GETREDIR", "CLIENT HELP", "CLIENT ID", "CLIENT INFO", "CLIENT KILL", "CLIENT LIST", "CLIENT PAUSE",
    "CLIENT SETINFO", "CLIENT SETNAME", "CLIENT TRACKINGINFO", "CLIENT UNBLOCK", "CLIENT UNPAUSE",
})
cdef frozenset _PINNING = frozenset({
    "ASKING", "MONITOR", "PSUBSCRIBE", "PSYNC", "READONLY", "READWRITE", "REPLCONF", "SCRIPT DEBUG", "SSUBSCRIBE", "SUBSCRIBE", "SYNC",
})


cdef int _route(str name, flags) except -1:
    """The Route bits of a command."""
    if name in _LIGHT:
        return READS
    if name in _PINNING or (name.startswith("CLIENT ") and name not in _HARMLESS):
        return PINS
    if name in _HEAVY or not _NEITHER.isdisjoint(flags):
        return 0
    return WRITES if "write" in flags else READS if "readonly" in flags else 0


def _spelled(str name):
    """The name as the engine compares it: bytes, with only ASCII letters in upper case."""
    return name.encode("utf-8", "surrogateescape").upper()


cdef unsigned int _hash(const char* name, Py_ssize_t length) noexcept nogil:
    cdef unsigned int h = 2166136261
    cdef Py_ssize_t i
    for i in range(length):
        h = (h ^ <unsigned char>name[i]) * 16777619
    return h


cdef class CommandTable:
    """Names are matched in any case; ids never change while the process lives, so a newer table only adds to this one."""

    def __cinit__(self):
        self.mask = 1023
        self.slots = <Slot*>calloc(self.mask + 1, sizeof(Slot))
        self.short_slots = <ShortSlot*>calloc(SHORT_SLOTS, sizeof(ShortSlot))
        if self.slots == NULL or self.short_slots == NULL:
            raise MemoryError
        self.names = [OTHER]
        self.ids = {OTHER: 0}
        self.present = set()
        self.first_keys = {}
        self.disguise.id = 0
        self.disguise.kind = HELD
        self.disguise.subscription = 0
        self.disguise.route = 0

    def __dealloc__(self):
        cdef int i
        for i in range(self.growths):
            free(self.outgrown[i])
        free(self.slots)
        free(self.short_slots)
        free(self.blob)

    def update(self, commands, held=(), renamed=None):
        """Add commands.

        commands: pairs of (name as COMMAND gives it, such as ``config|get``; flags, such as ``["blocking", "first-key-1"]``).
        held: upper-case names (``CONFIG GET``) that are handed to the worker's special handling as a whole.
        renamed: {new name: original name} of the engine's ``rename-command``; the original is then unknown, as it is to the engine.
        """
        originals = {_spelled(new): _spelled(old) for new, old in (renamed or {}).items()}
        called = {old: new for new, old in originals.items()}
        entries = [(*_spelled(name).partition(b"|"), flags) for name, flags in commands]
        containers = {head for head, bar, _sub, _flags in entries if bar}
        for head, bar, sub, flags in entries:  # the engine lists a renamed command under its original name
            name = called.get(head, b"" if head in originals else head)
            self._add(name, head, sub, flags, held, not bar and head in containers)

    def lack(self, known):
        """Add the names that the engine does not know, to be called after `update`: those it hides (``rename-command``), and of `known` the rest.

        known: upper-case names, subcommand included (``SENTINEL MASTERS``). A later `update` may bring the command itself.
        """
        cdef Command command
        cdef bytes key
        names = [*self.names[1:], *sorted(set(known).difference(self.ids))]
        containers = {head for head, space, _sub in (name.partition(" ") for name in names) if space}
        for name in names:
            key = _spelled(name).replace(b" ", b"\0", 1)
            if self.find(key, len(key)) != NULL or len(self.names) >= 65535:
                continue
            command.id = self._id(name)
            command.kind = CONTAINER if name in containers else PLAIN
            command.subscription = 0
            command.route = LACKS
            self.put(key, command)

    @property
    def lacking(self):
        """The names that no command of the engine has, whatever it is called."""
        return frozenset(self.names).difference(self.present)

    cdef unsigned short _id(self, str canonical) except? 0:
        if canonical not in self.ids:
            self.ids[canonical] = len(self.names)
            self.names.append(canonical)
        return self.ids[canonical]

    def _add(self, bytes name, bytes original, bytes sub, flags, held, bint container):
        """One command: the name that it is called by (none: it cannot be called), its own name, and its subcommand, if any."""
        cdef Command command
        cdef str canonical = (original + b" " + sub if sub else original).decode("utf-8", "surrogateescape")
        if not name:
            return
        if len(self.names) >= 65535:
            return
        command.id = self._id(canonical)
        self.present.add(canonical)
        for flag in flags:
            if flag.startswith(FIRST_KEY):
                self.first_keys[canonical] = int(flag[len(FIRST_KEY):])
        command.subscription = _SUBSCRIPTIONS.get(canonical, 0)
        command.route = _route(canonical, flags)
        if canonical in held:
            command.kind = HELD
        elif container:
            command.kind = CONTAINER
        elif canonical in _KINDS:
            command.kind = _KINDS[canonical]
        elif "blocking" in flags:
            command.kind = BLOCKING
        else:
            command.kind = PLAIN
        if command.kind != PLAIN:
            command.route &= ~RIDES
        self.put(name + b"\0" + sub if sub else name, command)

    def knows(self, bytes name):
        """Whether the engine takes an upper-case name for a command."""
        cdef const Command* found = self.find(name, len(name))
        return found != NULL and not found.route & LACKS

    def lookup(self, bytes name):
        """The canonical name and kind number for an upper-case spelled name (``CONFIG|GET``); for tests and tools."""
        cdef bytes key = name.replace(b"|", b"\0", 1)
        cdef const Command* command = self.find(key, len(key))
        if command == NULL:
            return (OTHER, PLAIN)
        return (self.names[command.id], command.kind)

    cdef int put(self, bytes name, Command command) except -1:
        cdef unsigned int h, i
        cdef Slot* slot
        cdef char* blob
        cdef Py_ssize_t length = len(name)
        if length == 0 or length > NAME_MAX:
            return 0
        if length <= 8 and b"\0" not in name and self.short_used * 2 < SHORT_SLOTS:
            return self._put_short(name, command)
        if self.used * 2 > self.mask:
            self._grow()
        h = _hash(name, length)
        i = h & self.mask
        while self.slots[i].length:
            slot = &self.slots[i]
            if slot.hash == h and slot.length == length and memcmp(self.blob + slot.offset, <const char*>name, length) == 0:
                slot.command = command
                return 0
            i = (i + 1) & self.mask
        blob = <char*>realloc(self.blob, self.blob_length + length)
        if blob == NULL:
            raise MemoryError
        self.blob = blob
        memcpy(blob + self.blob_length, <const char*>name, length)
        slot = &self.slots[i]
        slot.hash = h
        slot.length = <unsigned short>length
        slot.offset = self.blob_length
        slot.command = command
        self.blob_length += <unsigned int>length
        self.used += 1
        return 0

    cdef int _put_short(self, bytes name, Command command) except -1:
        cdef unsigned long long key = short_key(name + bytes(8), <int>len(name))
        cdef unsigned int i = short_hash(key)
        while self.short_slots[i].key and self.short_slots[i].key != key:
            i = (i + 1) & (SHORT_SLOTS - 1)
        if self.short_slots[i].key == 0:
            self.short_used += 1
        self.short_slots[i].key = key
        self.short_slots[i].command = command
        self.short_slots[i].length = <int>len(name)
        return 0

    def _grow(self):
        cdef Slot* old = self.slots
        cdef unsigned int size = self.mask + 1, i, j
        cdef Slot* bigger = <Slot*>calloc(size * 2, sizeof(Slot))
        if bigger == NULL:
            raise MemoryError
        for i in range(size):
            if old[i].length:
                j = old[i].hash & (size * 2 - 1)
                while bigger[j].length:
                    j = (j + 1) & (size * 2 - 1)
                bigger[j] = old[i]
        self.slots = bigger
        self.mask = size * 2 - 1
        self.outgrown[self.growths] = old
        self.growths += 1

    cdef const Command* find(self, const char* name, Py_ssize_t length) noexcept nogil:
        cdef unsigned int h, i
        cdef Slot* slot
        cdef char padded[8]
        cdef const Command* found
        if length <= 8:
            if length == 0:
                return NULL
            memset(padded, 0, 8)
            memcpy(padded, name, length)
            found = find_short(self, padded, <int>length)
            if found != NULL:
                return found
        h = _hash(name, length)
        i = h & self.mask
        while self.slots[i].length:
            slot = &self.slots[i]
            if slot.hash == h and slot.length == length and memcmp(self.blob + slot.offset, name, length) == 0:
                return &slot.command
            i = (i + 1) & self.mask
        return NULL
