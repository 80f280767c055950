"""Frames: headers and their rules, encoders and parsers for every payload, chunk reassembly."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tcpconn._budget cimport Claim
from tcpconn._buffer cimport Block, Pool
from tcpconn._wire cimport SECRET_SIZE


cdef struct Header:
    uint32_t length
    uint8_t type
    uint8_t flags
    uint32_t route
    uint32_t sequence


cdef struct Fault:              # why a peer's bytes were not acceptable
    uint32_t code               # section 10; 0: no fault
    const char* section         # of PROTOCOL.md
    const char* text
    bint numbers                # value and limit mean something
    uint64_t value
    uint64_t limit


cdef struct Hello:              # HELLO and WELCOME, section 4
    uint8_t session_id[16]
    uint8_t nonce[16]
    uint32_t max_frame_size
    uint64_t max_message_size
    uint64_t route_credit
    uint64_t session_credit
    uint32_t keepalive
    uint32_t max_connections
    bint has_secret             # the server keeps the session when the link breaks
    uint8_t[SECRET_SIZE] secret


cdef struct Assembly:           # a message of which chunks are still to come
    Block* block                # the memory, unless it is the receiver's own
    uint8_t* data
    uint64_t capacity
    uint64_t total
    uint64_t filled             # in whole chunks
    bint active
    bint in_place               # data is the receiver's own buffer


cdef int fault_set(
    Fault* fault, uint32_t code, const char* section, const char* text
) noexcept nogil
cdef int fault_numbers(
    Fault* fault, uint32_t code, const char* section, const char* text, uint64_t value,
    uint64_t limit
) noexcept nogil
cdef object fault_text(Fault* fault)

cdef uint8_t* put_header(
    uint8_t* p, uint32_t length, uint8_t type, uint8_t flags, uint32_t route, uint32_t sequence
) noexcept nogil
cdef void load_header(const uint8_t* p, Header* header) noexcept nogil
cdef int check_header(const Header* header, uint32_t max_frame_size, Fault* fault) noexcept nogil
cdef bint is_sequenced(uint8_t type) noexcept nogil
cdef bint is_known(uint8_t type) noexcept nogil

cdef size_t put_preface(uint8_t* p) noexcept nogil
cdef int check_preface(const uint8_t* p, size_t length, Fault* fault) noexcept nogil
cdef uint8_t* put_hello(uint8_t* p, uint8_t type, const Hello* hello) noexcept nogil
cdef int parse_hello(const uint8_t* p, size_t length, Hello* hello, Fault* fault) noexcept nogil
cdef int check_tags(const uint8_t* p, size_t length, Fault* fault) noexcept nogil

cdef uint64_t message_cost(uint64_t size, uint64_t chunk) noexcept nogil

cdef int assembly_begin(
    Assembly* assembly, Pool* pool, uint64_t total, uint64_t chunk, uint8_t* in_place,
    uint64_t in_place_size, const Claim* claim
) noexcept nogil
cdef int assembly_reserve(Assembly* assembly, uint64_t chunk, const Claim* claim) noexcept nogil
cdef uint64_t assembly_growth(const Assembly* assembly) noexcept nogil
cdef int assembly_move_out(Assembly* assembly, Pool* pool, uint64_t used) noexcept nogil
cdef void assembly_drop(Assembly* assembly) noexcept nogil
