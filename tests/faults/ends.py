"""Both ends of the checked traffic over the blocking interface: two threads for each connection."""

from __future__ import annotations

import dataclasses
import json
import random
import threading
import uuid
from collections.abc import Callable
from typing import Any

import tcpconn
from faults.traffic import END, LARGEST, Ledger, Source, Tally
from support import client_context, server_context

PATIENCE = 120.0
"""Seconds for one call that is held up by whatever is done to its link."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What traffic there is to be; both processes must be told the same."""

    connections: int = 16
    messages: int | None = None
    """Each way on each connection; None: until the client has had enough."""
    seed: int = 0
    largest: int = LARGEST
    pause: float = 0.002
    """Seconds that a sender rests at most now and then; 0: never."""
    client_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    server_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    tls: bool = False

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


class End:
    """One end of a connection: a thread that sends, and one that receives and checks."""

    def __init__(
        self,
        connection: tcpconn.Connection,
        job: Job,
        *,
        client: bool,
        enough: Callable[[], bool] | None = None,
    ) -> None:
        number = connection.id.int - 1
        self.connection = connection
        self.errors: list[str] = []
        self.sent = 0
        self._job = job
        self._source = Source(2 * number + client, job.seed, job.largest)
        self.ledger = Ledger(Source(2 * number + (not client), job.seed, job.largest))
        self._enough = enough or (lambda: self.ledger.ended)
        self._resting = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(what,), name=what.__name__, daemon=True)
            for what in (self._send, self._receive)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Waits for both threads, and closes the connection."""
        for thread in self._threads:
            thread.join()
        try:
            self.connection.close(PATIENCE)
        except tcpconn.TcpconnError as error:
            self._failed("closing", error)

    def _guarded(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:  # noqa: BLE001  - it is reported
            self._failed(what.__name__.strip("_"), error)
            self.connection.abort()  # so that the other thread ends too

    def _failed(self, what: str, error: Exception) -> None:
        self.errors.append(f"connection {self.connection.id.int - 1}, {what}: {error!r}")

    def _send(self) -> None:
        choice = random.Random(f"{self._job.seed} send {self._source.stream}")
        send, message = self.connection.send, self._source.message
        run = 0
        while not self._done():
            if run == 0:
                run = int(300 ** choice.random())
                if self._job.pause and choice.random() < 0.5:
                    self._resting.wait(choice.random() * self._job.pause)
            run -= 1
            way = choice.randrange(8)
            if way == 0:
                many = [message(self.sent + n) for n in range(choice.randrange(1, 20))]
                if self._job.messages is not None:
                    many = many[: self._job.messages - self.sent]
                while many:
                    count = self.connection.send_many(many, PATIENCE)
                    self.sent += count
                    del many[:count]
                continue
            data = message(self.sent)
            if way == 1:
                send(bytearray(data), PATIENCE)
            elif way == 2:
                self.connection.send_parts([data[:7], data[7:]], PATIENCE)
            else:
                send(data, PATIENCE)
            self.sent += 1
        send(self._source.end(self.sent), PATIENCE)
        self.connection.flush(PATIENCE)

    def _done(self) -> bool:
        if self._job.messages is not None:
            return self.sent >= self._job.messages
        return self.sent == END - 1 or self._enough()

    def _receive(self) -> None:
        choice = random.Random(f"{self._job.seed} receive {self._source.stream}")
        connection, take = self.connection, self.ledger.take
        buffer = bytearray(self._job.largest)
        more = True
        while more:
            way = choice.randrange(8)
            if way == 0:
                for message in connection.receive_many(choice.randrange(1, 40), PATIENCE):
                    more = take(message)
            elif way == 1:
                size = connection.receive_into(buffer, PATIENCE)
                more = take(bytes(buffer[:size]))
            elif way == 2:
                with connection.receive_view(PATIENCE) as lease:
                    more = take(bytes(lease))
            else:
                more = take(connection.receive(PATIENCE))


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

    def to_json(self) -> str:
        """For the other process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote."""
        read = json.loads(text)
        return cls(Tally(**read["tally"]), read["sent"], read["errors"])


def report(ends: list[End]) -> Report:
    """Waits for all ends, and adds up what they saw."""
    for end in ends:
        end.join()
    tally = sum((end.ledger.tally for end in ends), Tally())
    errors = [error for end in ends for error in end.errors]
    return Report(tally, sum(end.sent for end in ends), errors)
