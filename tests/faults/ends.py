"""Both ends of the checked traffic: what each sends and receives, call by call.

An `End` does nothing itself: its scripts say what is to be called next, and are told what came of
it. `drivers` calls, in threads or in the tasks of an event loop.
"""

from __future__ import annotations

import dataclasses
import json
import random
import uuid
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from faults.traffic import END, LARGEST, Ledger, Source, Tally
from support import client_context, server_context

PATIENCE = 120.0
"""Seconds for one call that is held up by whatever is done to its link."""

KINDS = ("blocking", "asyncio", "uvloop")
"""What drives an end: threads that use the blocking interface, or an event loop."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What traffic there is to be; both processes must be told the same."""

    connections: int = 16
    messages: int | None = None
    """Each way on each connection; None: until the client has had enough."""
    seed: int = 0
    largest: int = LARGEST
    pause: float = 0.002
    """Seconds that a sender rests at most now and then, and that a call is given which may be
    called off; 0: never."""
    client_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    server_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    tls: bool = False
    client: str = "blocking"
    server: str = "blocking"
    """One of `KINDS`."""

    def for_client(self) -> dict[str, Any]:
        """The options of the client's links."""
        extra = {"ssl": client_context(), "server_hostname": "localhost"} if self.tls else {}
        return self.client_options | extra

    def for_server(self) -> dict[str, Any]:
        """The options of the listener."""
        return self.server_options | ({"ssl": server_context()} if self.tls else {})

    def to_json(self) -> str:
        """For the other process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that `to_json` wrote."""
        return cls(**json.loads(text))


def connection_id(number: int) -> uuid.UUID:
    """The id of the traffic's connection with this number."""
    return uuid.UUID(int=number + 1)


class Step(NamedTuple):
    """A method of a connection to be called; or `REST`."""

    name: str
    arguments: tuple[Any, ...] = ()
    limit: float = PATIENCE
    """Seconds until it is called off. Then the script is thrown a `TimeoutError`."""


REST = "rest"
"""The step in which nothing is called for `limit` seconds."""

Script = Generator[Step, Any, None]
"""Gives steps, and is sent what each returned or thrown what it raised."""


class End:
    """One end of a connection, by its number: a script that sends, and one that receives."""

    def __init__(
        self,
        number: int,
        job: Job,
        *,
        client: bool,
        enough: Callable[[], bool] | None = None,
    ) -> None:
        self.number = number
        self.errors: list[str] = []
        self.sent = 0
        self._job = job
        self._source = Source(2 * number + client, job.seed, job.largest)
        self.ledger = Ledger(Source(2 * number + (not client), job.seed, job.largest))
        self._enough = enough or (lambda: self.ledger.ended)

    def scripts(self) -> list[Script]:
        """What is to be done at the same time, before the connection is closed."""
        return [self._send(), self._receive()]

    def failed(self, what: str, error: BaseException) -> None:
        """Notes what should not have happened."""
        self.errors.append(f"connection {self.number}, {what}: {error!r}")

    def _limit(self, choice: random.Random) -> float:
        """How long a call may take: now and then hardly any time."""
        if self._job.pause and choice.random() < 0.1:
            return choice.random() * self._job.pause
        return PATIENCE

    def _send(self) -> Script:
        choice = random.Random(f"{self._job.seed} send {self._source.stream}")
        message = self._source.message
        run = 0
        while not self._done():
            if run == 0:
                run = int(300 ** choice.random())
                if self._job.pause and choice.random() < 0.5:
                    yield Step(REST, limit=choice.random() * self._job.pause)
            run -= 1
            way = choice.randrange(8)
            if way == 0:
                many = [message(self.sent + n) for n in range(choice.randrange(1, 20))]
                if self._job.messages is not None:
                    many = many[: self._job.messages - self.sent]
                while many:
                    count = yield Step("send_many", (many,))
                    self.sent += count
                    many = many[count:]
                continue
            data = message(self.sent)
            if way == 1:
                step = Step("send", (bytearray(data),), self._limit(choice))
            elif way == 2:
                step = Step("send_parts", ([data[:7], data[7:]],), self._limit(choice))
            else:
                step = Step("send", (data,), self._limit(choice))
            yield from patiently(step)
            self.sent += 1
        yield Step("send", (self._source.end(self.sent),))
        yield Step("flush")

    def _done(self) -> bool:
        if self._job.messages is not None:
            return self.sent >= self._job.messages
        return self.sent == END - 1 or self._enough()

    def _receive(self) -> Script:
        choice = random.Random(f"{self._job.seed} receive {self._source.stream}")
        take, damage = self.ledger.take, self.ledger.damage
        buffer = bytearray(self._job.largest)
        more = True
        while more:
            way = choice.randrange(8)
            limit = self._limit(choice)
            if way == 0:
                step = Step("receive_many", (choice.randrange(1, 40),), limit)
                for message in (yield from patiently(step)):
                    more = take(message)
            elif way == 1:
                size = yield from patiently(Step("receive_into", (buffer,), limit))
                more = take(bytes(buffer[:size]))
            elif way == 2:
                with (yield from patiently(Step("receive_view", (), limit))) as lease:
                    more = take(bytes(lease))
            else:
                more = take((yield from patiently(Step("receive", (), limit))))
            while damage:
                self.errors.append(f"connection {self.number}, way {way}: {damage.pop()}")


def patiently(step: Step) -> Generator[Step, Any, Any]:
    """A step that loses nothing when it is called off: then it is done again, without haste."""
    try:
        return (yield step)
    except TimeoutError:
        if step.limit == PATIENCE:
            raise
    return (yield step._replace(limit=PATIENCE))


@dataclasses.dataclass
class Report:
    """What one process has to say at the end."""

    tally: Tally = dataclasses.field(default_factory=Tally)
    sent: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether all went well."""
        return self.tally.clean and not self.errors

    @classmethod
    def of(cls, ends: list[End]) -> Report:
        """What these ends saw, added up."""
        tally = sum((end.ledger.tally for end in ends), Tally())
        errors = [error for end in ends for error in end.errors]
        return cls(tally, sum(end.sent for end in ends), errors)

    def to_json(self) -> str:
        """For the other process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote."""
        read = json.loads(text)
        return cls(Tally(**read["tally"]), read["sent"], read["errors"])
