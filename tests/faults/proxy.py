"""The fault proxy: stands between clients and a server, and breaks their links by a plan.

One thread carries all bytes. It runs in the process of a test (`Proxy`), or in one of its own
(`python -m faults.proxy`, `ProxyProcess`), where it takes no time from those whom it carries for.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import errno
import heapq
import json
import os
import queue
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from faults.observer import Observer, OnFrame
from faults.plan import (
    BREAKS,
    DELAY,
    DROP,
    FIN,
    FLIP,
    FREEZE,
    REFUSE,
    RST,
    SPLIT,
    WAYS,
    Fault,
    Plan,
    Profile,
)
from support import PATIENCE

READ = 1 << 18
HELD_MOST = 1 << 20
"""Bytes of a way that the proxy holds before it stops reading."""
FOREVER = float("inf")

LINGER_OFF = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""For SO_LINGER: closing sends a reset."""

GONE = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN, errno.ETIMEDOUT}
IGNORED = (BlockingIOError, InterruptedError)


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that the proxy did or saw. Times are those of `time.monotonic`."""

    time: float
    what: str
    """A kind of fault; or link, refused (the server took no link), open (the handshake or the
    resume is through), first message (the first one after that), end (neither side broke it)."""
    link: int
    way: str = ""
    offset: int = 0
    """Bytes of this way that had passed."""
    phase: str = ""


class Way:
    """One direction of a link."""

    def __init__(self, link: Link, index: int, source: socket.socket, sink: socket.socket) -> None:
        self.link = link
        self.index = index
        self.name = WAYS[index]
        self.source, self.sink = source, sink
        self.taken = 0
        """Bytes passed on or dropped, and so the offset of the next one."""
        self.sends = 0
        """How often something was passed on."""
        self.held: collections.deque[tuple[float, memoryview]] = collections.deque()
        """What was read and is still to be passed on, and from when on it may be."""
        self.held_bytes = 0
        self.faults: list[Fault] = []
        """Those at an offset, the next one last."""
        self.frozen_until = 0.0
        self.late = self.late_left = 0.0
        self.single_left = 0
        self.dropping = False
        self.full = False
        """The sink takes no more for now."""
        self.ended = ""
        """How the source ended: "fin" or "rst"."""
        self.passed_end = False

    @property
    def wants_read(self) -> bool:
        return not self.ended and not self.frozen and self.held_bytes < HELD_MOST

    @property
    def frozen(self) -> bool:
        return self.frozen_until > 0

    def read(self, now: float) -> None:
        """Takes what the source has."""
        try:
            data = self.source.recv(READ)
        except IGNORED:
            return
        except OSError:
            self.ended = RST
            return
        if not data:
            self.ended = self.ended or FIN
            return
        self.held.append((self.due(now, len(data)), memoryview(data)))
        self.held_bytes += len(data)

    def write(self, now: float) -> None:
        """Passes on what may go now, and lets the faults strike on the way there."""
        while not self.frozen and not self.link.over:
            fault = self.faults[-1] if self.faults else None
            if fault and fault.at == self.taken and (self.held or fault.kind != FLIP):
                self.faults.pop()
                self.link.strike(fault, self)
                continue
            if not self.held:
                return
            due, data = self.held[0]
            if due > now:
                self.link.move_at(due)
                return
            most = len(data)
            if fault:
                assert fault.at is not None
                most = min(most, fault.at - self.taken)
            if self.single_left:
                most = 1
            count = self._pass(data[:most])
            if count == 0:
                return
            self.held_bytes -= count
            if count == len(data):
                self.held.popleft()
            else:
                self.held[0] = (due, data[count:])
            if self.single_left:
                self.single_left -= 1
                if self.held:
                    self.link.move_at(now)
                    return

    def delay(self, seconds: float, length: int) -> None:
        """From here on, so many bytes (0: all) come so much later."""
        self.late = seconds
        self.late_left = float(length or FOREVER)
        now = time.monotonic()
        self.held = collections.deque((self.due(now, len(data)), data) for _, data in self.held)

    def due(self, now: float, length: int) -> float:
        """When bytes that have just come may go on."""
        if self.late_left <= 0:
            return 0.0
        self.late_left -= length
        return now + self.late

    def _pass(self, data: memoryview) -> int:
        if self.dropping or self.full:
            count = len(data) if self.dropping else 0
        else:
            try:
                count = self.sink.send(data)
            except IGNORED:
                self.full = True
                return 0
            except OSError as error:
                # Whoever reads from this socket will see its end, but perhaps not how it ended.
                if error.errno in GONE:
                    self.link.ways[1 - self.index].ended = RST
                self.dropping = True
                return 0 if not data else self._pass(data)
            self.sends += 1
            self.link.observer.ways[self.index].feed(data[:count])
        self.taken += count
        return count


class Link:
    """A client's socket and the server's, and the faults that are still to come."""

    def __init__(
        self, proxy: Proxy, number: int, client: socket.socket, server: socket.socket
    ) -> None:
        self.proxy = proxy
        self.number = number
        self.over = False
        self.ending = False
        """An end of stream was sent both ways, and what still comes is thrown away."""
        self.observer = Observer(
            number, proxy.opening, proxy.on_frame("up", number), proxy.on_frame("down", number)
        )
        self.ways = (Way(self, 0, client, server), Way(self, 1, server, client))
        self.sockets = (client, server)
        self.interest: dict[socket.socket, int] = {}
        self.opened = self.first_message = False
        self.moves_at = FOREVER
        for fault in proxy.plan.faults(number):
            if fault.at is None:
                assert fault.after is not None
                self.later(fault)
            else:
                self.ways[WAYS.index(fault.way)].faults.append(fault)
        for way in self.ways:
            way.faults.sort(key=lambda fault: fault.at or 0)
            way.faults.reverse()

    def later(self, fault: Fault) -> None:
        """A fault that comes by the clock."""
        way = self.ways[WAYS.index(fault.way)]
        assert fault.after is not None
        self.proxy.at(time.monotonic() + fault.after, lambda: self.strike_and_move(fault, way))

    def strike_and_move(self, fault: Fault, way: Way) -> None:
        """A fault outside of `move`."""
        if not self.over:
            self.strike(fault, way)
            self.move()

    def strike(self, fault: Fault, way: Way) -> None:
        """Lets a fault happen here and now."""
        self.proxy.tell(fault.kind, self, way)
        kind = fault.kind
        seconds = FOREVER if fault.seconds is None else fault.seconds
        if kind == FREEZE:
            way.frozen_until = time.monotonic() + seconds
            if seconds < FOREVER:
                self.proxy.at(way.frozen_until, lambda: self.thaw(way))
        elif kind == DELAY:
            way.delay(seconds, fault.length)
        elif kind == SPLIT:
            way.single_left = fault.length
        elif kind == DROP:
            way.dropping = True
        elif kind == FLIP:
            self._flip(way, fault.bit)
        elif kind == FIN:
            self.end_both()
        else:
            if kind == REFUSE:
                self.proxy.refuse(seconds)
            self.close(reset=True)

    @staticmethod
    def _flip(way: Way, bit: int) -> None:
        due, data = way.held[0]
        changed = bytearray(data)
        changed[0] ^= 1 << bit
        way.held[0] = (due, memoryview(changed))

    def thaw(self, way: Way) -> None:
        """A freeze is over."""
        way.frozen_until = 0.0
        self.move()

    def end_both(self) -> None:
        """An end of stream both ways, as if both sides had closed."""
        self.ending = True
        for way in self.ways:
            way.held.clear()
            way.held_bytes = 0
            way.faults.clear()
            way.frozen_until = 0.0
            way.dropping = True
            with contextlib.suppress(OSError):
                way.sink.shutdown(socket.SHUT_WR)
            way.passed_end = True

    def move_at(self, when: float) -> None:
        """Moves on at a time."""
        if when < self.moves_at:
            self.moves_at = when
            self.proxy.at(when, self._move_then)

    def _move_then(self) -> None:
        self.moves_at = FOREVER
        self.move()

    def move(self) -> None:
        """Carries what can be carried now."""
        if self.over:
            return
        now = time.monotonic()
        for way in self.ways:
            way.write(now)
            if self.over:
                return
        self._look()
        for way in self.ways:
            if way.ended and not way.held and not way.frozen and not way.passed_end:
                if way.ended == RST:
                    self.proxy.tell("end", self, way)
                    self.close(reset=True)
                    return
                way.passed_end = True
                with contextlib.suppress(OSError):
                    way.sink.shutdown(socket.SHUT_WR)
        if all(way.passed_end and way.ended for way in self.ways):
            if not self.ending:
                self.proxy.tell("end", self, self.ways[0])
            self.close(reset=False)
            return
        self._watch()

    def _look(self) -> None:
        """Says when the link was opened, and when the first message after that had passed."""
        if not self.opened and self.observer.open:
            self.opened = True
            self.proxy.tell("open", self, self.ways[1])
        if self.opened and not self.first_message:
            up, down = self.observer.ways
            if up.messages or down.messages:
                self.first_message = True
                self.proxy.tell("first message", self, self.ways[0 if up.messages else 1])

    def _watch(self) -> None:
        """Asks the selector for what is of interest now."""
        for index, sock in enumerate(self.sockets):
            source, sink = self.ways[index], self.ways[1 - index]
            interest = selectors.EVENT_READ if source.wants_read else 0
            if sink.full and sink.held and not sink.frozen:
                interest |= selectors.EVENT_WRITE
            if interest == self.interest.get(sock, 0):
                continue
            if not self.interest.get(sock):
                self.proxy.selector.register(sock, interest, (self, index))
            elif interest:
                self.proxy.selector.modify(sock, interest, (self, index))
            else:
                self.proxy.selector.unregister(sock)
            self.interest[sock] = interest

    def ready(self, index: int, events: int) -> None:
        """One of the sockets can be read or written."""
        if self.over:
            return
        if events & selectors.EVENT_WRITE:
            self.ways[1 - index].full = False
        if events & selectors.EVENT_READ:
            way = self.ways[index]
            if way.wants_read:
                way.read(time.monotonic())
        self.move()

    def close(self, *, reset: bool) -> None:
        """Lets go of both sockets."""
        if self.over:
            return
        self.over = True
        for sock in self.sockets:
            if self.interest.get(sock):
                self.proxy.selector.unregister(sock)
            if reset:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_OFF)
            sock.close()
        self.proxy.links.pop(self.number, None)


class Proxy:
    """Carries links between whoever connects to `address` and the server at `target`.

    A context manager. `on_frame` is called in the proxy's thread for each frame that has passed
    whole, with way, link number, frame and length; `on_event` for each event.
    """

    def __init__(
        self,
        target: str,
        plan: Plan | None = None,
        *,
        on_frame: Callable[..., None] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        host, port = target.rsplit(":", 1)
        self.target = (host, int(port))
        self.plan = Plan() if plan is None else plan
        self.opening = (self.plan.profile or Profile()).opening
        self.events: list[Event] = []
        self.links: dict[int, Link] = {}
        self.selector = selectors.DefaultSelector()
        self._on_frame, self._on_event = on_frame, on_event
        self._changed = threading.Condition()
        self._counts: collections.Counter[str] = collections.Counter()
        self._next = 0
        self._times: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._near, self._far = socket.socketpair()
        self._listening: socket.socket | None = self._listen(0)
        port = self._listening.getsockname()[1]
        self._port = port
        self.address = f"127.0.0.1:{port}"
        self._stopping = False
        for sock in (self._near, self._far):
            sock.setblocking(False)
        self.selector.register(self._far, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._error: BaseException | None = None
        self._thread.start()

    # What tests ask for, from any thread

    def strike(self, kind: str, *, way: str | None = None, **fault: Any) -> None:
        """Lets a fault strike all links there are, now, and returns when it has."""

        def do() -> None:
            self._strike_all(kind, way, fault)

        self._call(do)

    def _strike_all(self, kind: str, way: str | None, fields: dict[str, Any]) -> None:
        for link in list(self.links.values()):
            for each in link.ways:
                if way in (None, each.name) and not link.over:
                    link.strike_and_move(Fault(kind, each.name, after=0, **fields), each)
                    if kind in BREAKS:
                        break

    def thaw(self) -> None:
        """Ends all freezes."""

        def do() -> None:
            for link in list(self.links.values()):
                for way in link.ways:
                    if way.frozen:
                        link.thaw(way)

        self._call(do)

    def refuse_links(self, seconds: float) -> None:
        """Refuses new links for a while."""
        self._call(lambda: self.refuse(seconds))

    def count(self, what: str) -> int:
        """How many events of this kind there were."""
        with self._changed:
            return self._counts[what]

    def wait(self, what: str, count: int = 1) -> None:
        """Waits until there were so many events of this kind."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._counts[what] >= count or self._error is not None, PATIENCE
            ):
                raise AssertionError(f"no {count} events {what!r}, but {dict(self._counts)}")
        self._check()

    def close(self) -> None:
        """Resets all links and ends the thread."""
        self._stopping = True
        self._wake()
        self._thread.join(PATIENCE)
        self._check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and self.plan.profile is not None:
            error.add_note(f"the plan: {self.plan.to_json()}")
        self.close()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._near.send(b"!")

    def _call(self, function: Callable[[], None]) -> None:
        done = threading.Event()

        def do() -> None:
            try:
                function()
            finally:
                done.set()

        self._calls.put(do)
        self._wake()
        if not done.wait(PATIENCE):
            raise AssertionError("the proxy does not answer")
        self._check()

    # In the proxy's thread

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Calls a function at a time."""
        self._order += 1
        heapq.heappush(self._times, (when, self._order, what))

    def on_frame(self, way: str, link: int) -> OnFrame | None:
        """What an observer calls."""
        call = self._on_frame
        return call and (lambda frame, length: call(way, link, frame, length))

    def tell(self, what: str, link: Link | None = None, way: Way | None = None) -> None:
        """Notes an event."""
        if link is None:
            event = Event(time.monotonic(), what, self._next)
        else:
            phase = link.observer.phase
            name, offset = ("", 0) if way is None else (way.name, way.taken)
            event = Event(time.monotonic(), what, link.number, name, offset, phase)
        with self._changed:
            self.events.append(event)
            self._counts[what] += 1
            self._changed.notify_all()
        if self._on_event is not None:
            self._on_event(event)

    def refuse(self, seconds: float) -> None:
        """Takes no links for so long."""
        if self._listening is None:
            return
        self.selector.unregister(self._listening)
        self._listening.close()
        self._listening = None
        self.at(time.monotonic() + seconds, self._listen_again)

    def _listen_again(self) -> None:
        try:
            self._listening = self._listen(self._port)
        except OSError:  # somebody else has the port for the moment
            self.at(time.monotonic() + 0.01, self._listen_again)
        else:
            self.selector.register(self._listening, selectors.EVENT_READ, self._accept)

    @staticmethod
    def _listen(port: int) -> socket.socket:
        sock = socket.create_server(("127.0.0.1", port), backlog=128)
        sock.setblocking(False)
        return sock

    def _accept(self) -> None:
        assert self._listening is not None
        try:
            client, _ = self._listening.accept()
        except OSError:
            return
        number = self._next
        self._next += 1
        try:
            server = socket.create_connection(self.target, PATIENCE)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_OFF)
            client.close()
            self.tell("refused")
            return
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(self, number, client, server)
        self.links[number] = link
        self.tell("link", link)
        link.move()

    def _run(self) -> None:
        try:
            assert self._listening is not None
            self.selector.register(self._listening, selectors.EVENT_READ, self._accept)
            while not self._stopping:
                self._turn()
        except BaseException as error:  # noqa: BLE001  - it is raised where somebody waits
            self._error = error
        finally:
            for link in list(self.links.values()):
                link.close(reset=True)
            for sock in (self._listening, self._near, self._far):
                if sock is not None:
                    sock.close()
            self.selector.close()
            with self._changed:
                self._changed.notify_all()

    def _turn(self) -> None:
        timeout = None
        if self._times:
            timeout = max(0.0, self._times[0][0] - time.monotonic())
        for key, events in self.selector.select(timeout):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._far.recv(4096)
            elif isinstance(key.data, tuple):
                link, index = key.data
                link.ready(index, events)
            else:
                key.data()
        now = time.monotonic()
        due = []
        while self._times and self._times[0][0] <= now:
            due.append(heapq.heappop(self._times)[2])
        for call in due:
            call()
        with contextlib.suppress(queue.Empty):
            while True:
                self._calls.get_nowait()()


class ProxyProcess:
    """A proxy in a process of its own: the same events, no frames. A context manager."""

    def __init__(
        self, target: str, plan: Plan, on_event: Callable[[Event], None] | None = None
    ) -> None:
        command = [sys.executable, "-P", "-m", "faults.proxy", target, plan.to_json()]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.plan = plan
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        self.events: list[Event] = []
        self._on_event = on_event
        self._reader = threading.Thread(target=self._read, name="fault-proxy-events", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for event in self._said():
            self.events.append(event)
            if self._on_event is not None:
                self._on_event(event)

    def _said(self) -> Iterator[Event]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield Event(**json.loads(line))

    def close(self) -> None:
        """Ends the process, once all its events are here."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
        self._reader.join(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"the plan: {self.plan.to_json()}")
        self.close()


def main() -> None:
    """Runs until standard input ends; events go to standard output, a line of JSON each."""
    parser = argparse.ArgumentParser(description="Carry links to a server, and break them.")
    parser.add_argument("target", help="host:port of the server")
    parser.add_argument("plan", help="as JSON")
    given = parser.parse_args()

    def say(event: Event) -> None:
        print(json.dumps(dataclasses.asdict(event)), flush=True)

    with Proxy(given.target, Plan.from_json(given.plan), on_event=say) as proxy:
        print(proxy.address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
