"""A dispatcher hands work to workers: as much as each can take, and what is urgent first.

    python examples/worker_pool.py

*Backpressure.* A worker's credit is how much work it is given ahead. The dispatcher has a thread
for each worker that sends it jobs from one common queue; `send` waits while that worker is behind,
and the others take what it would have got. Nobody counts jobs or measures loads.

*Priorities.* Urgent jobs have connections of their own, on the same links. They do not stand behind
the bulk that was sent before them, neither in a window nor on the wire.
"""

import queue
import threading
import time
from collections import Counter

import tcpconn

JOB = 16 << 10
AHEAD = 64 << 10
"""Bytes of jobs that a worker takes before it has done the first."""

BULK = 0
URGENT = 7
WORKERS = {"quick": 0.002, "slow": 0.020}
"""Seconds that a worker spends on a job."""


class Dispatcher:
    """Gives out jobs, and counts who has done how many."""

    def __init__(self) -> None:
        self.jobs: dict[int, queue.Queue[bytes | None]] = {
            BULK: queue.Queue(),
            URGENT: queue.Queue(),
        }
        self.done: Counter[tuple[str, int]] = Counter()
        self.ahead: Counter[str] = Counter()
        self.most_ahead: Counter[str] = Counter()
        self.waits: list[float] = []
        self.lock = threading.Lock()

    def feed(self, connection: tcpconn.Connection) -> None:
        """Runs for each connection of a worker. Its priority says which jobs are wanted there."""
        worker = connection.receive(timeout=5).decode()
        kind = connection.priority
        collector = threading.Thread(target=self.collect, args=(connection, worker, kind))
        collector.start()
        jobs = self.jobs[kind]
        while (job := jobs.get()) is not None:
            connection.send(job)
            with self.lock:
                self.ahead[worker] += kind == BULK
                self.most_ahead[worker] = max(self.most_ahead[worker], self.ahead[worker])
        jobs.put(None)  # for the next who asks
        connection.send(b"")
        collector.join()

    def collect(self, connection: tcpconn.Connection, worker: str, kind: int) -> None:
        for result in connection:
            with self.lock:
                self.done[worker, kind] += 1
                self.ahead[worker] -= kind == BULK
                if kind == URGENT:
                    self.waits.append(time.perf_counter() - float(result))


def work(connection: tcpconn.Connection, name: str, seconds: float) -> None:
    with connection:
        connection.send(name.encode())
        for job in connection:
            if not job:
                break  # no more work
            time.sleep(seconds)
            connection.send(job[:32].rstrip(b"\0"))


def run_worker(address: str, name: str, seconds: float) -> None:
    """A process of its own in real life, which is why it has a pool of its own here."""
    with tcpconn.ConnectionPool(connection_credit=AHEAD, max_connection_credit=AHEAD) as pool:
        bulk = pool.connect(address, priority=BULK)
        urgent = pool.connect(address, priority=URGENT)
        thread = threading.Thread(target=work, args=(urgent, name, 0.0))
        thread.start()
        work(bulk, name, seconds)
        thread.join()


def main() -> None:
    dispatcher = Dispatcher()
    jobs = 200
    for _ in range(jobs):
        dispatcher.jobs[BULK].put(b"bulk".ljust(JOB, b"\0"))
    dispatcher.jobs[BULK].put(None)
    with tcpconn.serve(dispatcher.feed, "127.0.0.1:0") as server:
        workers = [
            threading.Thread(target=run_worker, args=(server.address, name, seconds))
            for name, seconds in WORKERS.items()
        ]
        for worker in workers:
            worker.start()
        for _ in range(20):
            time.sleep(0.01)
            dispatcher.jobs[URGENT].put(str(time.perf_counter()).encode().ljust(JOB, b"\0"))
        dispatcher.jobs[URGENT].put(None)
        for worker in workers:
            worker.join()
    for name in WORKERS:
        print(
            f"{name}: {dispatcher.done[name, BULK]} bulk jobs, "
            f"at most {dispatcher.most_ahead[name]} sent ahead"
        )
    print(f"bulk jobs done: {sum(dispatcher.done[name, BULK] for name in WORKERS)} of {jobs}")
    wait = 1000 * sum(dispatcher.waits) / len(dispatcher.waits)
    print(f"urgent jobs done: {len(dispatcher.waits)}, {wait:.1f} ms after they came")


if __name__ == "__main__":
    main()
