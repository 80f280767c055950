"""The state of a small model of those who use a link; what they do with it is in `wakeups`.

It follows `_engine.pyx`, `_waiting.pyx`, `_keeper.pyx` and ARCHITECTURE.md, "Who wakes whom": the
same names, and the same order of things under the lock. What the bytes mean is left out. Times are
choices: what may have lasted long enough, or not, is tried both ways.

A thread is a stack of blocks, the next one last. A *locked* block runs under the session's lock,
which is held until the next block is one that is not: a system call, a wait, or what became due.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

RULES = (
    "a waiter looks under the lock under which it parks",
    "a waiter looks again when it has been woken",
    "who is to be unparked waits for that though its time is over",
    "a reader that leaves passes the role on",
    "a writer that leaves passes the role on",
    "the keeper looks when the kernel is full",
    "the reader is woken when the kernel is full",
    "a writer looks for more before it gives up",
    "a writer wakes those who wait for room",
    "a reader wakes those who wait for acks",
    "as many are woken as there are messages",
    "a reader to whom something happens while it reads looks again",
    "a wake outlasts that nobody waits yet",
    "a look during a visit makes another one",
    "a flush during a turn makes another one",
    "the flusher is told of what is left for it",
    "who has written for long leaves the rest to the flusher",
    "the end of a stream is said before its rest is written",
    "a visit arms the link again",
    "the keeper rouses those who are left",
)
"""What may be taken out of the model, each to be missed."""

SERVANTS = ("keeper", "flusher", "peer", "A~", "B~")


@dataclasses.dataclass(slots=True, eq=False)
class Thread:
    """One thread: what it is going to do, and what it knows."""

    name: str
    stack: tuple[str, ...]
    todo: int = 0
    """Messages that are still to be sent or received."""
    patient: bool = True
    """It waits without a timeout."""
    wanted: str = ""
    """What it waits for: a letter for a message on that connection, room, or acks."""
    parked: bool = False
    woken: bool = False
    signalled: bool = False
    """Its parker was released."""
    reader: bool = False
    roused: bool = False
    """To be told of an end, and not back yet."""
    result: str = ""
    """What its last system call gave."""
    has_read: bool = False
    rounds: int = 0

    def copy(self) -> Thread:
        """Another one like it."""
        return Thread(*self.key())

    def key(self) -> tuple[object, ...]:
        """All of it."""
        return (
            self.name, self.stack, self.todo, self.patient, self.wanted, self.parked, self.woken,
            self.signalled, self.reader, self.roused, self.result, self.has_read, self.rounds,
        )  # fmt: skip


class Wakeups:
    """All that threads share, and the threads. A model for the explorer."""

    def __init__(
        self,
        *users: str,
        peer: str = "",
        answers: str = "",
        takes_over: bool = True,
        streams: bool = True,
        kernel: int = 1,
        queue: int = 1,
        credit: int = 2,
        rounds: int = 9,
        without: str = "",
    ) -> None:
        """Users by what they do: "A2" receives two messages of connection A, "a" is one that may
        run out of time, "A~" may wait for ever; "send 3" sends three and waits for the acks, "post
        3" does not, nor "cut 3", who need not wait for room in the queue; "close" ends the link,
        "stop A" a connection.

        `peer` is what the peer sends by itself, and `answers` what it says to each frame: an ack of
        all so far ("."), a message ("A"), nothing ("-"); acks in the end. The keeper reads
        when nobody else does, or never. Sends are so close that some may be
        left for the flusher, or they are not. The kernel takes so many frames
        before the peer reads. Senders wait when there are so many in the queue, or so many without
        an ack. A writer writes so many rounds.
        """
        assert not without or without in RULES
        self.without = without
        self.threads = [
            *map(user, users),
            Thread("keeper", ("keep", "take_looks")),
            Thread("flusher", ("flush_loop",)),
            Thread("peer", ("peer",)),
        ]
        self.limits = (kernel, queue, credit, rounds)
        self.takes_over = takes_over
        self.streams = streams
        self.wrong = False
        """Somebody was told what is not true."""
        self.choose: Callable[[int], int] = lambda count: 0
        # Under the lock:
        self.unread = {"A": 0, "B": 0}
        self.queued = self.unacked = 0
        self.reading = ""
        self.writing = self.blocked = self.down = self.drained = False
        self.watched = self.reader_waits = self.stirred = self.rousing = False
        self.stopped = ""
        self.owned = takes_over
        self.due: tuple[str, ...] = ()
        self.waiters: tuple[int, ...] = ()
        # The link:
        self.incoming = ""
        """What the peer has sent and nobody has read: letters of connections; "." is an ack."""
        self.kernel = 0
        self.wake = False
        self.to_come = peer
        self.answers = answers
        self.owed = 0
        """Frames that the peer has read and not acknowledged."""
        # The keeper's and the flusher's:
        self.armed = 0
        self.listed = self.keeper_wake = self.timed = False
        self.flush_listed = self.flusher_sleeps = self.flusher_signalled = False

    # For the explorer

    def copy(self) -> Wakeups:
        """Another one like it."""
        new = Wakeups.__new__(Wakeups)
        new.__dict__.update(self.__dict__)
        new.threads = [thread.copy() for thread in self.threads]
        new.unread = dict(self.unread)
        return new

    def key(self) -> tuple[object, ...]:
        """What distinguishes this state from others."""
        return (
            *self.unread.values(), self.queued, self.unacked, self.reading, self.writing,
            self.blocked, self.down, self.drained, self.watched, self.reader_waits, self.stirred,
            self.rousing, self.stopped, self.owned,
            self.due, self.waiters, self.incoming, self.kernel, self.wake, self.to_come,
            self.answers, self.owed, self.wrong, self.armed, self.listed, self.keeper_wake,
            self.timed, self.flush_listed, self.flusher_sleeps, self.flusher_signalled,
            *(thread.key() for thread in self.threads),
        )  # fmt: skip

    @property
    def done(self) -> bool:
        """Whether everybody is through, and nothing is left in any queue."""
        through = not any(each.stack for each in self.threads if each.name not in SERVANTS)
        left = self.queued or self.kernel or self.to_come or (self.incoming and self.takes_over)
        return through and not self.wrong and (self.down or not left)

    def actors(self) -> list[tuple[int, str]]:
        """The threads that can go on, and what they do next."""
        found = []
        for number, thread in enumerate(self.threads):
            if thread.stack:
                name = thread.stack[-1]
                if name not in GUARDS or GUARDS[name](self, thread):
                    found.append((number, f"{thread.name}: {name}"))
        return found

    def act(self, actor: int, choose: Callable[[int], int]) -> None:
        """Runs a thread's next block; a locked one with all that follow under the same lock."""
        thread = self.threads[actor]
        self.choose = choose
        while True:
            name, thread.stack = thread.stack[-1], thread.stack[:-1]
            BLOCKS[name](self, thread)
            if name not in LOCKED:
                return
            if not thread.stack or thread.stack[-1] not in LOCKED:
                break
        # The lock is released, and what became due under it is done.
        thread.stack += tuple(reversed(self.due))
        self.due = ()

    # The engine, under the lock

    def has(self, rule: str) -> bool:
        """Whether a rule is in force."""
        assert rule in RULES
        return rule != self.without

    def becomes_due(self, what: str) -> None:
        """Something is to be done as soon as the lock is released."""
        if what not in self.due:
            self.due = (*self.due, what)

    @property
    def lacks_credit(self) -> bool:
        """Whether a sender must wait for the peer."""
        return self.unacked >= self.limits[2]

    @property
    def has_room(self) -> bool:
        """Whether a sender need not wait."""
        return not self.lacks_credit and self.queued < self.limits[1]

    @property
    def peer_has_room(self) -> bool:
        """Whether the kernel would take a frame, or an end."""
        return self.kernel < self.limits[0] or self.down

    @property
    def readable(self) -> bool:
        """Whether the kernel has something to read, or an end."""
        return bool(self.incoming) or self.down

    def satisfied(self, thread: Thread) -> bool:
        """Whether what a waiter waits for is there, or can never be."""
        if self.down:
            return True
        if thread.wanted == "room":
            return self.has_room
        if thread.wanted == "acks":
            return self.unacked == 0
        return self.unread[thread.wanted] > 0 or thread.wanted in self.stopped

    def needs_reader(self, thread: Thread) -> bool:
        """Whether it is for the peer to say what a waiter waits for."""
        return thread.wanted != "room" or self.blocked or self.lacks_credit

    def take_role(self, thread: Thread) -> None:
        """The thread becomes the reader."""
        self.reading = "user"
        thread.reader = True
        if self.owned:
            self.owned = False
            self.becomes_due("look")

    def pass_role(self) -> None:
        """The reader's role is free: it goes to the oldest waiter who sleeps, or to the keeper."""
        if self.down:
            self.becomes_due("look")
            return
        for index in self.waiters:
            thread = self.threads[index]
            if thread.parked and not thread.woken and self.needs_reader(thread):
                self.take_role(thread)
                self.unpark_later(thread)
                return
        if self.blocked and self.has("the keeper looks when the kernel is full"):
            self.becomes_due("look")

    def wake_up(self, thread: Thread) -> None:
        """Wakes a waiter."""
        if thread.reader:
            if self.reader_waits:
                self.becomes_due("wake_reader")
            self.stirred = True
        elif thread.parked and not thread.woken:
            self.unpark_later(thread)

    def unpark_later(self, thread: Thread) -> None:
        """Unparks a waiter once the lock is released."""
        thread.woken = True
        self.becomes_due(f"unpark {self.threads.index(thread)}")

    def wake_all(self) -> None:
        """There is an end to hear of: threads that sleep are roused."""
        for index in self.waiters:
            thread = self.threads[index]
            if thread.reader or not thread.parked:
                self.wake_up(thread)
        self.rouse()
        if self.rousing:
            self.becomes_due("look")

    def rouse(self) -> None:
        """Wakes threads to hear of an end, one at a time, behind other sessions'."""
        self.rousing = False
        for index in self.waiters:
            thread = self.threads[index]
            asleep = thread.parked and not thread.woken and not thread.reader
            if asleep and self.satisfied(thread):
                if any(each.roused for each in self.threads) or self.choose(2):
                    self.rousing = True
                    return
                thread.roused = True
                self.unpark_later(thread)

    def wake_receivers(self, connection: str) -> None:
        """One waiter for each unread message."""
        count = self.unread[connection]
        if not self.has("as many are woken as there are messages"):
            count = 1
        waiting = [self.threads[each] for each in self.waiters]
        for thread in [each for each in waiting if each.wanted == connection][:count]:
            self.wake_up(thread)

    def wake_others(self) -> None:
        """Those who wait for something else than a message, and need not any more."""
        for index in self.waiters:
            thread = self.threads[index]
            if thread.wanted in ("room", "acks") and self.satisfied(thread):
                self.wake_up(thread)

    def begin_wait(self, thread: Thread, wanted: str) -> None:
        """The thread is among the waiters."""
        thread.wanted = wanted
        self.waiters = (*self.waiters, self.threads.index(thread))

    def end_wait(self, thread: Thread) -> None:
        """It is no more."""
        index = self.threads.index(thread)
        self.waiters = tuple(each for each in self.waiters if each != index)
        if thread.reader:
            thread.reader = False
            self.reading = ""
            if self.has("a reader that leaves passes the role on"):
                self.pass_role()


def user(name: str) -> Thread:
    """A thread of a program's, see `Wakeups`."""
    if name == "close":
        return Thread(name, ("close",))
    if name.startswith("stop "):
        return Thread(name, ("stop",))
    _, _, count = name.partition(" ")
    if count:
        return Thread(name, ("send",), int(count))
    return Thread(
        name, ("receive",), int(name[1:].rstrip("~") or 1), name[0].isupper(), name[0].upper()
    )


Block = Callable[[Wakeups, Thread], None]
BLOCKS: dict[str, Block] = {}
LOCKED: set[str] = set()
GUARDS: dict[str, Callable[[Wakeups, Thread], bool]] = {}
"""What a block waits for; the others wait for nothing but their turn."""


def locked(function: Block) -> Block:
    """A block under the session's lock."""
    BLOCKS[function.__name__] = function
    LOCKED.add(function.__name__)
    return function


def unlocked(function: Block) -> Block:
    """A block without it."""
    BLOCKS[function.__name__] = function
    return function


def waits(until: Callable[[Wakeups, Thread], bool]) -> Callable[[Block], Block]:
    """A block without the lock, which waits."""

    def add(function: Block) -> Block:
        GUARDS[function.__name__] = until
        return unlocked(function)

    return add
