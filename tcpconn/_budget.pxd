"""How the sessions of a process share what they may hold together."""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    # Of a budget:
    LINK_PART = 4096            # this part of it every session has for itself
    SHARE = 8                   # and of what is shared out, none gets more than this part
    HELD_WEIGHT = 8
    LOAN_RATE = 1048576         # bytes a second at which who has a loan must go on


cdef struct Loan:               # a session's, of what is not shared out
    Loan* next                  # in the queue of those that wait for one
    uint64_t due                # ns, their order
    uint64_t limit              # what it may hold with it; 0: it has none
    uint64_t left               # of what was set aside for it
    bint waits


cdef struct Sharing:            # of one pool; guarded by its lock
    uint32_t links              # sessions there are
    uint32_t loans
    uint64_t lent               # what is set aside for them, and not taken yet
    Loan* first                 # in the queue
    Loan* senior                # may have more than there is; NULL: none does


cdef struct Claim:              # of a session, on a budget that it shares with all of its pool
    uint64_t budget             # for all of them
    uint64_t held               # what it has
    uint64_t received           # of that, messages
    Loan* loan                  # its own; NULL: not for what it wants now
    uint64_t missing            # memory that its messages under assembly may want yet, at most
    uint64_t returned           # what it gives back for it at once
    uint64_t now                # ns


cdef bint may_take(
    Sharing* sharing, uint64_t used, uint64_t more, const Claim* claim
) noexcept nogil
cdef void end_loan(Sharing* sharing, Loan* loan) noexcept nogil
