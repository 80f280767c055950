"""The link through TLS: the standard library's SSL object, over another link that has the socket.

What the engine calls is not visible to Python: see `_link_tls.pxd`.
"""

import ssl
from typing import Self, final

from tcpconn._link import Link, Poller

@final
class TlsLink(Link):
    """A link on an `ssl.SSLObject` whose handshake is done, over a link that has the socket."""

    # `unsent`: ciphertext for the socket to go first; `begun`: all of it that came so far.

    under: Link
    """The link that has the socket."""

    def __new__(
        cls,
        under: Link,
        sslobject: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        unsent: bytes = b"",
        begun: bytes = b"",
    ) -> Self: ...

@final
class TlsPoller(Poller):
    """Waits for the links under its TLS links, and knows what those have already."""

    def __new__(cls, under: Poller) -> Self: ...
