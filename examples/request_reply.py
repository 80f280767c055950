"""Many threads ask a server at once, each on a connection of its own, all over one socket.

    python examples/request_reply.py

A connection costs no socket and no round trip, so each conversation can have its own: replies then
need no numbers to be told apart, and a slow one holds up nobody else.
"""

import json
import threading
import time

import tcpconn

THREADS = 8
REQUESTS = 500


def add(connection: tcpconn.Connection) -> None:
    for request in connection:
        numbers = json.loads(request)
        connection.send(json.dumps(sum(numbers)).encode())


def ask(address: str, start: int, wrong: list[int]) -> None:
    with tcpconn.connect(address) as connection:  # over the link that all of them share
        for number in range(start, start + REQUESTS):
            connection.send(json.dumps([number, 1]).encode())
            if json.loads(connection.receive(timeout=5)) != number + 1:
                wrong.append(number)


def main() -> None:
    wrong: list[int] = []
    with tcpconn.serve(add, "127.0.0.1:0") as server:
        threads = [
            threading.Thread(target=ask, args=(server.address, 1000 * index, wrong))
            for index in range(THREADS)
        ]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        pool = tcpconn.default_pool().stats()
    print(f"{THREADS * REQUESTS} requests from {THREADS} threads, {len(wrong)} wrong replies")
    print(f"sockets dialled: {pool.dialled}")
    print(f"{THREADS * REQUESTS / seconds:.0f} requests/s, client and server in one process")


if __name__ == "__main__":
    main()
