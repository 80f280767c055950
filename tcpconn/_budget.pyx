"""How the sessions of a process share what they may hold together. Policy only: it counts, and
knows neither blocks nor messages.

What was granted cannot be taken back. So of a budget

- one half is anybody's who comes first;
- a quarter is shared out: of what is left of it, nobody gets more than an equal part;
- a quarter is kept. Each session may have a 4096th of the budget, whatever the others hold: so a
  message of that size always gets through. The rest is *lent*: to who has begun a message that does
  not fit in, as much as it may take to end all that it has begun. So who has a loan waits for
  nobody.

A loan leaves half of what there is to lend to others, so that there is nearly always some for small
ones. Who waits for one is served in the order in which they would be done, had they all been served
at once, at LOAN_RATE; what they hold already counts eightfold. So those who want little, and hold
little, go first, and none is overtaken for ever. Who has a loan must go on at LOAN_RATE: that is
the session's business.

The sum stays within the budget, but for the parts of sessions beyond 512, and for what is lent to
one session at a time that wants more than there is, the *senior*: else some that have begun
messages could wait for each other.
"""

from tcpconn._memory cimport memory_free, memory_take_zeroed
from tcpconn._sync cimport SECOND_NS

cdef uint64_t MOST = <uint64_t> 1 << 50     # so that no product passes 64 bits


cdef bint may_take(
    Sharing* sharing, uint64_t used, uint64_t more, const Claim* claim
) noexcept nogil:
    """Whether a session may have `more`, where all of them have `used`. A loan may begin by it, or
    be waited for.
    """
    cdef uint64_t shared = claim.budget - claim.budget // 4
    cdef uint64_t spoken_for = used + sharing.lent
    cdef bint granted = (
        spoken_for + more <= claim.budget // 2
        or claim.received + more <= claim.budget // LINK_PART
        or (
            spoken_for < shared
            and claim.held + more <= (shared - spoken_for) // max(<uint32_t> SHARE, sharing.links)
        )
    )
    if granted:
        if claim.loan is not NULL and claim.loan.waits:
            leave_queue(sharing, claim.loan)
        return True
    return claim.loan is not NULL and may_borrow(sharing, used, more, claim)


cdef bint may_borrow(
    Sharing* sharing, uint64_t used, uint64_t more, const Claim* claim
) noexcept nogil:
    cdef Loan* loan = claim.loan
    cdef uint64_t wanted = more + claim.missing
    cdef uint64_t step
    if loan.limit == 0 or claim.received + more > loan.limit:
        if sharing.senior is not loan:
            if not loan.waits:
                # Who has begun more meanwhile goes first: others may wait for it to end.
                loan.due = 0
                if loan.limit == 0:
                    loan.due = (
                        claim.now
                        + min(HELD_WEIGHT * claim.received + wanted, MOST) // LOAN_RATE * SECOND_NS
                    )
                join_queue(sharing, loan)
            if sharing.first is not loan or not can_lend(sharing, used, wanted, claim):
                return False
            leave_queue(sharing, loan)
        if loan.limit == 0:
            sharing.loans += 1
        loan.limit = claim.received + wanted
        sharing.lent += wanted - loan.left
        loan.left = wanted
    step = min(more, loan.left)
    loan.left -= step
    sharing.lent -= step
    return True


cdef bint can_lend(
    Sharing* sharing, uint64_t used, uint64_t wanted, const Claim* claim
) noexcept nogil:
    """Whether a session can be lent what it wants. It becomes the senior if that is more than there
    is.
    """
    cdef Loan* loan = claim.loan
    cdef uint64_t parts = sharing.links * (claim.budget // LINK_PART)
    cdef uint64_t most = claim.budget - min(parts, claim.budget // 8)
    cdef uint64_t spoken_for = used + sharing.lent - loan.left
    cdef uint64_t rest = most - spoken_for if spoken_for < most else 0
    if wanted <= (rest // 2 if loan.limit == 0 and sharing.loans > 0 else rest):
        return True
    if sharing.senior is not NULL:
        return False
    if loan.limit == 0 and (sharing.loans > 0 or used >= most):
        return False
    if used > claim.budget + parts:
        return False
    sharing.senior = loan
    return True


cdef void end_loan(Sharing* sharing, Loan* loan) noexcept nogil:
    """The session needs its loan no more, nor waits for one."""
    if loan.waits:
        leave_queue(sharing, loan)
    if loan.limit != 0:
        sharing.loans -= 1
        sharing.lent -= loan.left
        loan.limit = 0
        loan.left = 0
    if sharing.senior is loan:
        sharing.senior = NULL


cdef void join_queue(Sharing* sharing, Loan* loan) noexcept nogil:
    cdef Loan** at = &sharing.first
    while at[0] is not NULL and at[0].due <= loan.due:
        at = &at[0].next
    loan.next = at[0]
    loan.waits = True
    at[0] = loan


cdef void leave_queue(Sharing* sharing, Loan* loan) noexcept nogil:
    cdef Loan** at = &sharing.first
    while at[0] is not loan:
        at = &at[0].next
    at[0] = loan.next
    loan.next = NULL
    loan.waits = False


# What Python sees: for tests.

cdef class Shares:
    """A budget, and sessions that share it: numbers from 0 to `links` - 1."""

    cdef Sharing sharing
    cdef Loan* loans
    cdef readonly uint64_t budget
    cdef readonly list held
    cdef readonly uint64_t used

    def __cinit__(self, uint64_t budget, uint32_t links):
        self.budget = budget
        self.loans = <Loan*> memory_take_zeroed(links + 1, sizeof(Loan))
        if self.loans is NULL:
            raise MemoryError
        self.sharing.links = links
        self.held = [0] * links

    def __dealloc__(self):
        memory_free(self.loans)

    def take(self, link, uint64_t more, uint64_t missing=0, bint begun=False, uint64_t now=0):
        """Whether a session gets `more`. One that has `begun` messages, to which `missing` is
        missing beyond that, may be lent it.
        """
        cdef Claim claim
        claim.budget = self.budget
        claim.held = self.held[link]
        claim.received = claim.held
        claim.loan = &self.loans[<uint32_t> link] if begun else NULL
        claim.missing = missing
        claim.returned = 0
        claim.now = now
        if not may_take(&self.sharing, self.used, more, &claim):
            return False
        self.held[link] += more
        self.used += more
        return True

    def give(self, link, uint64_t less):
        """A session gives something back."""
        self.held[link] -= less
        self.used -= less

    def done(self, link):
        """A session has ended what it had begun."""
        end_loan(&self.sharing, &self.loans[<uint32_t> link])

    def has_loan(self, link):
        """Whether a session was lent something."""
        return self.loans[<uint32_t> link].limit != 0

    @property
    def lent(self):
        """What is set aside for loans."""
        return self.sharing.lent
