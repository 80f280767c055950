"""Every limit and timeout, its default, its unit and its reason, in one frozen, checked record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tcpconn.errors import OptionError

if TYPE_CHECKING:  # quick to load, for who uses no TLS
    from ssl import SSLContext
    from uuid import UUID

KIB = 1 << 10
MIB = 1 << 20
_CEILING = 1 << 62
"""Sizes stay below this, so that sums of them fit 64 bits (PROTOCOL.md section 4)."""

LEAST_AUTHKEY = 16
"""Bytes of a key: who hears a proof can try keys on it for ever, so it must not be a word."""

LINKS = ("auto", "native", "stdlib")

MEMORY_FACTOR = 5
"""How much memory, in budgets, a session has at most for its credit: twice for blocks that are not
full, and half of the budget is anybody's who comes first."""


def message_cost(size: int, chunk: int = KIB) -> int:
    """The credit, in bytes, that a message of `size` takes at most (PROTOCOL.md section 7)."""
    return size + 64 * (size // chunk + 2)


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What a session and its link may use. All sizes in bytes, all times in seconds.

    Raises `OptionError`, which names the option, the value and the range, for anything out of
    range. Instances are immutable, hashable and thread-safe; `dataclasses.replace` makes a changed
    copy.
    """

    max_message_size: int = 16 * MIB
    """Largest message sent or taken. Bounds what one message can make either side hold."""

    max_frame_size: int = 256 * KIB
    """Largest payload of a frame that is taken. Senders use more than 64 KiB only on a link that
    nobody else wants to use and that takes it at once: what comes just then waits that long.
    """

    connection_credit: int = 256 * KIB
    """Unread bytes a new connection may hold: a few round trips' worth on a local network."""

    max_connection_credit: int = 16 * MIB
    """How far that may grow with use: 1 Gbit/s over 128 ms."""

    session_credit: int = 64 * MIB
    """Unread bytes that all connections of a session may hold together."""

    receive_memory: int = 1024 * MIB
    """Bytes that all sessions of the process may hold together, beside the 128 KiB that each reads
    into: unread and incomplete messages, connections, what is queued to be sent. From half of it
    on, they get equal parts of another quarter; of the last one, each has a 4096th for itself, and
    the rest is lent to who has begun a large message. Who has to wait is not read from, so that its
    peer waits too. A session looks at the budget that its own options name.
    """

    send_queue_size: int = 16 * MIB
    """Bytes queued or unacknowledged per session before `send` waits."""

    max_connections: int = 100_000
    """Connections open at once on one session."""

    max_unaccepted: int = 256
    """Connections opened by the peer that nobody has accepted yet; more are refused."""

    message_timeout: float = 30.0
    """Seconds that messages may stay incomplete without a byte of any of them coming, on a link
    that is alive; twice that on one that is silent, which the keepalive ends first. Senders take
    turns, so a byte of one says that they are at all of them.
    """

    reset_rate: float = 33.0
    """Connections a second that the peer may break off by RESET unasked, in the long run. What a
    connection costs here is done for nothing then. A tcpconn peer keeps to 25.
    """

    reset_burst: int = 1000
    """How many of these it may break off at once. A tcpconn peer keeps to 400."""

    ping_rate: float = 1.0
    """PINGs a second from the peer, in the long run, that no frame of a connection came before. A
    tcpconn peer keeps to 0.8 and what its keepalive needs, which it announces.
    """

    ping_burst: int = 10
    """How many of these at once. A tcpconn peer keeps to 8, and waits for each answer."""

    max_control_frames: int = 1000
    """Answers to the peer (refusals, RESETs that it asked for) that wait until it reads. While
    there are as many, nothing is taken from it: they cost it less to cause than us to keep.
    """

    handshake_timeout: float = 10.0
    """Seconds until the peer's HELLO or WELCOME must be here."""

    max_handshakes: int = 256
    """Links of a listener that have not said HELLO yet; beyond, the oldest is given up. An honest
    peer needs its place for a round trip."""

    max_handlers: int = 10_000
    """Threads, or tasks, that `serve` runs at once. A link may have a quarter of those that are
    free, so that many links which take all they can leave something; more are refused.
    """

    max_links: int = 4096
    """Links of a listener that are up at once, or have left something to be accepted; more are
    refused. Each holds 128 KiB to read into."""

    max_links_per_address: int = 256
    """Those from one IPv4 address or IPv6 network of 64 bits, so that one peer cannot take all."""

    idle_timeout: float = 30.0
    """Seconds a pooled link without connections is kept."""

    keepalive: float = 10.0
    """Seconds without a byte from the peer until it is asked for one; 0: never. Keeps the state of
    routers between the peers alive, too."""

    keepalive_timeout: float = 30.0
    """Seconds without a byte until the peer is taken for dead, and the link for lost; 0: never."""

    session_timeout: float = 60.0
    """Seconds a session is kept without a link. A server gives it up then; a client stops dialling,
    until its connections are used again. 0: a session ends with its link."""

    on_disconnect: str = "wait"
    """What sending and receiving do while there is no link: "wait" for the next one, or "fail" at
    once with `LinkLost`, which loses nothing and may be tried again."""

    on_state: Callable[[str, str], object] | None = None
    """Called with an event and a text for people: "lost", "resumed", "renewed" (the session was
    lost, and another one took its place), "expired". From one of the library's threads: it must not
    wait."""

    max_detached: int = 1024
    """Sessions without a link that a listener keeps; beyond, the oldest is given up."""

    max_detached_bytes: int = 256 * MIB
    """What they may hold together: messages not acknowledged, and not received."""

    busy_poll: float = 0.0
    """Seconds a receiver polls before it sleeps. Saves the wake-up, costs a core meanwhile."""

    link: str = "auto"
    """Which link class: "native" (Linux), "stdlib" (anywhere), "auto" for the best there is."""

    ssl: SSLContext | None = None
    """Through TLS, with this context: a client's where links are dialled, a server's where they are
    accepted. It says what is trusted, and whether the other side must show a certificate."""

    server_hostname: str | None = None
    """The name that the server's certificate must have, for a client; the address's host without.
    """

    authkey: bytes | None = dataclasses.field(default=None, repr=False)
    """A secret that both sides prove to have before all else: 16 random bytes or more, as
    `secrets.token_bytes(32)` makes them. It keeps strangers out; what follows is as open as without
    it, unless there is `ssl`."""

    authorize: Callable[[str, dict[str, Any] | None, UUID], object] | None = None
    """Asked about each connection that the peer opens, before it is accepted: the peer's address,
    its certificate (see `Multiplexer.peer_certificate`) and the connection's id. What is false, or
    an exception, refuses it. Runs in the handler's thread or task of `serve`, where a slow answer
    holds up nobody else; in that of `accept` otherwise. In `tcpconn.aio` it may be `async def`, and
    must be where it has to wait for anything: a function that blocks holds up its event loop. Not
    asked about an id that this side has opened itself."""

    def __post_init__(self) -> None:
        self._check_int("max_message_size", 64 * KIB, _CEILING)
        self._check_int("max_frame_size", 16 * KIB, MIB)
        self._check_int("connection_credit", 64 * KIB, _CEILING)
        self._check_int("max_connection_credit", self.connection_credit, _CEILING)
        # A session must have room for one message of the largest size, or it could never be sent.
        self._check_int("session_credit", max(MIB, message_cost(self.max_message_size)), _CEILING)
        # Else a session that is all alone might wait for memory that nobody else holds.
        self._check_int("receive_memory", MEMORY_FACTOR * self.session_credit, _CEILING)
        self._check_int("send_queue_size", 64 * KIB, _CEILING)
        self._check_int("max_connections", 1, 0xFFFFFFFF)
        self._check_int("max_unaccepted", 1, 0xFFFFFFFF)
        self._check_int("max_handshakes", 1, 0xFFFFFFFF)
        # Less than what tcpconn's senders keep to would end links of honest peers.
        self._check_number("reset_rate", 33.0, 1e9)
        self._check_int("reset_burst", 1000, 0xFFFFFFFF)
        self._check_number("ping_rate", 1.0, 1e9)
        self._check_int("ping_burst", 10, 0xFFFFFFFF)
        self._check_int("max_control_frames", 1, 0xFFFFFFFF)
        self._check_int("max_handlers", 1, 0xFFFFFFFF)
        self._check_int("max_links", 1, 0xFFFFFFFF)
        self._check_int("max_links_per_address", 1, 0xFFFFFFFF)
        self._check_seconds("message_timeout", 1e-3)
        self._check_seconds("handshake_timeout", 1e-3)
        self._check_seconds("idle_timeout", 0.0)
        self._check_seconds("keepalive", 0.0)
        self._check_seconds("keepalive_timeout", 0.0)
        self._check_seconds("session_timeout", 0.0)
        if 0 < self.keepalive_timeout <= self.keepalive:
            raise OptionError(
                f"keepalive_timeout={self.keepalive_timeout} is not longer than "
                f"keepalive={self.keepalive}: the peer would have no time to answer"
            )
        if self.on_disconnect not in ("wait", "fail"):
            raise OptionError(f"on_disconnect={self.on_disconnect!r} is neither 'wait' nor 'fail'")
        if self.on_state is not None and not callable(self.on_state):
            raise OptionError(f"on_state={self.on_state!r} cannot be called")
        if self.authorize is not None and not callable(self.authorize):
            raise OptionError(f"authorize={self.authorize!r} cannot be called")
        self._check_int("max_detached", 0, 0xFFFFFFFF)
        self._check_int("max_detached_bytes", 0, _CEILING)
        self._check_seconds("busy_poll", 0.0)
        if self.link not in LINKS:
            raise OptionError(f"link={self.link!r} is not one of {', '.join(map(repr, LINKS))}")
        self._check_tls()
        key: Any = self.authkey
        if key is not None and (not isinstance(key, bytes) or len(key) < LEAST_AUTHKEY):
            raise OptionError(f"authkey is not {LEAST_AUTHKEY} bytes or more of type bytes")

    def _check_tls(self) -> None:
        context: Any = self.ssl
        name: Any = self.server_hostname
        if context is not None:
            from ssl import SSLContext

            if not isinstance(context, SSLContext):
                raise OptionError(f"ssl={context!r} is not an ssl.SSLContext")
        if name is not None and (not isinstance(name, str) or not name):
            raise OptionError(f"server_hostname={name!r} is not a name")
        if name is not None and context is None:
            raise OptionError("server_hostname says what a certificate must name: it needs ssl")

    def _check_int(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise OptionError(f"{name}={value!r} is not a whole number of bytes or things")
        if not least <= value <= most:
            raise OptionError(f"{name}={value} is outside {least} … {most}")

    def _check_seconds(self, name: str, least: float) -> None:
        self._check_number(name, least, 1e9, " seconds")

    def _check_number(self, name: str, least: float, most: float, unit: str = "") -> None:
        value = getattr(self, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or math.isnan(value):
            raise OptionError(f"{name}={value!r} is not a number{unit and ' of'}{unit}")
        if not least <= value <= most:
            raise OptionError(f"{name}={value} is outside {least:g} … {most:g}{unit}")


def as_arguments(options: Options) -> dict[str, Any]:
    """The keyword arguments that make the same `Options`."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}


def make_options(options: dict[str, Any]) -> Options:
    """`Options` from keyword arguments; an unknown one raises `OptionError` with the known ones."""
    known = {field.name for field in dataclasses.fields(Options)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise OptionError(f"unknown option {unknown[0]!r}; there are: {', '.join(sorted(known))}")
    if "max_message_size" in options and "session_credit" not in options:
        # Whoever raises the one should not have to find out about the other.
        size = options["max_message_size"]
        if isinstance(size, int):
            options = {**options, "session_credit": max(64 * MIB, 2 * message_cost(size))}
    if "session_credit" in options and "receive_memory" not in options:
        size = options["session_credit"]
        if isinstance(size, int):
            options = {**options, "receive_memory": max(1024 * MIB, MEMORY_FACTOR * size)}
    return Options(**options)
