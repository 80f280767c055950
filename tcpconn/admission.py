"""How many links a listener takes, together and from one address; how many handlers are at work."""

from __future__ import annotations

import collections
import ipaddress
import socket
import threading
import weakref
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
        self._links: dict[str, weakref.WeakSet[socket.socket]] = {}
        self._count = 0

    def admit(self, sock: socket.socket, sockaddr: Any) -> str | None:
        """Counts a link, or says in words which limit stands against it."""
        name = origin(sockaddr)
        with self._lock:
            mine = self._links.setdefault(name, weakref.WeakSet())
            if name and len(mine) >= self.most_each and self._prune(name) >= self.most_each:
                return f"{self.most_each} links from {name} are up"
            if self._count >= self.most and self._recount() >= self.most:
                return f"{self.most} links are up"
            self._links.setdefault(name, mine).add(sock)
            self._count += 1
        return None

    def _prune(self, name: str) -> int:
        """Forgets the closed sockets of an address; how many are left."""
        mine = self._links[name]
        for sock in [sock for sock in mine if sock.fileno() < 0]:
            mine.discard(sock)
        return len(mine)

    def _recount(self) -> int:
        """The same for all addresses. `_count` is an upper bound between two recounts."""
        self._count = 0
        for name in list(self._links):
            left = self._prune(name)
            self._count += left
            if not left:
                del self._links[name]
        return self._count


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
