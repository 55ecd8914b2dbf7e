# The command table: from a name as it stands in a request to the command's id and the way the relay treats it.

cimport cython

cdef enum Kind:
    PLAIN = 0        # forwarded, one reply
    CONTAINER        # the name needs its second argument (CONFIG GET)
    MULTI
    EXEC
    DISCARD
    RESET
    SUBSCRIBE        # one confirmation per channel
    UNSUBSCRIBE      # one confirmation per channel, or one per subscription when none is named
    MONITOR
    HELLO            # may change the protocol
    WATCH
    UNWATCH
    BLOCKING         # waits by nature (BLPOP): its time is not latency
    MAYBE_BLOCKING   # waits when an argument says BLOCK (XREAD): held until it is complete
    NOTED_KIND       # PLAIN, and its success changes what is known about the client (SELECT, AUTH, CLIENT SETNAME, SCRIPT DEBUG): held until it is complete
    TRACEPARENT      # ours: it never reaches the engine
    HELD             # held until it is complete, then `special.py` says what is forwarded

cdef enum Route:     # bits of Command.route
    READS = 1        # needs nothing of its connection: it may go by lane
    WRITES = 2       # the same, and may write
    RIDES = 3
    PINS = 8         # may change the connection in a way that is not followed: the session never rides again
    LACKS = 16       # the engine does not know this name: only spans and metrics do

cdef enum:
    NAME_MAX = 256   # bytes of a name, subcommand included; renamed commands may have long ones

cdef struct Command:
    unsigned short id
    unsigned char kind
    unsigned char subscription     # for SUBSCRIBE and UNSUBSCRIBE: 0 channel, 1 pattern, 2 shard channel
    unsigned char route

cdef struct Slot:
    unsigned int hash
    unsigned short length          # 0: free
    unsigned int offset            # of the name in `blob`
    Command command

cdef struct ShortSlot:
    unsigned long long key         # 0: free
    Command command
    int length                     # a name that ends in NUL bytes has the same key as one without them

cdef enum:
    SHORT_SLOTS = 2048
    GROWTHS_MAX = 32

@cython.final
cdef class CommandTable:
    cdef ShortSlot* short_slots    # names of up to 8 bytes, by those bytes, while few enough; no subcommands
    cdef Slot* slots
    cdef Slot* outgrown[GROWTHS_MAX]   # kept, for a framer inside a request points into the slots that it was found in
    cdef int growths
    cdef unsigned int mask
    cdef unsigned int used
    cdef unsigned int short_used
    cdef char* blob                # upper-case names, one after the other; between command and subcommand, a NUL byte
    cdef unsigned int blob_length
    cdef readonly list names       # by id; id 0 is `_OTHER`
    cdef dict ids
    cdef set present               # names that commands of the engine have
    cdef readonly dict first_keys  # by name: the position of the first key
    cdef Command disguise          # of a name that the engine might take for a command that it does not spell
    cdef const Command* find(self, const char* name, Py_ssize_t length) noexcept nogil
    cdef unsigned short _id(self, str canonical) except? 0
    cdef int _put_short(self, bytes name, Command command) except -1
    cdef int put(self, bytes name, Command command) except -1


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* The first `length` (1 to 8) of 8 readable bytes, upper-cased as ASCII. */
    static inline uint64_t short_key(const char *p, int length) {
        uint64_t v, letters;
        memcpy(&v, p, 8);
        if (length < 8) v &= ((uint64_t)1 << (8 * length)) - 1;
        /* 0x20 in every byte from 'a' to 'z' (bytes below 0x80 only) */
        letters = ((v | 0x8080808080808080u) - 0x6161616161616161u) & ~((v | 0x8080808080808080u) - 0x7b7b7b7b7b7b7b7bu) & ~v & 0x8080808080808080u;
        return v - (letters >> 2);
    }
    static inline unsigned int short_hash(uint64_t key) { return (unsigned int)((key * 0x9E3779B97F4A7C15u) >> 53); }
    """
    unsigned long long short_key(const char* p, int length) noexcept nogil
    unsigned int short_hash(unsigned long long key) noexcept nogil


cdef inline const Command* find_short(CommandTable table, const char* name, int length) noexcept nogil:
    """The command of a name of 1 to 8 bytes, at least 8 bytes being readable; NULL when there is none."""
    cdef unsigned long long key = short_key(name, length)
    cdef unsigned int i = short_hash(key)
    while table.short_slots[i].key:
        if table.short_slots[i].key == key and table.short_slots[i].length == length:
            return &table.short_slots[i].command
        i = (i + 1) & (SHORT_SLOTS - 1)
    return NULL
