"""The codec: what PROTOCOL.md says about single frames, and nothing about their order.

Which frames may carry which flags, routes and lengths is data, in `RULES` below. Functions that
look at a peer's bytes take a `Fault` to fill in and return its code, 0 when all is well.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memcmp, memcpy, memset

from tcpconn._buffer cimport block_acquire, block_grow, block_release, block_size, pool_is_tight
from tcpconn._wire cimport *

cdef enum:
    # Bytes of a message for which memory is taken at once, while there is plenty; more only as they
    # arrive, so that a declared size costs its sender something.
    EAGER_ASSEMBLY = 1048576

PREFACE = b"TCPCONN\x01"


# Faults

cdef int fault_set(
    Fault* fault, uint32_t code, const char* section, const char* text
) noexcept nogil:
    fault.code = code
    fault.section = section
    fault.text = text
    fault.numbers = False
    return <int> code


cdef int fault_numbers(
    Fault* fault, uint32_t code, const char* section, const char* text, uint64_t value,
    uint64_t limit
) noexcept nogil:
    fault_set(fault, code, section, text)
    fault.numbers = True
    fault.value = value
    fault.limit = limit
    return <int> code


cdef object fault_text(Fault* fault):
    text = (<bytes> fault.text).decode()
    if fault.numbers:
        text = f"{text}: {fault.value}, limit {fault.limit}"
    return f"{text} (PROTOCOL.md section {(<bytes> fault.section).decode()})"


# Header

cdef enum:
    NEGOTIATED = 0xFFFFFFFF

cdef enum RouteRule:
    ROUTE_ZERO
    ROUTE_NEEDED
    ROUTE_ANY

cdef struct Rule:
    bint known
    bint sequenced
    uint8_t flags               # those allowed
    RouteRule route
    uint32_t least              # payload length
    uint32_t most               # NEGOTIATED: what the handshake settled

cdef Rule[256] RULES


cdef void rule(
    int type, bint sequenced, uint8_t flags, RouteRule route, uint32_t least, uint32_t most
) noexcept:
    RULES[type].known = True
    RULES[type].sequenced = sequenced
    RULES[type].flags = flags
    RULES[type].route = route
    RULES[type].least = least
    RULES[type].most = most


# Sections 3.1 and 11.
memset(RULES, 0, sizeof(RULES))
rule(HELLO, False, 0, ROUTE_ZERO, 0, MAX_HELLO_SIZE)
rule(WELCOME, False, 0, ROUTE_ZERO, 0, MAX_HELLO_SIZE)
rule(REJECT, False, 0, ROUTE_ZERO, 4, 4 + MAX_TEXT_SIZE)
rule(RESUME, False, 0, ROUTE_ZERO, 0, MAX_HELLO_SIZE)
rule(RESUMED, False, 0, ROUTE_ZERO, 0, MAX_HELLO_SIZE)
rule(AUTH, False, 0, ROUTE_ZERO, 0, MAX_HELLO_SIZE)
rule(OPEN, True, LAST, ROUTE_NEEDED, OPEN_SIZE, MAX_OPEN_SIZE)
rule(DATA, True, FIRST | LAST, ROUTE_NEEDED, 0, NEGOTIATED)
rule(FIN, True, 0, ROUTE_NEEDED, 0, 0)
rule(RESET, True, PEER, ROUTE_NEEDED, 4, 4)
rule(CREDIT, False, 0, ROUTE_ANY, 8, 8)
rule(ACK, False, 0, ROUTE_ZERO, 8, 8)
rule(PING, False, 0, ROUTE_ZERO, 16, 16)
rule(PONG, False, 0, ROUTE_ZERO, 16, 16)
rule(GOAWAY, False, 0, ROUTE_ZERO, 8, 8 + MAX_TEXT_SIZE)


cdef bint is_sequenced(uint8_t type) noexcept nogil:
    return RULES[type].sequenced


cdef bint is_known(uint8_t type) noexcept nogil:
    return RULES[type].known


cdef uint8_t* put_header(
    uint8_t* p, uint32_t length, uint8_t type, uint8_t flags, uint32_t route, uint32_t sequence
) noexcept nogil:
    p = put_u32(p, length)
    p = put_u8(p, type)
    p = put_u8(p, flags)
    p = put_u16(p, 0)
    p = put_u32(p, route)
    return put_u32(p, sequence)


cdef void load_header(const uint8_t* p, Header* header) noexcept nogil:
    """From HEADER_SIZE bytes at `p`."""
    header.length = load_u32(p)
    header.type = p[4]
    header.flags = p[5]
    header.route = load_u32(p + 8)
    header.sequence = load_u32(p + 12)


cdef int check_header(const Header* header, uint32_t max_frame_size, Fault* fault) noexcept nogil:
    """What a header says of itself, sections 3 and 3.1, before its payload is here."""
    cdef const Rule* r = &RULES[header.type]
    cdef uint32_t most = max_frame_size
    if not r.known:
        if header.type < SKIPPABLE:
            return fault_numbers(
                fault, CODE_MALFORMED, b"3.1", b"unknown frame type", header.type, GOAWAY
            )
        if header.length > max_frame_size:
            return fault_numbers(
                fault, CODE_FRAME_SIZE, b"3", b"frame longer than agreed", header.length, most
            )
        return 0
    if r.most != NEGOTIATED:
        most = r.most
    if header.length > most:
        return fault_numbers(
            fault, CODE_FRAME_SIZE, b"3", b"frame longer than agreed", header.length, most
        )
    if header.length < r.least:
        return fault_numbers(
            fault, CODE_MALFORMED, b"3.1", b"frame too short for its type", header.length, r.least
        )
    if header.flags & ~r.flags:
        return fault_numbers(
            fault, CODE_MALFORMED, b"3.1", b"flags not allowed for this frame type", header.flags,
            r.flags
        )
    if r.route == ROUTE_NEEDED and header.route == 0:
        return fault_set(fault, CODE_MALFORMED, b"3.1", b"route 0 where a route is due")
    if r.route == ROUTE_ZERO and header.route != 0:
        return fault_numbers(
            fault, CODE_MALFORMED, b"3.1", b"a route where none is due", header.route, 0
        )
    return 0


# Preface and HELLO

cdef enum:                      # how a record of TLS begins: its type, and the first of its version
    TLS_ALERT = 0x15
    TLS_HANDSHAKE = 0x16
    TLS_MAJOR = 0x03


cdef size_t put_preface(uint8_t* p) noexcept nogil:
    memcpy(p, b"TCPCONN", 7)
    p[7] = VERSION
    return PREFACE_SIZE


cdef int check_preface(const uint8_t* p, size_t length, Fault* fault) noexcept nogil:
    """Judges the first `length` bytes (at most 8) of a link as far as they go, section 2."""
    cdef size_t prefix = min(length, <size_t> 7)
    if memcmp(p, b"TCPCONN", prefix) != 0:
        if length >= 2 and (p[0] == TLS_ALERT or p[0] == TLS_HANDSHAKE) and p[1] == TLS_MAJOR:
            return fault_set(
                fault, CODE_PROTOCOL, b"2",
                b"the peer does not speak tcpconn, or speaks it through TLS",
            )
        return fault_set(fault, CODE_PROTOCOL, b"2", b"the peer does not speak tcpconn")
    if length >= PREFACE_SIZE and p[7] != VERSION:
        return fault_numbers(
            fault, CODE_VERSION, b"2", b"the peer speaks another version of the protocol", p[7],
            VERSION
        )
    return 0


cdef inline uint8_t* put_tag(uint8_t* p, uint16_t tag, uint16_t length) noexcept nogil:
    return put_u16(put_u16(p, tag), length)


cdef uint8_t* put_hello(uint8_t* p, uint8_t type, const Hello* hello) noexcept nogil:
    """Writes a HELLO or WELCOME frame; at most 200 bytes."""
    cdef uint8_t* start = p
    p += HEADER_SIZE
    p = put_bytes(put_tag(p, TAG_SESSION_ID, 16), hello.session_id, 16)
    p = put_bytes(put_tag(p, TAG_NONCE, 16), hello.nonce, 16)
    p = put_u32(put_tag(p, TAG_MAX_FRAME_SIZE, 4), hello.max_frame_size)
    p = put_u64(put_tag(p, TAG_MAX_MESSAGE_SIZE, 8), hello.max_message_size)
    p = put_u64(put_tag(p, TAG_ROUTE_CREDIT, 8), hello.route_credit)
    p = put_u64(put_tag(p, TAG_SESSION_CREDIT, 8), hello.session_credit)
    p = put_u32(put_tag(p, TAG_KEEPALIVE, 4), hello.keepalive)
    p = put_u32(put_tag(p, TAG_MAX_CONNECTIONS, 4), hello.max_connections)
    if type == WELCOME and hello.has_secret:
        p = put_bytes(put_tag(p, TAG_SECRET, SECRET_SIZE), hello.secret, SECRET_SIZE)
    put_header(start, <uint32_t> (p - start - HEADER_SIZE), type, 0, 0, 0)
    return p


cdef int next_tag(Cursor* cursor, uint16_t* tag, Cursor* value, Fault* fault) noexcept nogil:
    cdef uint16_t length
    cdef const uint8_t* at
    tag[0] = take_u16(cursor)
    length = take_u16(cursor)
    at = take_bytes(cursor, length)
    if cursor.failed:
        return fault_set(
            fault, CODE_MALFORMED, b"3.1", b"a tagged field runs past the end of its frame"
        )
    value[0] = cursor_over(at, length)
    return 0


cdef int check_tags(const uint8_t* p, size_t length, Fault* fault) noexcept nogil:
    """Tagged fields of which none is known here: they must only be well formed."""
    cdef Cursor cursor = cursor_over(p, length)
    cdef Cursor value
    cdef uint16_t tag
    while cursor_left(&cursor) > 0:
        if next_tag(&cursor, &tag, &value, fault):
            return <int> fault.code
    return 0


cdef int in_range(
    uint64_t value, uint64_t least, uint64_t most, const char* text, Fault* fault
) noexcept nogil:
    if value < least:
        return fault_numbers(fault, CODE_MALFORMED, b"4", text, value, least)
    if value > most:
        return fault_numbers(fault, CODE_MALFORMED, b"4", text, value, most)
    return 0


cdef int parse_hello(const uint8_t* p, size_t length, Hello* hello, Fault* fault) noexcept nogil:
    """The payload of HELLO or WELCOME, section 4."""
    cdef Cursor cursor = cursor_over(p, length)
    cdef Cursor value
    cdef uint16_t tag
    cdef uint32_t seen = 0
    cdef uint32_t needed = 0b1111110   # tags 1 to 6
    cdef const uint8_t* at
    memset(hello, 0, sizeof(Hello))
    hello.max_connections = 0xFFFFFFFF
    while cursor_left(&cursor) > 0:
        if next_tag(&cursor, &tag, &value, fault):
            return <int> fault.code
        if tag == 0 or tag > TAG_SECRET:
            continue
        if seen & (<uint32_t> 1 << tag):
            return fault_numbers(fault, CODE_MALFORMED, b"3.1", b"a tag occurs twice", tag, 1)
        seen |= <uint32_t> 1 << tag
        if tag == TAG_SESSION_ID:
            at = take_bytes(&value, 16)
            if at is not NULL:
                memcpy(hello.session_id, at, 16)
        elif tag == TAG_NONCE:
            at = take_bytes(&value, 16)
            if at is not NULL:
                memcpy(hello.nonce, at, 16)
        elif tag == TAG_MAX_FRAME_SIZE:
            hello.max_frame_size = take_u32(&value)
        elif tag == TAG_MAX_MESSAGE_SIZE:
            hello.max_message_size = take_u64(&value)
        elif tag == TAG_ROUTE_CREDIT:
            hello.route_credit = take_u64(&value)
        elif tag == TAG_SESSION_CREDIT:
            hello.session_credit = take_u64(&value)
        elif tag == TAG_KEEPALIVE:
            hello.keepalive = take_u32(&value)
        elif tag == TAG_SECRET:
            hello.has_secret = True
            at = take_bytes(&value, SECRET_SIZE)
            if at is not NULL:
                memcpy(hello.secret, at, SECRET_SIZE)
        else:
            hello.max_connections = take_u32(&value)
        if value.failed or cursor_left(&value) != 0:
            return fault_numbers(
                fault, CODE_MALFORMED, b"3.1", b"a tagged field has a wrong length", tag, 0
            )
    if seen & needed != needed:
        return fault_numbers(
            fault, CODE_MALFORMED, b"4", b"HELLO or WELCOME lacks a field (bits of tags)",
            seen & needed, needed
        )
    if (
        in_range(
            hello.max_frame_size, MIN_FRAME_SIZE, MAX_FRAME_SIZE, b"max_frame_size out of range",
            fault
        )
        or in_range(
            hello.max_message_size, MIN_MESSAGE_SIZE, size_ceiling(),
            b"max_message_size out of range", fault
        )
        or in_range(
            hello.route_credit, MIN_ROUTE_CREDIT, size_ceiling(), b"route credit out of range",
            fault
        )
        or in_range(
            hello.session_credit, MIN_SESSION_CREDIT, size_ceiling(),
            b"session credit out of range", fault
        )
        or in_range(hello.max_connections, 1, 0xFFFFFFFF, b"max_connections out of range", fault)
    ):
        return <int> fault.code
    if hello.session_credit < message_cost(hello.max_message_size, MIN_CHUNK):
        return fault_numbers(
            fault, CODE_MALFORMED, b"4",
            b"session credit below the cost of one message of max_message_size",
            hello.session_credit, message_cost(hello.max_message_size, MIN_CHUNK),
        )
    return 0


# Messages

cdef uint64_t message_cost(uint64_t size, uint64_t chunk) noexcept nogil:
    """Section 7: what a message of `size` bytes costs when cut into chunks of at least `chunk`."""
    return size + FRAME_COST * (size // chunk + 2)


cdef int assembly_begin(
    Assembly* assembly, Pool* pool, uint64_t total, uint64_t chunk, uint8_t* in_place,
    uint64_t in_place_size, const Claim* claim
) noexcept nogil:
    """Starts a message of `total` bytes, in the receiver's own buffer if it fits there.

    There is room for a first chunk of `chunk` bytes then. -1 when there is no memory.
    """
    cdef uint64_t eager = EAGER_ASSEMBLY
    assembly.total = total
    assembly.filled = 0
    assembly.block = NULL
    if in_place is not NULL and total <= in_place_size:
        assembly.in_place = True
        assembly.data = in_place
        assembly.capacity = total
    else:
        assembly.in_place = False
        if pool_is_tight(pool, claim.budget):
            eager = chunk
        assembly.block = block_acquire(pool, <size_t> min(total, max(eager, chunk)), claim)
        if assembly.block is NULL:
            return -1
        assembly.data = assembly.block.data
        assembly.capacity = assembly.block.capacity
    assembly.active = True
    return 0


cdef int assembly_reserve(Assembly* assembly, uint64_t chunk, const Claim* claim) noexcept nogil:
    """Makes room for `chunk` bytes behind those filled, which the total is known to allow.

    -1 when there is no memory: nothing has changed then.
    """
    cdef uint64_t needed = assembly.filled + chunk
    cdef Block* larger
    if needed <= assembly.capacity:
        return 0
    larger = block_grow(
        assembly.block,
        <size_t> assembly.filled,
        <size_t> min(assembly.total, max(needed, 2 * assembly.capacity)),
        claim,
    )
    if larger is NULL:
        return -1
    assembly.block = larger
    assembly.data = larger.data
    assembly.capacity = larger.capacity
    return 0


cdef uint64_t assembly_growth(const Assembly* assembly) noexcept nogil:
    """How much larger the block can become of a message that lies in one."""
    if assembly.capacity >= assembly.total:
        return 0
    return block_size(<size_t> assembly.total) - assembly.capacity


cdef int assembly_move_out(Assembly* assembly, Pool* pool, uint64_t used) noexcept nogil:
    """Moves a message out of the receiver's own buffer, of which `used` bytes are filled."""
    cdef Block* block = block_acquire(pool, <size_t> assembly.total, NULL)
    if block is NULL:
        return -1
    memcpy(block.data, assembly.data, used)
    assembly.block = block
    assembly.data = block.data
    assembly.capacity = block.capacity
    assembly.in_place = False
    return 0


cdef void assembly_drop(Assembly* assembly) noexcept nogil:
    if assembly.block is not NULL:
        block_release(assembly.block)
    memset(assembly, 0, sizeof(Assembly))


# What Python sees: for tests, tools and whoever debugs a capture. The core itself does not use it.

WIRE = {
    "preface": PREFACE,
    "version": VERSION,
    "header_size": HEADER_SIZE,
    "types": {
        "HELLO": HELLO, "WELCOME": WELCOME, "REJECT": REJECT, "RESUME": RESUME, "RESUMED": RESUMED,
        "AUTH": AUTH, "OPEN": OPEN, "DATA": DATA, "FIN": FIN, "RESET": RESET,
        "CREDIT": CREDIT, "ACK": ACK, "PING": PING, "PONG": PONG, "GOAWAY": GOAWAY,
    },
    "skippable": SKIPPABLE,
    "flags": {"FIRST": FIRST, "LAST": LAST, "PEER": PEER},
    "tags": {
        "session_id": TAG_SESSION_ID, "nonce": TAG_NONCE, "max_frame_size": TAG_MAX_FRAME_SIZE,
        "max_message_size": TAG_MAX_MESSAGE_SIZE, "route_credit": TAG_ROUTE_CREDIT,
        "session_credit": TAG_SESSION_CREDIT, "keepalive": TAG_KEEPALIVE,
        "max_connections": TAG_MAX_CONNECTIONS, "secret": TAG_SECRET,
        "epoch": TAG_EPOCH, "received": TAG_RECEIVED, "proof": TAG_PROOF,
    },
    "codes": {
        "NONE": CODE_NONE, "PROTOCOL": CODE_PROTOCOL, "VERSION": CODE_VERSION,
        "FRAME_SIZE": CODE_FRAME_SIZE, "MESSAGE_SIZE": CODE_MESSAGE_SIZE, "CREDIT": CODE_CREDIT,
        "SEQUENCE": CODE_SEQUENCE, "STATE": CODE_STATE, "MALFORMED": CODE_MALFORMED,
        "REFUSED": CODE_REFUSED, "LIMIT": CODE_LIMIT, "UNKNOWN_SESSION": CODE_UNKNOWN_SESSION,
        "DUPLICATE": CODE_DUPLICATE, "ABORTED": CODE_ABORTED, "INTERNAL": CODE_INTERNAL,
        "SHUTDOWN": CODE_SHUTDOWN, "CLOSED": CODE_CLOSED, "TIMEOUT": CODE_TIMEOUT,
        "AUTHENTICATION": CODE_AUTHENTICATION,
    },
    "limits": {
        "min_frame_size": MIN_FRAME_SIZE, "max_frame_size": MAX_FRAME_SIZE,
        "min_message_size": MIN_MESSAGE_SIZE, "min_route_credit": MIN_ROUTE_CREDIT,
        "min_session_credit": MIN_SESSION_CREDIT, "max_hello_size": MAX_HELLO_SIZE,
        "max_open_size": MAX_OPEN_SIZE, "max_text_size": MAX_TEXT_SIZE, "min_chunk": MIN_CHUNK,
        "frame_cost": FRAME_COST, "max_priority": MAX_PRIORITY,
    },
}
"""Every value that PROTOCOL.md fixes, by its name there."""

CODE_NAMES = {code: name for name, code in WIRE["codes"].items()}


class FrameError(ValueError):
    """Bytes that PROTOCOL.md does not allow: `section` says where, `code` what (section 10)."""

    def __init__(self, message, code, section):
        super().__init__(message)
        self.code = code
        self.section = section


cdef object frame_error(Fault* fault):
    return FrameError(fault_text(fault), fault.code, (<bytes> fault.section).decode())


def peer_text(bytes said):
    """What the peer said for people to read, without what would control a terminal or forge a line
    of a log.
    """
    cdef str text = said.decode("utf-8", "replace")
    return "".join([each if each.isprintable() else "\ufffd" for each in text])


def encode_frame(
    uint8_t type, bytes payload=b"", uint8_t flags=0, uint32_t route=0, uint32_t sequence=0
):
    """The bytes of one frame, whatever its fields say: it is not checked against the rules."""
    cdef size_t length = len(payload)
    if length > 0xFFFFFFFF:
        raise ValueError(f"a payload of {length} bytes does not fit a length of 32 bits")
    out = PyBytes_FromStringAndSize(NULL, HEADER_SIZE + length)
    cdef uint8_t* p = put_header(
        <uint8_t*> PyBytes_AS_STRING(out), <uint32_t> length, type, flags, route, sequence
    )
    memcpy(p, PyBytes_AS_STRING(payload), length)
    return out


def decode_frames(data, uint32_t max_frame_size=65536):
    """The whole frames at the start of `data` (a buffer), and how many bytes they took.

    Each frame is (type, flags, route, sequence, payload). Raises `FrameError` for a header that
    breaks the rules; a frame that is not all there is left for the next call.
    """
    cdef Py_buffer view
    cdef const uint8_t* start
    cdef size_t at = 0, length
    cdef Header header
    cdef Fault fault
    frames = []
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        start = <const uint8_t*> view.buf
        length = <size_t> view.len
        while length - at >= HEADER_SIZE:
            load_header(start + at, &header)
            if check_header(&header, max_frame_size, &fault):
                raise frame_error(&fault)
            if length - at - HEADER_SIZE < header.length:
                break
            payload = (<const char*> start + at + HEADER_SIZE)[:header.length]
            frames.append((header.type, header.flags, header.route, header.sequence, payload))
            at += HEADER_SIZE + header.length
        return frames, at
    finally:
        PyBuffer_Release(&view)


def encode_hello(
    *,
    bytes session_id,
    bytes nonce,
    uint32_t max_frame_size=65536,
    uint64_t max_message_size=16777216,
    uint64_t route_credit=262144,
    uint64_t session_credit=67108864,
    uint32_t keepalive=0,
    uint32_t max_connections=100000,
    bytes secret=None,
    bint welcome=False,
):
    """A HELLO (or WELCOME) frame, section 4."""
    cdef Hello hello
    cdef uint8_t[256] out
    cdef uint8_t* end
    memset(&hello, 0, sizeof(Hello))
    if secret is not None:
        if len(secret) != SECRET_SIZE:
            raise ValueError(f"a secret has {SECRET_SIZE} bytes")
        hello.has_secret = True
        memcpy(hello.secret, PyBytes_AS_STRING(secret), SECRET_SIZE)
    if len(session_id) != 16 or len(nonce) != 16:
        raise ValueError("session_id and nonce have 16 bytes each")
    memcpy(hello.session_id, PyBytes_AS_STRING(session_id), 16)
    memcpy(hello.nonce, PyBytes_AS_STRING(nonce), 16)
    hello.max_frame_size = max_frame_size
    hello.max_message_size = max_message_size
    hello.route_credit = route_credit
    hello.session_credit = session_credit
    hello.keepalive = keepalive
    hello.max_connections = max_connections
    end = put_hello(out, WELCOME if welcome else HELLO, &hello)
    return (<const char*> out)[:end - out]


def decode_hello(bytes payload):
    """The fields of a HELLO or WELCOME payload as a dict. Raises `FrameError`."""
    cdef Hello hello
    cdef Fault fault
    if parse_hello(<const uint8_t*> PyBytes_AS_STRING(payload), len(payload), &hello, &fault):
        raise frame_error(&fault)
    fields = {
        "session_id": (<const char*> hello.session_id)[:16],
        "nonce": (<const char*> hello.nonce)[:16],
        "max_frame_size": hello.max_frame_size,
        "max_message_size": hello.max_message_size,
        "route_credit": hello.route_credit,
        "session_credit": hello.session_credit,
        "keepalive": hello.keepalive,
        "max_connections": hello.max_connections,
    }
    if hello.has_secret:
        fields["secret"] = (<const char*> hello.secret)[:SECRET_SIZE]
    return fields
