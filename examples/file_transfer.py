"""A file of any size in little memory: as a stream of messages, read and written in place.

    python examples/file_transfer.py            # a file made for the occasion
    python examples/file_transfer.py FILE       # one of yours, into a temporary directory

The first message says what comes, then come the contents, and the receiver answers with a digest of
what it has stored. No message is larger than CHUNK, so neither side ever holds more than a few.
`tcpconn send` and `tcpconn receive` do this on the command line, with all that it takes for real.
"""

import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import tcpconn

CHUNK = 1 << 20


def send_file(connection: tcpconn.Connection, path: Path) -> str:
    """Sends a file, and returns the digest that the receiver found."""
    connection.send(json.dumps({"name": path.name, "size": path.stat().st_size}).encode())
    buffer = bytearray(CHUNK)
    with path.open("rb") as file:
        while size := file.readinto(buffer):
            # What can change is copied before `send` returns: the buffer may be used again.
            connection.send(memoryview(buffer)[:size])
    return connection.receive(timeout=30).decode()


def receive_file(connection: tcpconn.Connection, directory: Path) -> None:
    """Stores a file under the name, without its directories, that the sender gives it."""
    header = json.loads(connection.receive(timeout=30))
    digest = hashlib.sha256()
    left = header["size"]
    with (directory / Path(header["name"]).name).open("wb") as file:
        while left > 0:
            # The message where it lies in pooled memory, without a copy.
            with connection.receive_view(timeout=30) as lease, memoryview(lease) as chunk:
                digest.update(chunk)
                file.write(chunk)
                left -= len(chunk)
    connection.send(digest.hexdigest().encode())


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        inbox = Path(temporary, "inbox")
        inbox.mkdir()
        if len(sys.argv) > 1:
            path = Path(sys.argv[1])
        else:
            path = Path(temporary, "numbers")
            path.write_text("".join(f"{number}\n" for number in range(4_000_000)))
        size = path.stat().st_size
        with (
            tcpconn.serve(lambda peer: receive_file(peer, inbox), "127.0.0.1:0") as server,
            tcpconn.connect(server.address) as connection,
        ):
            began = time.perf_counter()
            digest = send_file(connection, path)
            seconds = time.perf_counter() - began
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == digest
        print(f"{path.name}: {size / 1e6:.1f} MB in {seconds:.2f} s")
        print("the receiver has stored the same" if same else "the receiver has stored another")
        sys.exit(not same)


if __name__ == "__main__":
    main()
