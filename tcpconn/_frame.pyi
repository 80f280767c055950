"""The codec, as far as Python sees it: for tests, tools and whoever debugs a capture."""

from typing import Final, NotRequired, TypedDict

from typing_extensions import Buffer

class _Wire(TypedDict):
    preface: bytes
    version: int
    header_size: int
    types: dict[str, int]
    skippable: int
    flags: dict[str, int]
    tags: dict[str, int]
    codes: dict[str, int]
    limits: dict[str, int]

class _Hello(TypedDict):
    session_id: bytes
    nonce: bytes
    max_frame_size: int
    max_message_size: int
    route_credit: int
    session_credit: int
    keepalive: int
    max_connections: int
    secret: NotRequired[bytes]

PREFACE: Final[bytes]
WIRE: Final[_Wire]
"""Every value that PROTOCOL.md fixes, by its name there."""

CODE_NAMES: Final[dict[int, str]]
"""The names of the codes of PROTOCOL.md section 10."""

class FrameError(ValueError):
    """Bytes that PROTOCOL.md does not allow."""

    code: int
    """What is wrong, a code of section 10."""

    section: str
    """The section that says so."""

    def __init__(self, message: str, code: int, section: str) -> None: ...

def peer_text(said: bytes) -> str:
    """What the peer said for people to read, without what would control a terminal or forge a line
    of a log.
    """

def encode_frame(
    type: int, payload: bytes = b"", flags: int = 0, route: int = 0, sequence: int = 0
) -> bytes:
    """The bytes of one frame, whatever its fields say: it is not checked against the rules."""

def decode_frames(
    data: Buffer, max_frame_size: int = 65536
) -> tuple[list[tuple[int, int, int, int, bytes]], int]:
    """The whole frames at the start of `data`, and how many bytes they took.

    Each frame is (type, flags, route, sequence, payload). Raises `FrameError` for a header that
    breaks the rules; a frame that is not all there is left for the next call.
    """

def encode_hello(
    *,
    session_id: bytes,
    nonce: bytes,
    max_frame_size: int = 65536,
    max_message_size: int = 16777216,
    route_credit: int = 262144,
    session_credit: int = 67108864,
    keepalive: int = 0,
    max_connections: int = 100000,
    secret: bytes | None = None,
    welcome: bool = False,
) -> bytes:
    """A HELLO (or WELCOME) frame, section 4."""

def decode_hello(payload: bytes) -> _Hello:
    """The fields of a HELLO or WELCOME payload. Raises `FrameError`."""
