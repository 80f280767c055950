"""The records of a session, guarded by its lock; used by _routes, _send, _receive, _session."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tcpconn._budget cimport Loan
from tcpconn._buffer cimport Block, Pool, Slab
from tcpconn._frame cimport Assembly, Fault, Hello
from tcpconn._rate cimport Rate
from tcpconn._schedule cimport Scheduler, Turn
from tcpconn._sendqueue cimport Held, Outgoing, Part, SendQueue
from tcpconn._sync cimport tc_mutex
from tcpconn._table cimport Node, Table

cdef enum:
    RECEIVE_BLOCK = 131072      # what one read of small messages may bring
    CONTROL_BYTES = 4096        # control frames that go before one batch
    FAREWELL_BYTES = 512        # of those, kept free for the frame that ends a link
    CONNECTION_BYTES = 2048     # what a connection costs: its records, and the object of its user
    CHARGE_STEP = 131072        # the pool hears when what is held elsewhere has changed by so much
    FEW_CONNECTIONS = 256       # so many are had without asking whether there is memory for them
    PONGS = 16                  # answers owed at once; a PING beyond is answered with the next
    # Refused routes that the peer has not ended, or refusals that it has not acknowledged; a peer
    # that goes on is not honest.
    REFUSALS = 4096

cdef enum Phase:
    PHASE_PREFACE               # nothing of the peer's yet
    PHASE_HELLO                 # its preface was right
    PHASE_OPEN
    PHASE_CLOSED                # the fault says why

cdef enum MessageKind:           # where an unread message lies
    MESSAGE_SHARED              # in a receive block, with others
    MESSAGE_OWN                 # in a block of its own
    MESSAGE_RAW                 # in raw memory, moved out of a receive block
    MESSAGE_POSTED              # in the receiver's own buffer

cdef enum RouteState:           # PROTOCOL.md section 5
    ROUTE_IDLE
    ROUTE_OPEN
    ROUTE_DISCARDING            # we told its owner to stop
    ROUTE_ENDED

cdef enum Event:                # what happened to a connection, for whoever waits on it
    EVENT_MESSAGE = 1
    EVENT_CREDIT = 2
    EVENT_END = 4

cdef enum Happened:             # what happened to the session
    HAPPENED_OPEN = 1           # the handshake is done
    HAPPENED_CONNECTION = 2     # a connection waits to be accepted
    HAPPENED_ACK = 4
    HAPPENED_CLOSED = 8
    HAPPENED_GOAWAY = 16
    HAPPENED_OVER = 32          # a connection ended on both sides
    HAPPENED_PONG = 64          # a ping was answered


cdef struct Message:            # finished and unread
    Message* next
    Block* block                # NULL for MESSAGE_RAW and MESSAGE_POSTED
    uint8_t* data
    uint64_t length
    uint64_t cost               # credit that reading it gives back
    Message* before             # in the list of its receive block
    Message* behind
    uint8_t kind
    uint8_t taken               # somebody copies from it, without the lock: it stays where it is


cdef struct Conn:               # the session's record of a connection
    uint64_t id_high
    uint64_t id_low
    Node by_id
    Node by_in
    Node by_out
    int32_t references          # the session's while it is not over, and the user's object's
    uint8_t priority
    uint8_t in_state            # RouteState
    uint8_t out_state
    bint attached               # a user's object stands for it
    bint accepted               # it does not wait to be accepted
    bint bound                  # in by_id
    bint out_known              # in by_out
    bint finishing              # FIN goes out behind what is still to be cut
    uint16_t in_code            # how the peer ended its direction, when abruptly
    uint16_t out_code           # why the peer will not read ours
    uint16_t reset_code         # of a RESET that waits until the peer must take it; 0: none does
    bint unheard                # and it had not acknowledged all of it when it said so
    uint32_t in_route
    uint32_t out_route
    # sending
    uint64_t send_limit
    uint64_t send_used
    Outgoing* outgoing_first
    Outgoing* outgoing_last
    uint64_t outgoing_cost      # of what is not cut yet
    uint64_t data_sequence      # of its last DATA frame, plus 1
    uint64_t heard              # what the peer had acknowledged when its direction ended
    uint64_t outgoing_bytes
    bint stalled                # it waits for this route's credit
    uint32_t outgoing_count
    Turn turn
    # receiving
    uint64_t receive_limit
    uint64_t told_limit         # as of the last CREDIT sent
    uint64_t receive_used
    uint64_t released           # cost of what was read or dropped
    uint64_t window             # how far the limit goes beyond it
    uint64_t granted_at         # ns
    uint64_t largest            # cost of a message
    uint64_t last_size          # of the message that came last
    uint64_t assembly_cost      # of the message under assembly, so far
    Message* unread_first
    Message* unread_last
    uint32_t unread_count
    uint64_t unread_bytes
    Assembly assembly
    Conn* credit_next
    bint credit_due
    # lists
    Conn* accept_next
    Conn* attached_before
    Conn* attached_behind
    Conn* event_next
    uint32_t events
    bint event_listed
    # counters
    uint64_t messages_sent
    uint64_t messages_received
    uint64_t bytes_sent
    uint64_t bytes_received
    # what a lost session left, to be told to the user once
    uint32_t lost               # which one of them, counted from 1; 0: none
    uint32_t lost_route         # our route in it
    uint64_t sent_before        # messages sent in earlier sessions, or given up
    # the engine's
    void* waiters
    void* owner                 # a weak reference to the user's object, held; NULL: none


cdef struct State:
    tc_mutex lock
    Pool* pool
    bint client
    uint8_t phase
    Hello ours
    Hello theirs
    uint64_t max_route_credit
    uint64_t send_queue_size
    uint64_t send_bound         # of that, what may be used now
    uint32_t max_unaccepted
    # the end
    Fault fault
    bint fault_is_theirs        # GOAWAY or REJECT told us
    bint fault_is_loss          # no fault of anybody's: the link broke
    uint8_t[1024] told          # the text that came with it
    uint32_t told_length
    bint unusual                # it is not just open, on a link, and never was lost
    # the link, section 12
    bint detached               # it is gone, and the session kept
    bint fails_detached         # sending does not wait for the next one
    uint32_t epoch              # of the link
    uint64_t begun              # sequence number behind what older links may have carried
    uint32_t renewals           # how often the session was lost and another took its place
    uint64_t unhurried          # the send queue's sequence number behind answers that may wait
    bint goaway_due
    bint goaway_sent
    bint goaway_received
    uint32_t last_in_route      # the last accepted, once GOAWAY was sent
    # connections
    uint64_t[2] secret          # of the hashes of UUIDs
    Table ids
    Table in_routes
    Table out_routes
    uint32_t in_route           # the last one used
    uint32_t out_route
    uint32_t connections        # bound
    Conn* accept_first
    Conn* accept_last
    uint32_t unaccepted
    uint32_t refused            # routes that were refused and not ended
    uint32_t refusals           # since the sequence number below was acknowledged
    uint64_t refusals_since
    uint32_t answers            # that the peer has caused, and that are not written yet
    uint32_t max_answers
    uint64_t answers_before     # bytes to be written until they are
    Rate resets                 # of the peer's, unasked for
    Rate resets_sent            # of ours
    uint32_t resets_open        # of ours, since the sequence number below was acknowledged
    uint64_t resets_since
    uint32_t resets_due         # connections with a `reset_code`
    Conn* attached              # those that a user's object stands for
    Conn* event_first
    Conn* event_last
    uint32_t happened
    # sending
    SendQueue queue
    Scheduler scheduler
    uint64_t send_limit
    uint64_t send_used
    uint64_t reserved
    uint64_t outgoing_bytes     # payload not cut yet, but for what is stalled: what waits for one
    uint64_t stalled_bytes      # reader must not keep anybody else from sending
    uint64_t outgoing_count     # messages not cut to their end
    bint tight                  # the link did not take the last batch in one go
    uint32_t shared             # batches to go until one connection may count as alone again
    Turn* starved               # turns that wait for the session's credit
    uint8_t[CONTROL_BYTES] control
    size_t control_length
    size_t control_taken        # belongs to the batch that is being written
    size_t control_written
    Conn* credit_first
    Conn* credit_last
    bint session_credit_due
    bint credit_urgent          # the peer may soon have to wait for what is due
    bint ping_due               # goes out with the next batch
    bint ping_wanted            # goes out as soon as the peer must take it
    bint ack_wanted             # one behind what is queued, to bring the ack of it
    uint64_t pinged             # at most so many sequenced frames went before the latest PING
    Rate pings_sent             # those with no sequenced frame since the one before
    uint64_t ping_charged       # token of the latest of these
    uint64_t ping_token         # of the latest
    uint64_t ping_answered      # of the latest that was answered
    uint64_t ping_timed         # of the one that is timed, and since when; 0: none is under way
    uint64_t ping_sent_at
    uint64_t[PONGS] pongs
    uint32_t pong_count
    Rate pings                  # of the peer's, with no sequenced frame since the one before
    double ping_rate            # a second, before its keepalive is counted in
    uint32_t ping_burst
    uint64_t ping_mark          # `sequence` at the latest
    # acks
    uint64_t sequence           # of the next frame to be taken
    uint64_t acked              # what we told last
    uint64_t owed_bytes
    uint64_t owed_since         # 0: nothing is owed
    bint ack_due
    # receiving
    Block* block                # where reads go
    # What came and was not looked at has to wait: for memory, or until the peer takes its answers.
    bint paused
    uint64_t memory             # the budget that all sessions of the pool share
    uint64_t own_bytes          # blocks of single messages, whole or under assembly
    uint64_t moved_bytes        # messages that were moved out of receive blocks
    uint64_t charged            # what the pool was told is held in other memory than blocks
    uint64_t growth             # what blocks of messages under assembly may still grow by
    uint64_t placed_bytes       # messages under assembly in the receiver's own buffer
    Loan loan                   # of the pool's, to end what is under assembly
    uint64_t lent_at            # since when it is looked whether it goes on (ns); 0: it has none
    uint64_t lent_got           # bytes of messages that came since
    uint64_t lent_late_at       # since when it does not go on as it must; 0: it does
    size_t block_start          # the first byte not looked at
    size_t block_end
    uint64_t skip               # payload to be dropped as it comes
    Conn* direct                # whose chunk comes straight to its destination
    uint64_t direct_done
    uint64_t direct_length
    bint direct_last            # it ends its message
    bint expect_large           # the last DATA frame was one
    Message* posted             # what arrived in the receiver's own buffer
    Conn* posted_by
    uint8_t* posted_data
    uint64_t posted_size
    uint64_t receive_limit
    uint64_t told_limit
    uint64_t receive_used
    uint64_t expected           # what is missing of messages under assembly
    uint32_t assemblies         # how many there are
    uint64_t message_ns         # how long they may stay without a byte of any coming
    uint64_t chunk_at           # when one came, ns
    uint64_t heard_at           # when anything did
    uint64_t overdue_at         # since when the time is over; 0: it is not
    uint64_t released
    uint64_t unread_bytes
    Slab messages
    Block* oldest               # retired blocks that still hold unread messages
    Block* newest
    Block* look                 # where the search for sparse ones goes on; NULL: at the oldest
    uint64_t retired_bytes
    uint64_t retired_live
    # measurements
    uint64_t now                # ns, the latest that the caller told
    uint64_t asked_at           # when when the peer was last asked for something, for want of that
    uint64_t keepalive_ns       # after how long it is; 0: never
    uint64_t silence_ns         # and after how long it is taken for dead
    uint64_t round_trip         # ns, smoothed; 0: not measured yet
    uint64_t frames_received
    uint64_t bytes_received
    uint64_t bytes_sent
