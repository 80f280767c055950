"""A hundred hostile peers at once: memory stays within the budget, and an honest client is served.

How fast it is served, this prints (`pytest -s`): it depends on the machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import tcpconn
from support import KIB, MIB, PATIENCE, noise

SECONDS = float(os.environ.get("TCPCONN_HOSTILE_SECONDS", "20"))
"""How long the client is served at least while they are at it."""

HANDLERS = 1000
BESIDE = 128 * KIB * (HANDLERS + 120)
"""What the budget does not count: a handler's thread, and what each link reads into."""

BUDGET = tcpconn.Options().receive_memory
"""What the server's links may hold together, by its own account: there are fewer than 512."""
CUT_OFF = {
    "credit_overflow",
    "garbage",
    "huge_sizes",
    "open_flood",
    "ping_flood",
    "reset_flood",
    "silent",
    "slow_handshake",
    "tiny_chunks",
}
"""Those who are sure to be cut off, sooner or later; others are only held back."""

SERVER = """
import sys, tcpconn
from tcpconn._buffer import block_pool

def echo(connection):
    for message in connection:
        connection.send(message)

with tcpconn.serve(echo, "127.0.0.1:0", link=sys.argv[1], max_handlers=int(sys.argv[2])) as server:
    print(server.address, flush=True)
    for _ in sys.stdin:
        print(block_pool().stats()["counted_bytes"], flush=True)
"""


def resident(process: subprocess.Popen[str]) -> int:
    """A process's memory now, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def counted(process: subprocess.Popen[str]) -> int:
    """What the server's links hold, by its own account, in bytes."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def start(*command: str) -> subprocess.Popen[str]:
    """A Python process that is talked to in lines."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-P", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


class Hostile:
    """The hundred, and which of them were cut off."""

    def __init__(self, address: str) -> None:
        self.process = start(str(Path(__file__).with_name("hostile.py")), address)
        self.said: list[str] = []
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.strip())

    def stop(self) -> None:
        """Lets them say how it was, and ends them."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._thread.join(PATIENCE)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is looked up in /proc")
def test_a_hundred_at_once(link: str) -> None:
    messages = [noise(size, seed) for seed, size in enumerate((0, 100, 1000, 200 * KIB))]
    with start("-c", SERVER, link, str(HANDLERS)) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            with tcpconn.ConnectionPool(link=link) as pool, pool.connect(address) as honest:
                for message in messages:
                    honest.send(message)
                    assert honest.receive(PATIENCE) == message
                before = resident(server)
                hostile = Hostile(address)
                try:
                    most, held = under_attack(hostile, honest, messages, server)
                finally:
                    hostile.stop()
                print(f"\n{hostile.said[-1]}")
                print(f"{(most - before) / MIB:.0f} MiB more, {held / MIB:.0f} MiB by its account")
                assert int(hostile.said[0]) >= 100
                assert held <= BUDGET
                # The account is true: there is no more than that, and what it says not to count.
                assert most - before < held + BESIDE
                # It was one link all the time, and new ones are taken as before.
                assert not honest.closed
                honest.send(b"still here")
                assert honest.receive(PATIENCE) == b"still here"
            with tcpconn.ConnectionPool(link=link) as pool, pool.connect(address) as another:
                another.send(b"and here")
                assert another.receive(PATIENCE) == b"and here"
        finally:
            server.kill()


def under_attack(
    hostile: Hostile,
    honest: tcpconn.Connection,
    messages: list[bytes],
    server: subprocess.Popen[str],
) -> tuple[int, int]:
    """Round trips until it has been long enough, and all who are to be cut off were. The most
    memory that the server had, and the most that its links held by its own account.
    """
    began = time.monotonic()
    most = held = 0
    trips: dict[int, list[float]] = {len(message): [] for message in messages}
    while time.monotonic() < began + SECONDS or not set(hostile.said) >= CUT_OFF:
        for message in messages:
            sent = time.perf_counter()
            honest.send(message, PATIENCE)
            assert honest.receive(PATIENCE) == message
            trips[len(message)].append(time.perf_counter() - sent)
        most = max(most, resident(server))
        held = max(held, counted(server))
        assert server.poll() is None
        assert hostile.process.poll() is None
        time.sleep(0.01)
    for size, took in trips.items():
        took.sort()
        middle, late = took[len(took) // 2] * 1e3, took[len(took) * 99 // 100] * 1e3
        print(f"\n{size} B, {len(took)} times: median {middle:.2f} ms, p99 {late:.2f} ms", end="")
    return most, held
