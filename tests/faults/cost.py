"""What a break costs: `python -m faults.cost`.

How long it takes from a break to the next reply, for one connection that asks and is answered; and
how much of its throughput a stream keeps whose link breaks every second.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time

import tcpconn
from faults.plan import FIN, RST, Fault, Plan
from faults.proxy import Proxy, ProxyProcess
from faults.run import percentile
from support import PATIENCE, noise


def echo(connection: tcpconn.Connection) -> None:
    """Sends back what it receives, to the end."""
    with contextlib.suppress(tcpconn.ConnectionClosed):
        for message in connection:
            connection.send(message)


def sink(connection: tcpconn.Connection) -> None:
    """Receives, and says at the end how much it was."""
    total = 0
    while size := len(connection.receive()):
        total += size
    connection.send(total.to_bytes(8, "big"))
    connection.flush(PATIENCE)


def latencies(breaks: int, link: str) -> list[float]:
    """Seconds from each break to the first reply after it, in order of size."""
    found = []
    with (
        tcpconn.serve(echo, "127.0.0.1:0", link=link) as server,
        Proxy(server.address) as proxy,
        tcpconn.ConnectionPool(link=link) as pool,
    ):
        connection = pool.connect(proxy.address)
        stopping = threading.Event()
        replies: list[float] = []

        def ask() -> None:
            while not stopping.is_set():
                connection.send(b"x" * 100)
                connection.receive(PATIENCE)
                replies.append(time.monotonic())

        asking = threading.Thread(target=ask)
        asking.start()
        for number in range(breaks):
            proxy.strike(RST if number % 2 else FIN)
            proxy.wait("first message", number + 1)
            broke = [each.time for each in proxy.events if each.what in (FIN, RST)][-1]
            seen = len(replies)
            while len(replies) < seen + 20:
                time.sleep(0.001)
            found.append(next(each for each in replies if each > broke) - broke)
        stopping.set()
        asking.join()
        connection.close()
    return sorted(found)


def throughput(seconds: float, size: int, link: str, *, breaks: bool) -> float:
    """Bytes a second of a stream of messages of this size."""
    every = [[Fault(RST if number % 2 else FIN, after=1.0)] for number in range(int(seconds) + 9)]
    plan = Plan(links=every if breaks else ())
    with (
        tcpconn.serve(sink, "127.0.0.1:0", link=link) as server,
        ProxyProcess(server.address, plan) as proxy,
        tcpconn.ConnectionPool(link=link) as pool,
        pool.connect(proxy.address) as connection,
    ):
        message = noise(size)
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            connection.send(message, PATIENCE)
        connection.send(b"")
        total = int.from_bytes(connection.receive(PATIENCE), "big")
        return total / (time.monotonic() - began)


def measure(breaks: int, seconds: float, rounds: int, link: str) -> None:
    """Measures both, and prints them."""
    times = latencies(breaks, link)
    cuts = ", ".join(
        f"{word} {1000 * percentile(times, share):.2f}"
        for word, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    )
    print(f"ms from a break to the next reply: {cuts}, most {1000 * times[-1]:.2f}", flush=True)
    for size in (10_000, 1_000_000):
        for _ in range(rounds):
            whole = throughput(seconds, size, link, breaks=False)
            broken = throughput(seconds, size, link, breaks=True)
            print(
                f"{size:>9,} B: {whole / 1e6:6.0f} MB/s, with a break a second "
                f"{broken / 1e6:6.0f} MB/s: {broken / whole:.0%}",
                flush=True,
            )


def main() -> int:
    """Measures as much as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m faults.cost", description=__doc__)
    parser.add_argument("--breaks", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--link", default="auto")
    given = parser.parse_args()
    measure(given.breaks, given.seconds, given.rounds, given.link)
    return 0


if __name__ == "__main__":
    sys.exit(main())
