"""Two services on one socket, each a connection that both sides name by its UUID.

    python examples/two_services.py

Whoever opens a UUID that the other side opens too meets it there, whichever came first: nobody has
to accept, or to say first what a connection is for. On the server's side this is an ordinary socket
that was accepted by other means; `wrap` gives further connections on the same one.
"""

import socket
import threading
import uuid

import tcpconn

SPELLING = uuid.UUID("5d2c6f0e-6a39-4f6f-9d1c-0f6d1a7f7a01")
COUNTING = uuid.UUID("5d2c6f0e-6a39-4f6f-9d1c-0f6d1a7f7a02")


def spell(connection: tcpconn.Connection) -> None:
    with connection:
        for word in connection:
            connection.send(b"-".join(bytes([letter]) for letter in word.upper()))


def count(connection: tcpconn.Connection) -> None:
    with connection:
        for word in connection:
            connection.send(str(len(word)).encode())


def serve(listener: socket.socket) -> None:
    sock, _ = listener.accept()
    threads = [
        threading.Thread(target=spell, args=(tcpconn.wrap(sock, SPELLING),)),
        threading.Thread(target=count, args=(tcpconn.wrap(sock, COUNTING),)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        address = listener.getsockname()
        with (
            tcpconn.connect(address, SPELLING) as spelling,
            tcpconn.connect(address, COUNTING) as counting,
        ):
            for word in (b"link", b"session"):
                spelling.send(word)
                counting.send(word)
                spelt = spelling.receive(timeout=5).decode()
                print(f"{spelt} has {int(counting.receive(timeout=5))} letters")
            print("on one link:", spelling.multiplexer is counting.multiplexer)
        server.join()


if __name__ == "__main__":
    main()
