"""How many links a listener takes, together and from one address; how many handlers are at work."""

from __future__ import annotations

import collections
import functools
import ipaddress
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any

IPV6_PREFIX = 64
"""Bits that stand for one peer: whoever has a network of this size has all of its addresses."""


def origin(sockaddr: Any) -> str:
    """What counts as one address: an IPv4 address, an IPv6 network; "" where there is none."""
    if not isinstance(sockaddr, tuple) or len(sockaddr) < 2:
        return ""
    host = str(sockaddr[0]).partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    return host


class Admission:
    """Counts the links that are up, by the sockets that carry them. Thread-safe.

    A socket counts until it is closed: nobody has to say so. Peers without an address (on unix
    sockets) are bounded together only.
    """

    def __init__(self, most: int, most_each: int) -> None:
        self.most = most
        self.most_each = most_each
        self._lock = threading.Lock()
        self._places: dict[str, list[Callable[[], bool]]] = {}  # by address; whether they count
        self._count = 0

    def admit(self, sock: socket.socket, sockaddr: Any) -> str | None:
        """Counts a link, or says in words which limit stands against it."""
        name = origin(sockaddr)
        with self._lock:
            mine = self._places.get(name, ())
            if name and len(mine) >= self.most_each and self._prune(name) >= self.most_each:
                return f"all {self.most_each} places for links from {name} are taken"
            if self._count >= self.most and self._recount() >= self.most:
                return f"all {self.most} places for links are taken"
            self._add(name, functools.partial(_is_open, weakref.ref(sock)))
        return None

    def count(self, sockaddr: Any, counts: Callable[[], bool]) -> None:
        """Counts what a link from there has left, as if it were one, for as long as `counts`."""
        with self._lock:
            self._add(origin(sockaddr), counts)

    def _add(self, name: str, counts: Callable[[], bool]) -> None:
        self._places.setdefault(name, []).append(counts)
        self._count += 1

    def _prune(self, name: str) -> int:
        """Forgets what counts no more of an address; how many are left."""
        mine = self._places[name] = [counts for counts in self._places[name] if counts()]
        return len(mine)

    def _recount(self) -> int:
        """The same for all addresses. `_count` is an upper bound between two recounts."""
        self._count = 0
        for name in list(self._places):
            left = self._prune(name)
            self._count += left
            if not left:
                del self._places[name]
        return self._count


def _is_open(reference: weakref.ref[socket.socket]) -> bool:
    sock = reference()
    return sock is not None and sock.fileno() >= 0


SHARE = 4
"""What one link may have of the places that are free: this part of them."""


class Places:
    """Counts the handlers that are at work, together and by the links whose connections they serve:
    links that take all they can, however many, leave something. Thread-safe.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self._lock = threading.Lock()
        self._by_link: collections.Counter[object] = collections.Counter()

    def take(self, link: object) -> str | None:
        """Counts a handler, or says in words why there is none for this link."""
        with self._lock:
            share = max(1, (self.most - self.taken + self._by_link[link]) // SHARE)
            if self.taken >= self.most or self._by_link[link] >= share:
                return f"{self._by_link[link]} handlers of {self.taken} serve this link"
            self.taken += 1
            self._by_link[link] += 1
        return None

    def give_back(self, link: object) -> None:
        """One of a link's is done."""
        with self._lock:
            self.taken -= 1
            self._by_link[link] -= 1
            if self._by_link[link] <= 0:
                del self._by_link[link]
