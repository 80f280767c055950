"""Wire constants (PROTOCOL.md) and bounds-checked big-endian loads and stores."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef enum:
    PREFACE_SIZE = 8
    VERSION = 1
    HEADER_SIZE = 16
    TOTAL_SIZE = 8              # the total size field of a first chunk, section 6

    # frame types, section 3.1
    HELLO = 0x01
    WELCOME = 0x02
    REJECT = 0x03
    RESUME = 0x04
    RESUMED = 0x05
    AUTH = 0x06
    OPEN = 0x10
    DATA = 0x11
    FIN = 0x12
    RESET = 0x13
    CREDIT = 0x20
    ACK = 0x21
    PING = 0x22
    PONG = 0x23
    GOAWAY = 0x24
    SKIPPABLE = 0x80            # types from here on may be skipped, section 3.1

    # flags, section 3
    FIRST = 0x01
    LAST = 0x02
    PEER = 0x04

    # tags of HELLO and WELCOME, section 4
    TAG_SESSION_ID = 1
    TAG_NONCE = 2
    TAG_MAX_FRAME_SIZE = 3
    TAG_MAX_MESSAGE_SIZE = 4
    TAG_ROUTE_CREDIT = 5
    TAG_SESSION_CREDIT = 6
    TAG_KEEPALIVE = 7
    TAG_MAX_CONNECTIONS = 8
    TAG_SECRET = 9

    # tags of RESUME and RESUMED, section 12; the session id's is the same. AUTH has nonce and proof
    TAG_EPOCH = 16
    TAG_RECEIVED = 17
    TAG_PROOF = 18

    # codes, section 10
    CODE_NONE = 0
    CODE_PROTOCOL = 1
    CODE_VERSION = 2
    CODE_FRAME_SIZE = 3
    CODE_MESSAGE_SIZE = 4
    CODE_CREDIT = 5
    CODE_SEQUENCE = 6
    CODE_STATE = 7
    CODE_MALFORMED = 8
    CODE_REFUSED = 9
    CODE_LIMIT = 10
    CODE_UNKNOWN_SESSION = 11
    CODE_DUPLICATE = 12
    CODE_ABORTED = 13
    CODE_INTERNAL = 14
    CODE_SHUTDOWN = 15
    CODE_CLOSED = 16
    CODE_TIMEOUT = 17
    CODE_AUTHENTICATION = 18

    # limits, sections 4, 6, 7, 11
    MIN_FRAME_SIZE = 16384
    MAX_FRAME_SIZE = 1048576
    MIN_MESSAGE_SIZE = 65536
    MIN_ROUTE_CREDIT = 65536
    MIN_SESSION_CREDIT = 1048576
    MAX_HELLO_SIZE = 4096
    MAX_OPEN_SIZE = 1024
    MAX_TEXT_SIZE = 1024
    MIN_CHUNK = 1024
    FRAME_COST = 64
    MAX_PRIORITY = 7
    SECRET_SIZE = 32
    OPEN_SIZE = 17              # UUID and priority, before the tagged fields
    ACK_BYTES = 2097152         # payload after which an ack is due at the latest, section 8

cdef enum:
    ACK_DELAY_NS = 25000000     # half of what section 8 allows

cdef inline uint16_t known_code(uint32_t code) noexcept nogil:
    """A peer's reason for an abrupt end; unknown codes, and none, are PROTOCOL (section 10)."""
    return <uint16_t> code if CODE_NONE < code <= CODE_AUTHENTICATION else CODE_PROTOCOL


# The largest number that a size field may hold, section 4: leaves room for sums in 64 bits.
cdef inline uint64_t size_ceiling() noexcept nogil:
    return <uint64_t> 1 << 62


cdef struct Cursor:
    const uint8_t* at
    const uint8_t* end
    bint failed                 # a read went past the end; what it returned is 0


cdef inline Cursor cursor_over(const uint8_t* data, size_t length) noexcept nogil:
    cdef Cursor cursor
    cursor.at = data
    cursor.end = data + length
    cursor.failed = False
    return cursor


cdef inline size_t cursor_left(Cursor* cursor) noexcept nogil:
    return <size_t> (cursor.end - cursor.at)


cdef inline const uint8_t* take_bytes(Cursor* cursor, size_t length) noexcept nogil:
    cdef const uint8_t* at = cursor.at
    if cursor_left(cursor) < length:
        cursor.failed = True
        return NULL
    cursor.at += length
    return at


cdef inline uint8_t take_u8(Cursor* cursor) noexcept nogil:
    cdef const uint8_t* p = take_bytes(cursor, 1)
    return 0 if p is NULL else p[0]


cdef inline uint16_t take_u16(Cursor* cursor) noexcept nogil:
    cdef const uint8_t* p = take_bytes(cursor, 2)
    if p is NULL:
        return 0
    return <uint16_t> ((<uint32_t> p[0] << 8) | p[1])


cdef inline uint32_t load_u32(const uint8_t* p) noexcept nogil:
    return ((<uint32_t> p[0] << 24) | (<uint32_t> p[1] << 16) | (<uint32_t> p[2] << 8) | p[3])


cdef inline uint32_t take_u32(Cursor* cursor) noexcept nogil:
    cdef const uint8_t* p = take_bytes(cursor, 4)
    return 0 if p is NULL else load_u32(p)


cdef inline uint64_t take_u64(Cursor* cursor) noexcept nogil:
    cdef const uint8_t* p = take_bytes(cursor, 8)
    if p is NULL:
        return 0
    return (<uint64_t> load_u32(p) << 32) | load_u32(p + 4)


# Stores return the place behind what they wrote; the caller has made sure that there is room.
cdef inline uint8_t* put_u8(uint8_t* p, uint8_t value) noexcept nogil:
    p[0] = value
    return p + 1


cdef inline uint8_t* put_u16(uint8_t* p, uint16_t value) noexcept nogil:
    p[0] = <uint8_t> (value >> 8)
    p[1] = <uint8_t> value
    return p + 2


cdef inline uint8_t* put_u32(uint8_t* p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t> (value >> 24)
    p[1] = <uint8_t> (value >> 16)
    p[2] = <uint8_t> (value >> 8)
    p[3] = <uint8_t> value
    return p + 4


cdef inline uint8_t* put_u64(uint8_t* p, uint64_t value) noexcept nogil:
    return put_u32(put_u32(p, <uint32_t> (value >> 32)), <uint32_t> value)


cdef inline uint8_t* put_bytes(uint8_t* p, const void* data, size_t length) noexcept nogil:
    if length > 0:              # C does not allow memcpy from NULL, not even of nothing
        memcpy(p, data, length)
    return p + length
