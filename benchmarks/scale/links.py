"""`links`: from one to a thousand clients of one listener, each with a link of its own."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable
from typing import Any

from benchmarks.placement import apart
from benchmarks.scale.control import Control
from benchmarks.scale.measuring import (
    KILOBYTE,
    SMALL,
    SocketChannel,
    allow_many_descriptors,
    memory,
    ns_per_message,
    round_trip_ns,
)
from benchmarks.subjects import framing
from benchmarks.subjects.base import HOST, Announce

MANY = 100
"""Links from which on memory, and the rate of opening, say something."""
ROUND_TRIPS = 400
BACKLOG = 1024
"""Sockets that wait to be accepted, as many as tcpconn's listener lets wait."""


class KilobyteChannel(SocketChannel):
    """Takes messages of 1 KiB with one system call: their size is known."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.view = memoryview(bytearray(framing.HEADER + len(KILOBYTE)))

    def receive_kilobyte(self) -> None:
        """The next message."""
        self.sock.recv_into(self.view, 0, socket.MSG_WAITALL)


def _taker(channel: Any) -> Callable[[], object]:
    """What takes a message of 1 KiB from a channel or a connection."""
    found: Callable[[], object] = getattr(channel, "receive_kilobyte", channel.receive)
    return found


def _serve(accept: Callable[[], Any]) -> None:
    first = accept()
    control = Control(first.send, first.receive)
    accepted: list[Any] = []
    for command in control.commands():
        weight = 0
        match command["do"]:
            case "accept":
                accepted += [accept() for _ in range(command["count"])]
                weight = memory()
            case "echo":
                channel = accepted[command["index"]]
                with apart("server"):
                    for _ in range(command["count"]):
                        channel.send(channel.receive())
            case "take":
                take = _taker(accepted[command["index"]])
                for _ in range(command["count"]):
                    take()
            case "take_from_each":
                takers = [_taker(channel) for channel in accepted]
                for _ in range(command["rounds"]):
                    for take in takers:
                        take()
        control.say(memory=weight)


def serve(subject: str, announce: Announce) -> None:
    """One client, the process that is, for all of its links."""
    allow_many_descriptors()
    if subject == "raw_tcp":
        listener = framing.listen(announce)
        listener.listen(BACKLOG)
        _serve(lambda: KilobyteChannel(listener.accept()[0]))
        return
    import tcpconn

    with tcpconn.listen((HOST, 0)) as accepting:
        announce(int(accepting.address.rpartition(":")[2]))
        _serve(accepting.accept)


def _connector(subject: str, port: int) -> Callable[[], Any]:
    if subject == "raw_tcp":
        return lambda: KilobyteChannel(framing.dial(port))
    import tcpconn

    # A connection keeps its multiplexer alive.
    return lambda: tcpconn.Multiplexer((HOST, port)).open()


def measure(subject: str, port: int, at: int, seconds: float) -> dict[str, float]:
    """All that is measured with `at` links; each measurement takes about `seconds`."""
    allow_many_descriptors()
    connect = _connector(subject, port)
    first = connect()
    control = Control(first.send, first.receive)
    theirs = control.ask(do="accept", count=0)["memory"]
    ours = memory()

    started = time.perf_counter()
    control.say(do="accept", count=at)
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
    sends = [channel.send for channel in opened]

    def all_send(count: int) -> None:
        control.say(do="take_from_each", rounds=count // at)
        for send in itertools.islice(itertools.cycle(sends), count):
            send(KILOBYTE)
        control.hear()

    values["all_send"] = ns_per_message(all_send, seconds, first=at)
    return values
