# What the two framers share. A framer finds where requests or replies end; it never copies, decodes or changes a byte.

cdef enum Event:
    MORE = 0      # the bytes end inside a frame
    FRAME         # a request or a reply is complete
    EMPTY         # a request that gets no reply (an empty line, *0)
    HEADER        # `descend` was set and the header of a top-level array is complete
    BROKEN        # not RESP: the engine will say so and close

cdef enum ReplyType:        # the first byte of a reply
    STATUS = 43             # +
    ERROR = 45              # -
    INTEGER = 58            # :
    STRING = 36             # $
    ARRAY = 42              # *
    NULL_VALUE = 95         # _
    BOOLEAN = 35            # #
    DOUBLE = 44             # ,
    BIG_NUMBER = 40         # (
    BIG_ERROR = 33          # !
    VERBATIM = 61           # =
    MAP = 37                # %
    SET = 126               # ~
    ATTRIBUTE = 124         # |
    PUSH = 62               # >
    CHUNK = 59              # ; of a streamed string
    END = 46                # . of a streamed aggregate

cdef enum:                  # number_state
    NO_DIGIT
    ZERO
    DIGITS
    MINUS
    NEGATIVE
    QUESTION
    BAD

cdef extern from *:
    """
    #define NUMBER_MAX 100000000000000000LL
    """
    const long long NUMBER_MAX      # no length or count of RESP comes near
