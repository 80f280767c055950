"""A link's socket, and what waits for many of them: the portable implementation.

What the engine calls is not visible to Python: see `_link.pxd`.
"""

import socket as _socket
from typing import Any

class Link:
    """A non-blocking stream socket in use."""

    socket: _socket.socket
    """The socket that owns the descriptor."""

    @property
    def trouble(self) -> Exception | None:
        """What is wrong with it, where errno does not say it."""

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's, as `ssl.SSLSocket.getpeercert` gives it, if there was one to be checked."""

class StdlibLink(Link):
    """A link on a Python socket. Works wherever Python does, and takes the GIL for each call."""

    def __init__(self, sock: _socket.socket) -> None: ...

class Poller:
    """Waits for many links at once, for one thread."""

class StdlibPoller(Poller):
    """Waits with the standard library's selectors."""
