"""`connections`: from one to a hundred thousand connections on one link."""

from __future__ import annotations

from typing import Any

from benchmarks.placement import apart
from benchmarks.scale.control import Control
from benchmarks.scale.measuring import (
    OPTIONS,
    SMALL,
    memory,
    ns_per_message,
)
from benchmarks.scale.opened import measure_opened
from benchmarks.subjects.base import HOST, Announce

MANY = 10_000
"""Connections from which on memory, and the rate of opening, say something."""


class Server:
    """The side that accepts. Keeps all connections until the client is gone."""

    def __init__(self, listener: Any) -> None:
        self.listener = listener
        self.accepted: list[Any] = []

    def serve(self) -> None:
        """What the client asks for, in the order in which it does."""
        first = self.listener.accept()
        control = Control(first.send, first.receive)
        for command in control.commands():
            match command.pop("do"):
                case "accept":
                    self.accept(**command)
                case "echo":
                    self.echo(**command)
                case "take":
                    self.take(**command)
                case "take_from_each":
                    self.take_from_each(**command)
                case "churn":
                    self.churn(**command)
            control.say(memory=memory() if command.get("weigh") else 0)

    def accept(self, count: int, weigh: bool) -> None:
        """`count` connections, none for a first measurement of memory."""
        assert isinstance(weigh, bool)
        accept, keep = self.listener.accept, self.accepted.append
        for _ in range(count):
            keep(accept())

    def echo(self, index: int, count: int) -> None:
        """Sends so many messages back."""
        connection = self.accepted[index]
        with apart("server"):
            for _ in range(count):
                connection.send(connection.receive())

    def take(self, index: int, count: int) -> None:
        """Takes so many messages."""
        receive_many = self.accepted[index].receive_many
        while count > 0:
            count -= len(receive_many())

    def take_from_each(self, rounds: int) -> None:
        """A message from each connection, so many times."""
        for _ in range(rounds):
            for connection in self.accepted:
                connection.receive()

    def churn(self, count: int) -> None:
        """So many connections that say one message each."""
        for _ in range(count):
            with self.listener.accept() as connection:
                connection.receive()


def serve(_subject: str, announce: Announce) -> None:
    """One client."""
    import tcpconn

    with tcpconn.listen((HOST, 0), **OPTIONS) as listener:
        announce(int(listener.address.rpartition(":")[2]))
        Server(listener).serve()


def measure(_subject: str, port: int, at: int, seconds: float) -> dict[str, float]:
    """All that is measured with `at` connections open; each measurement takes about `seconds`."""
    import tcpconn

    address = f"{HOST}:{port}"

    def connect() -> Any:
        return tcpconn.connect(address, **OPTIONS)

    first = connect()
    control = Control(first.send, first.receive)
    values, opened = measure_opened(connect, control, at, seconds, MANY, weigh=True)

    def churn(count: int) -> None:
        control.say(do="churn", count=count)
        for _ in range(count):
            with connect() as connection:
                connection.send(SMALL)
        control.hear()

    values["churn_rate"] = 1e9 / ns_per_message(churn, seconds, first=50)
    del opened  # they were there all the time
    return values
