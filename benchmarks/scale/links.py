"""`links`: from one to a thousand clients of one listener, each with a link of its own."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from benchmarks.placement import apart
from benchmarks.scale.control import Control
from benchmarks.scale.measuring import (
    KILOBYTE,
    SocketChannel,
    allow_many_descriptors,
    memory,
)
from benchmarks.scale.opened import measure_opened
from benchmarks.subjects import framing
from benchmarks.subjects.base import HOST, Announce

MANY = 100
"""Links from which on memory, and the rate of opening, say something."""
MOST_LINKS = 4096
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

    # All of them come from here, which is more than one address has by default.
    with tcpconn.listen((HOST, 0), max_links_per_address=MOST_LINKS) as accepting:
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
    values, _ = measure_opened(connect, control, at, seconds, MANY)
    return values
