"""The pool: the multiplexers a process holds, by address."""

from __future__ import annotations

import atexit
import dataclasses
import os
import threading
import time
import uuid
from types import TracebackType
from typing import Any, Self

from tcpconn._process import generation
from tcpconn.addresses import Address, parse_address
from tcpconn.connection import Connection
from tcpconn.dialling import LONGEST_WAIT
from tcpconn.errors import ConnectionClosed, OptionError, Timeout
from tcpconn.multiplexer import Multiplexer
from tcpconn.options import Options, as_arguments, make_options

EXIT_SECONDS = 2.0
"""How long the default pool may take at the interpreter's exit to hand over what was sent."""

REDIALS = 8
"""Links that may turn out to be closing before `connect` gives up on such a peer."""

ASKED_MOST = 256
"""Addresses and options, as they were asked for, that a pool knows again."""


@dataclasses.dataclass(frozen=True, slots=True)
class PoolStats:
    """A pool's counters at one moment."""

    addresses: int
    links: int
    connections: int
    dialled: int
    """Links made since the pool was."""
    reused: int
    """Connections that needed no new link."""


_Asked = tuple[Any, frozenset[tuple[str, type[Any], Any]]]


_NO_OPTIONS: frozenset[Any] = frozenset()


def _as_asked(address: Any, options: dict[str, Any]) -> _Asked:
    """What finds out whether the same was asked for before."""
    # With its type: True is no number to us, and yet equal to 1.
    return address, frozenset((name, type(value), value) for name, value in options.items())


class _Place:
    """The links to one address with one set of options.

    Its lock is held while one is dialled, so that those who come meanwhile share it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.multiplexers: list[Multiplexer] = []
        self.reused = 0

    def live(self) -> list[Multiplexer]:
        self.multiplexers = [m for m in self.multiplexers if m.takes_connections]
        return self.multiplexers


class ConnectionPool:
    """Shares links between connections to the same address. Thread-safe; a context manager.

    `links_per_address`: links made before connections share one. Options (see `Options`) are the
    default for `connect`. A link without connections is closed after `idle_timeout`. After a fork
    the child starts with none.
    """

    def __init__(self, *, links_per_address: int = 1, **options: Any) -> None:
        links: Any = links_per_address
        if not isinstance(links, int) or links < 1:
            raise OptionError(f"links_per_address={links!r} is not a number from 1 on")
        self._links_per_address = links
        self._defaults = dict(options)
        self._options = make_options(self._defaults)
        self._begin()

    def _begin(self) -> None:
        self._generation = generation()
        self._lock = threading.Lock()
        self._places: dict[tuple[Address, Options], _Place] = {}
        self._asked: dict[_Asked, tuple[_Place, Address, Options]] = {}
        self._closed = False
        self._dialled = 0

    def connect(
        self,
        address: Any,
        id: uuid.UUID | None = None,
        *,
        priority: int | None = None,
        timeout: float | None = 10.0,
        **options: Any,
    ) -> Connection:
        """Opens the connection named `id` (a new one without) over a pooled link to `address`.

        `timeout` in seconds bounds dialling and the handshake. Raises `AddressError`,
        `ResolveError`, `ConnectError` (`TlsError`, `CertificateError` and `AuthenticationError` are
        such), `Timeout`, `NotTcpconn`, `VersionMismatch`, `ProtocolError` or `OptionError`; it
        tries once and does not loop.
        """
        connection: Connection = self.connect_as(
            Connection, address, id, priority, timeout, options
        )
        return connection

    def connect_as(
        self,
        kind: type[Any],
        address: Any,
        id: uuid.UUID | None,
        priority: int | None,
        timeout: float | None,
        options: dict[str, Any],
    ) -> Any:
        """The same, as an object of another class."""
        place, target, chosen = self._place(address, options)
        multiplexer = self._ready(place)
        deadline = None if timeout is None else time.monotonic() + timeout
        for _ in range(REDIALS):
            if multiplexer is None:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                multiplexer = self._choose(place, target, chosen, left)
            try:
                return multiplexer.open_as(kind, id, priority)
            except (ConnectionError, Timeout):
                if multiplexer.takes_connections:
                    raise  # the connection is the trouble, not the link
            multiplexer = None
        raise ConnectionClosed(f"{target} closes each link as soon as it is open")

    def _place(self, address: Any, options: dict[str, Any]) -> tuple[_Place, Address, Options]:
        if self._generation != generation():
            self._begin()
        if self._closed:
            raise ConnectionClosed("this pool is closed")
        # What was asked for in the same words is known: most pools hear few.
        asked: _Asked | None
        try:
            asked = _as_asked(address, options) if options else (address, _NO_OPTIONS)
            known = self._asked.get(asked)
        except TypeError:  # some value has no hash
            asked, known = None, None
        if known is not None:
            return known
        target = parse_address(address)
        chosen = make_options({**self._defaults, **options}) if options else self._options
        with self._lock:
            place = self._places.setdefault((target, chosen), _Place())
            if len(self._asked) >= ASKED_MOST:
                self._asked.clear()
            if asked is not None:
                self._asked[asked] = place, target, chosen
        return place, target, chosen

    def ready(self, address: Any, options: dict[str, Any]) -> Multiplexer | None:
        """The link that `connect` would use, if it would neither dial nor wait. Does not wait."""
        place, _, _ = self._place(address, options)
        return self._ready(place)

    def _ready(self, place: _Place) -> Multiplexer | None:
        if not place.lock.acquire(blocking=False):
            return None
        try:
            links = place.multiplexers
            if len(links) == self._links_per_address == 1:
                best: Multiplexer | None = links[0]
            else:
                best = self._best(place)
            # That its peer is going away may have come and not been read yet.
            if best is None or not best.key.poll():
                return None
            place.reused += 1
            return best
        finally:
            place.lock.release()

    def _best(self, place: _Place) -> Multiplexer | None:
        """A link that need not be made, under the place's lock."""
        live = place.live()
        if not live:
            return None
        best = live[0] if len(live) == 1 else min(live, key=lambda m: m.connection_count)
        if len(live) < self._links_per_address and best.connection_count > 0:
            return None
        return best

    def _choose(
        self, place: _Place, target: Address, options: Options, timeout: float | None
    ) -> Multiplexer:
        """A live link with the fewest connections; a new one while there are fewer than allowed."""
        started = time.monotonic()
        # Whoever comes while another thread dials waits no longer than it would for its own.
        if not place.lock.acquire(timeout=-1 if timeout is None else min(timeout, LONGEST_WAIT)):
            raise Timeout(f"no connection to {target} within {timeout:.3g} s: still being dialled")
        try:
            best = self._best(place)
            if best is not None:
                best.key.poll()
                if best.detached:
                    left = None if timeout is None else timeout - (time.monotonic() - started)
                    best.wait_attached(left)
                if best.takes_connections:
                    place.reused += 1
                    return best
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
            multiplexer = Multiplexer(target, timeout=left, **as_arguments(options))
            multiplexer.let_go_when_idle()
            place.multiplexers.append(multiplexer)
        finally:
            place.lock.release()
        with self._lock:
            self._dialled += 1
            closed = self._closed
        if closed:
            multiplexer.close(0)
            raise ConnectionClosed("this pool is closed")
        return multiplexer

    @property
    def multiplexers(self) -> list[Multiplexer]:
        """Those with a link that is up."""
        with self._lock:
            places = list(self._places.values())
        return [m for place in places for m in list(place.multiplexers) if not m.closed]

    def stats(self) -> PoolStats:
        """The pool's counters now. Thread-safe, never waits."""
        multiplexers = self.multiplexers
        with self._lock:
            reused = sum(place.reused for place in self._places.values())
        return PoolStats(
            addresses=len({m.peer_address for m in multiplexers}),
            links=len(multiplexers),
            connections=sum(m.connection_count for m in multiplexers),
            dialled=self._dialled,
            reused=reused,
        )

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self, timeout: float | None = 5) -> None:
        """Closes all links, each as `Multiplexer.close` does, in `timeout` seconds together."""
        if self._generation != generation():
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._closed = True
            places = list(self._places.values())
        for place in places:
            for multiplexer in place.multiplexers:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                multiplexer.close(left)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(5 if kind is None else 0)

    def __repr__(self) -> str:
        if self._closed:
            return "<ConnectionPool closed>"
        numbers = self.stats()
        return (
            f"<ConnectionPool {numbers.links} links to {numbers.addresses} addresses, "
            f"{numbers.connections} connections>"
        )


_default: ConnectionPool | None = None
_making = threading.Lock()


def default_pool() -> ConnectionPool:
    """The process's pool, which `connect` uses. Made on first use, closed at exit."""
    global _default
    pool = _default
    if pool is not None and not pool._closed:
        return pool
    with _making:
        if _default is None or _default.closed:
            _default = ConnectionPool()
        return _default


@atexit.register
def _close_default() -> None:
    if _default is not None:
        _default.close(EXIT_SECONDS)


def _forget_in_child() -> None:
    global _default, _making
    _default = None
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def connect(
    address: Any,
    id: uuid.UUID | None = None,
    *,
    pool: ConnectionPool | None = None,
    priority: int | None = None,
    timeout: float | None = 10.0,
    **options: Any,
) -> Connection:
    """Opens a connection to `address`, over a link that all connections to it share.

    `address`: "host:port", "[::1]:port", (host, port) or "unix:/path". `id`: a `uuid.UUID`, a new
    one without; the peer may name the same one, and both meet. `pool`: the process's own without.
    `priority`: 0 (least) to 7. `timeout`: seconds for dialling and the handshake, None for no
    limit. Options: see `Options`.

    Raises `AddressError`, `ResolveError`, `ConnectError` (`TlsError`, `CertificateError` and
    `AuthenticationError` are such), `Timeout`, `NotTcpconn`, `VersionMismatch`, `ProtocolError` or
    `OptionError`. Thread-safe.
    """
    chosen = default_pool() if pool is None else pool
    connection: Connection = chosen.connect_as(Connection, address, id, priority, timeout, options)
    return connection
