"""A server that is there to be killed: `python -m faults.mortal CONNECTIONS LOG LINK`.

It begins when it is told the address, on its standard input. Whatever it receives it writes down
at once, in a file that outlives it, and sends the number of it back.
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import tcpconn
from faults.ends import PATIENCE
from support import noise

HEAD = struct.Struct(">IQ")
"""Which connection, and the number of the message: how each begins, and what is written down."""

END = (1 << 64) - 1
"""The number of a message behind the last one."""

LARGEST = 100_000


def message(connection: int, number: int) -> bytes:
    """A message by its number: small ones, and now and then one that is cut into chunks."""
    step = (number * 7919 + connection * 104_729) % 1000
    size = 0 if number == END else int(LARGEST ** (step / 1000))
    return HEAD.pack(connection, number) + noise(size, number % 1000)


class Mortal:
    """The server's process, and what it has written down. `start` when it is to listen."""

    def __init__(self, log: Path, link: str) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "faults.mortal", str(log), link],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def start(self, address: str) -> str:
        """Lets it listen, and returns where."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(address, file=self._process.stdin, flush=True)
        told = self._process.stdout.readline().strip()
        if not told:
            raise AssertionError("the server did not start")
        return told

    def kill(self) -> None:
        """Ends it as `kill -9` does."""
        self._process.kill()
        self.wait()

    def wait(self) -> None:
        """Lets it end in order, unless it has been killed."""
        self._process.communicate(timeout=PATIENCE)

    def taken(self) -> dict[int, list[int]]:
        """The numbers of the messages that its program received, by connection, in order."""
        found: dict[int, list[int]] = {}
        for connection, number in HEAD.iter_unpack(self._log.read_bytes()):
            found.setdefault(connection, []).append(number)
        return found


def serve(connection: tcpconn.Connection, log: int) -> None:
    """Receives to the end."""
    with contextlib.suppress(tcpconn.ConnectionClosed, tcpconn.LinkLost):
        while True:
            received = connection.receive()
            number, at = HEAD.unpack_from(received)
            if received != message(number, at):
                raise AssertionError(f"message {at} of connection {number} is not what was sent")
            os.write(log, HEAD.pack(number, at))
            connection.send(HEAD.pack(number, at))


def main() -> None:
    """Listens until standard input ends."""
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    address = sys.stdin.readline().strip()
    with tcpconn.listen(address, link=sys.argv[2]) as listener:
        print(listener.address, flush=True)

        def accept() -> None:
            for connection in listener:
                threading.Thread(target=serve, args=(connection, log), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        sys.stdin.read()


if __name__ == "__main__":
    main()
