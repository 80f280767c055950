"""`threads`: from one to sixteen threads that send on one link."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.scale.control import Control
from benchmarks.scale.measuring import KILOBYTE, SocketChannel, ns_per_message
from benchmarks.subjects import framing
from benchmarks.subjects.base import HOST, Announce

Loop = Callable[[int], object]
"""Sends or takes so many messages."""


def together(loops: Sequence[Loop], count: int) -> None:
    """Runs all loops at once, a thread each, until all are done."""
    threads = [threading.Thread(target=loop, args=(count,), daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def take_from_all(connections: Sequence[Any], each: int) -> None:
    """Takes so many messages from each connection, by turns, what there is of them."""
    left = {connection.receive_many: each for connection in connections}
    while left:
        for receive_many in list(left):
            left[receive_many] -= len(receive_many())
            if not left[receive_many]:
                del left[receive_many]


def sending(send: Callable[[bytes], object]) -> Loop:
    """A plain loop of `send`."""

    def loop(count: int) -> None:
        for _ in range(count):
            send(KILOBYTE)

    return loop


def serve(subject: str, announce: Announce) -> None:
    """One client: its first connection says how many messages each of the others brings."""
    if subject == "raw_tcp":
        _serve_sockets(announce)
        return
    import tcpconn

    with tcpconn.listen((HOST, 0)) as listener:
        announce(int(listener.address.rpartition(":")[2]))
        first = listener.accept()
        control = Control(first.send, first.receive)
        connections = [listener.accept() for _ in range(control.hear()["connections"])]
        control.say(ready=True)
        for command in control.commands():
            # One thread: many would get into each other's way here, which is not what is measured.
            take_from_all(connections, command["each"])
            control.say(done=True)


def _serve_sockets(announce: Announce) -> None:
    listener = framing.listen(announce)
    first = SocketChannel(listener.accept()[0])
    control = Control(first.send, first.receive)
    threads = control.hear()["connections"]
    sock, _ = listener.accept()
    take = framing.taker(sock, len(KILOBYTE))
    control.say(ready=True)
    for command in control.commands():
        take(command["each"] * threads)
        control.say(done=True)


def measure(subject: str, port: int, at: int, seconds: float) -> dict[str, float]:
    """`at` threads send."""
    loops: list[Loop]
    if subject == "raw_tcp":
        first = SocketChannel(framing.dial(port))
        control = Control(first.send, first.receive)
        control.say(connections=at)
        loops = _socket_loops(port, at)
    else:
        import tcpconn

        address = f"{HOST}:{port}"
        main = tcpconn.connect(address)
        control = Control(main.send, main.receive)
        control.say(connections=at)
        loops = [sending(tcpconn.connect(address).send) for _ in range(at)]
    control.hear()

    def run(count: int) -> None:
        control.say(each=count // at)
        together(loops, count // at)
        control.hear()

    ns = ns_per_message(run, seconds, first=1000 * at)
    return {"message": ns, "throughput": len(KILOBYTE) * 1e3 / ns}


def _socket_loops(port: int, at: int) -> list[Loop]:
    channel = SocketChannel(framing.dial(port))
    lock = threading.Lock()

    def send(payload: bytes) -> None:
        with lock:
            channel.send(payload)

    return [sending(send) for _ in range(at)]
