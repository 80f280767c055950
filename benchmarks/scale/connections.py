"""`connections`: from one to a hundred thousand connections on one link."""

from __future__ import annotations

import itertools
import time
from typing import Any

from benchmarks.placement import apart
from benchmarks.scale.control import Control
from benchmarks.scale.measuring import (
    KILOBYTE,
    OPTIONS,
    SMALL,
    memory,
    ns_per_message,
    round_trip_ns,
)
from benchmarks.subjects.base import HOST, Announce

MANY = 10_000
"""Connections from which on memory, and the rate of opening, say something."""
ROUND_TRIPS = 400


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
    theirs = control.ask(do="accept", count=0, weigh=True)["memory"]
    ours = memory()

    started = time.perf_counter()
    control.say(do="accept", count=at, weigh=True)
    opened = [connect() for _ in range(at)]
    theirs_now = control.hear()["memory"]
    values = {}
    if at >= MANY:
        values["open_rate"] = at / (time.perf_counter() - started)
    if at >= MANY and ours:
        values["client_memory"] = (memory() - ours) / at
        values["server_memory"] = (theirs_now - theirs) / at

    index = at // 2
    one = opened[index]

    def exchange() -> None:
        one.send(SMALL)
        one.receive()

    control.say(do="echo", index=index, count=ROUND_TRIPS)
    with apart("client"):
        values["round_trip"] = round_trip_ns(exchange, ROUND_TRIPS)
    control.hear()

    def one_sends(count: int) -> None:
        control.say(do="take", index=index, count=count)
        send = one.send
        for _ in range(count):
            send(KILOBYTE)
        control.hear()

    values["one_sends"] = ns_per_message(one_sends, seconds, first=1000)
    sends = [connection.send for connection in opened]

    def all_send(count: int) -> None:
        control.say(do="take_from_each", rounds=count // at)
        for send in itertools.islice(itertools.cycle(sends), count):
            send(KILOBYTE)
        control.hear()

    values["all_send"] = ns_per_message(all_send, seconds, first=at)

    def churn(count: int) -> None:
        control.say(do="churn", count=count)
        for _ in range(count):
            with connect() as connection:
                connection.send(SMALL)
        control.hear()

    values["churn_rate"] = 1e9 / ns_per_message(churn, seconds, first=50)
    return values
