"""Addresses: what users write, what sockets want, what messages show."""

from __future__ import annotations

import dataclasses
import functools
import re
import socket
from typing import Any

from tcpconn.errors import AddressError, ResolveError

FORMS = '"host:port", "[::1]:port", (host, port) or "unix:/path"'


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """A TCP host and port, or the path of a unix-domain socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(address: Any) -> Address:
    """What a user wrote, as an `Address`. Raises `AddressError`, which shows value and forms."""
    if isinstance(address, Address):
        return address
    if isinstance(address, str):
        return _parse_text(address)
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        if isinstance(host, str) and isinstance(port, int) and not isinstance(port, bool):
            return _checked(host, port, address)
    raise AddressError(f"{address!r} is no address; an address is {FORMS}")


@functools.lru_cache(maxsize=256)  # a pool's users name the same few again and again
def _parse_text(address: str) -> Address:
    if address.startswith("unix:"):
        path = address[len("unix:") :]
        if not path or "\0" in path:
            raise AddressError(f"{address!r} has no path; an address is {FORMS}")
        return Address(path=path)
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]*)):(\d+)", address)
    if not found:
        raise AddressError(f"{address!r} is no address; an address is {FORMS}")
    return _checked(found[1] or found[2] or "", int(found[3]), address)


def _checked(host: str, port: int, written: Any) -> Address:
    if not 0 <= port <= 65535:
        raise AddressError(f"{written!r}: port {port} is outside 0 … 65535")
    return Address(host=host, port=port)


def resolve(address: Address, *, passive: bool = False) -> list[tuple[int, Any]]:
    """Socket family and socket address for each way to reach `address`, best first."""
    if address.path:
        family = getattr(socket, "AF_UNIX", None)
        if family is None:
            raise AddressError(f"{address}: this platform has no unix-domain sockets")
        return [(family, address.path)]
    flags = socket.AI_PASSIVE if passive else 0
    host = address.host or (None if passive else "localhost")
    try:
        found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ResolveError(
            f"{address}: the host name {address.host!r} has no address: {reason}"
        ) from None
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def sockaddr_of(described: str) -> Any:
    """What `describe` has described, as far as it can be told: a host and a port, or ""."""
    try:
        address = parse_address(described)
    except AddressError:
        return ""
    return address.path or (address.host, address.port)


def describe(sockaddr: Any, fallback: str = "unnamed") -> str:
    """A socket's own address as a string that `connect` takes."""
    if isinstance(sockaddr, bytes):
        sockaddr = sockaddr.decode(errors="replace")
    if isinstance(sockaddr, str):
        return f"unix:{sockaddr}" if sockaddr else f"unix:{fallback}"
    if isinstance(sockaddr, tuple) and len(sockaddr) >= 2:
        return str(Address(host=str(sockaddr[0]), port=int(sockaddr[1])))
    return fallback
