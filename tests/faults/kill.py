"""A server that is killed in mid-stream, again and again, and clients that must account for every
message: what was taken, what is in doubt, and what was not sent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import tempfile
import threading
import time
from pathlib import Path

import tcpconn
from faults.drivers import connect_all
from faults.ends import PATIENCE, Script, Step
from faults.mortal import END, HEAD, Mortal, message
from faults.proxy import Proxy
from faults.tap import Tap
from support import Background

STREAM = 2000
"""A server is killed after so many messages at most, from when all connections are in use."""


class Progress:
    """What has come back from the server, for whoever waits for it."""

    def __init__(self) -> None:
        self._came = threading.Condition()
        self._count = 0
        self._in_use: set[int] = set()

    def came(self, connection: int) -> None:
        """The server has received something of a connection."""
        with self._came:
            self._count += 1
            self._in_use.add(connection)
            self._came.notify_all()

    def wait(self, connections: int, more: int) -> None:
        """Waits until all connections are in use, and for so many messages after that."""
        with self._came:
            self._in_use.clear()
            self._until(lambda: len(self._in_use) == connections)
            count = self._count + more
            self._until(lambda: self._count >= count)

    def _until(self, condition: object) -> None:
        assert callable(condition)
        if not self._came.wait_for(condition, PATIENCE):
            raise AssertionError(f"nothing comes back any more, of {sorted(self._in_use)}")


@dataclasses.dataclass
class Loss:
    """What a connection was told when its session was lost."""

    first: int
    """The number of the session's first message."""
    acked: int
    in_doubt: int
    unsent: int

    @property
    def behind(self) -> int:
        """The number of the next session's first message."""
        return self.first + self.acked + self.in_doubt + self.unsent


class Survivor:
    """A client's end of a connection, that outlives its servers."""

    def __init__(self, number: int, seed: int, progress: Progress, over: threading.Event) -> None:
        self.number = number
        self.sent = 0
        self.losses: list[Loss] = []
        self.flushed: list[int] = []
        """How many messages were sent when a `flush` began that was successful."""
        self.errors: list[str] = []
        self._seed = seed
        self._progress = progress
        self._over = over
        self._lock = threading.Lock()

    @property
    def first(self) -> int:
        """The number of the first message of the session that there is."""
        return self.losses[-1].behind if self.losses else 0

    def scripts(self) -> list[Script]:
        """One that sends and one that receives."""
        return [self._send(), self._receive()]

    def failed(self, what: str, error: BaseException | str) -> None:
        """Notes what should not have happened."""
        self.errors.append(f"connection {self.number}, {what}: {error!r}")

    def _send(self) -> Script:
        choice = random.Random(f"{self._seed} {self.number}")
        while not self._over.is_set():
            with self._accounting():
                yield Step("send", (message(self.number, self.sent),))
                self.sent += 1
            if choice.random() < 0.02:
                with self._accounting():
                    try:
                        yield Step("flush")
                    except tcpconn.SessionLost:
                        raise
                    except tcpconn.LinkLost:
                        continue  # the other thread is told
                    self.flushed.append(self.sent)
        yield Step("send", (message(self.number, END),))
        yield Step("flush")

    def _receive(self) -> Script:
        due = 0
        while True:
            with self._accounting():
                number = HEAD.unpack((yield Step("receive")))[1]
                if number == END:
                    return
                if number != due and (number < due or number != self.first):
                    self.failed("receiving", f"an answer to message {number} instead of {due}")
                due = number + 1
                self._progress.came(self.number)

    @contextlib.contextmanager
    def _accounting(self):  # type: ignore[no-untyped-def]
        """Takes in a loss, and goes on."""
        try:
            yield
        except tcpconn.SessionLost as error:
            with self._lock:
                self._take(error)

    def _take(self, error: tcpconn.SessionLost) -> None:
        loss = Loss(self.first, error.acked, len(error.in_doubt), len(error.unsent))
        begin = loss.first + loss.acked
        for number, told in enumerate(error.in_doubt + error.unsent, begin):
            if told != message(self.number, number):
                self.failed("a loss", f"{loss}: message {number} is not what was sent")
                break
        self.losses.append(loss)


@dataclasses.dataclass
class Kills:
    """What a run showed."""

    kills: int
    seconds: float
    ends: list[Survivor]
    errors: list[str]
    late: int = 0
    """Messages in doubt although their ack had passed on the way to the client."""

    @property
    def clean(self) -> bool:
        """Whether every message was accounted for."""
        return not self.errors

    def table(self) -> str:
        """All of it, for people."""
        losses = [loss for end in self.ends for loss in end.losses]
        rows = {
            "killed": self.kills,
            "connections": len(self.ends),
            "SessionLost": len(losses),
            "messages": sum(end.sent for end in self.ends),
            "acked at a loss": sum(loss.acked for loss in losses),
            "in doubt": sum(loss.in_doubt for loss in losses),
            "unsent": sum(loss.unsent for loss in losses),
            "acks unheard": self.late,
        }
        lines = [f"{self.seconds:.1f} s", *(f"{name:<16}{n:>12,}" for name, n in rows.items())]
        return "\n".join([*lines, "", *(self.errors or ["clean"])])


def run_kills(
    kills: int, seed: int = 0, *, connections: int = 8, client: str = "blocking", link: str = "auto"
) -> Kills:
    """Lets a server be killed so often, while this process sends to it over all connections."""
    choice = random.Random(seed)
    progress, over, tap = Progress(), threading.Event(), Tap()
    ends = [Survivor(number, seed, progress, over) for number in range(connections)]
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [Mortal(directory / "0", link)]
        stack.callback(lambda: servers[-1].kill())  # noqa: PLW0108  - the last one then
        address = servers[0].start("127.0.0.1:0")
        proxy = stack.enter_context(Proxy(address, on_frame=tap))
        traffic = Background(lambda: connect_all(client, proxy.address, {"link": link}, ends))
        stack.callback(over.set)
        for number in range(kills):
            following = Mortal(directory / str(number + 1), link)
            try:
                progress.wait(connections, choice.randrange(STREAM))
            finally:
                servers[-1].kill()
                servers.append(following)
            following.start(address)
        progress.wait(connections, 0)
        over.set()
        traffic.result(PATIENCE)
        servers[-1].wait()
        taken = [server.taken() for server in servers]
    outcome = Kills(kills, time.monotonic() - began, ends, [])
    for end in ends:
        outcome.errors += end.errors
        outcome.errors += check(end, kills, [each.get(end.number, []) for each in taken])
        if len(tap.sessions) == kills + 1:
            for loss, passed in zip(end.losses, tap.sessions, strict=False):
                heard = passed.messages(end.number + 1)
                outcome.late += max(0, heard - loss.acked)
                if loss.acked > heard:
                    outcome.errors.append(f"connection {end.number}: {loss}, but {heard} acked")
        else:
            outcome.errors.append(f"{len(tap.sessions)} sessions for {kills + 1} servers")
    return outcome


def check(end: Survivor, kills: int, taken: list[list[int]]) -> list[str]:
    """What is wrong about an end, given what the program of each server received of it."""
    wrong = []
    if len(end.losses) != kills:
        return [f"connection {end.number}: {len(end.losses)} losses, not {kills}"]
    firsts = [0, *(loss.behind for loss in end.losses)]
    last = [*range(firsts[-1], end.sent), END]
    if taken[-1] != last:
        wrong.append(f"the last server did not get {firsts[-1]} to {end.sent - 1}")
    for loss, numbers in zip(end.losses, taken, strict=False):
        if numbers != list(range(loss.first, loss.first + len(numbers))):
            wrong.append(f"{loss}: not in order: {numbers}")
        if len(numbers) > loss.acked + loss.in_doubt:
            wrong.append(f"{loss}: the server received {len(numbers)}")
    for loss in end.losses:
        # When all that a session ever had was sent before, the next one may have been flushed: a
        # loss is told to one thread, and another may go on before that one has taken it in.
        flushed = [sent for sent in end.flushed if loss.first < sent < loss.behind]
        if flushed and flushed[-1] > loss.first + loss.acked:
            wrong.append(f"{loss}: {flushed[-1]} were flushed")
    return [f"connection {end.number}: {each}" for each in wrong]
