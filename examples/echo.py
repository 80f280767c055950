"""A server that sends every message back, and a client: the least that there is to tcpconn.

    python examples/echo.py

Both run in this process here. In two, they need nothing but the same address.
"""

import tcpconn


def echo(connection: tcpconn.Connection) -> None:
    """Runs in a thread of its own for each connection, which is closed when this returns."""
    for message in connection:  # until the client closes
        connection.send(message)


def main() -> None:
    # Port 0 is any that is free; server.address says which.
    with (
        tcpconn.serve(echo, "127.0.0.1:0") as server,
        tcpconn.connect(server.address) as connection,
    ):
        for message in (b"hello", b"", b"x" * 1_000_000):
            connection.send(message)
            reply = connection.receive(timeout=5)
            print(f"sent {len(message)} bytes, received {len(reply)}: {reply == message}")


if __name__ == "__main__":
    main()
