"""The link on Linux's own system calls. No call needs the GIL."""

import socket
from typing import Self

from tcpconn._link import Link, Poller

class NativeLink(Link):
    """A link that owns a Python socket and works on its descriptor."""

    def __new__(cls, sock: socket.socket) -> Self: ...

class EpollPoller(Poller):
    """Waits with epoll, each link armed for one event."""
