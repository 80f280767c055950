"""How ``tcpconn send`` hands files to ``tcpconn receive``: a small protocol of messages.

One connection, opened by the sender, takes any number of files, one after another. For each:

1. The sender sends a *header*, ``{"tcpconn-transfer": 1, "name": …, "size": …, "mode": …}``. `name`
   is a file name or null, `size` the number of bytes if known, else null, and `mode` the file's
   permission bits or null.
2. The receiver *answers* ``{"tcpconn-transfer": 1, "status": "ready"}``, or with the status
   ``"refused"`` and a ``"reason"``. After a refusal the sender goes on with the next header.
3. The sender sends the contents as *data* messages of 1 byte or more, cut anywhere, then an empty
   message, then a *trailer*, ``{"size": …, "sha256": …}`` of all that it sent. A sender that cannot
   go on sends the empty message early, and the trailer ``{"error": …}``: the receiver throws away
   what it got.
4. The receiver sends its *verdict*, ``{"status": "stored", "size": …, "sha256": …}`` of all that it
   took, or the status ``"failed"`` and a ``"reason"``. It may send the latter as soon as it has
   failed; it then reads on up to the trailer, and the sender, as soon as it sees this, cuts the
   file short as in step 3.

All but the data are JSON objects in UTF-8 of at most 64 KiB; members that a peer does not know are
ignored. The sender ends by closing the connection. Neither side holds more of a file than one
message and what the connection's credit lets lie in its queues.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import tcpconn

VERSION = 1
_MAGIC = "tcpconn-transfer"
_CONTROL_LIMIT = 64 << 10


class TransferError(Exception):
    """The peer does not keep to the protocol above: it is no sender, or no receiver."""


class Refused(Exception):
    """The receiver did not take the file, or could not keep it. The text is the receiver's."""


class Mismatch(Exception):
    """What arrived is not what was sent."""


class SourceError(Exception):
    """The sender could not read on."""


class Source(Protocol):
    """Where the sender's bytes come from."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Read into `buffer`, and return how much; 0 at the end."""
        ...


class Store(Protocol):
    """Where the receiver's bytes go. Its methods raise OSError."""

    def write(self, data: memoryview) -> None:
        """Take `data`, all of it; nothing of it may be kept."""
        ...

    def commit(self) -> None:
        """The contents are whole and right: put them in their place."""
        ...

    def discard(self) -> None:
        """Leave no trace. Does nothing after `commit`."""
        ...


@dataclass(frozen=True)
class Header:
    """What the sender says of a file before its contents."""

    name: str | None
    size: int | None = None
    mode: int | None = None

    def encode(self) -> bytes:
        """Return the header's message."""
        return _encode(
            {_MAGIC: VERSION, "name": self.name, "size": self.size, "mode": self.mode},
        )

    @classmethod
    def decode(cls, message: bytes) -> Header:
        """Read a header's message, or raise TransferError."""
        fields = _decode(message)
        _check_version(fields)
        name = fields.get("name")
        if name is not None and not isinstance(name, str):
            raise TransferError("its header has a name that is not a text")
        return cls(name, _count(fields, "size"), _count(fields, "mode"))


@dataclass(frozen=True)
class Transferred:
    """A file that is through: the same on both sides."""

    size: int
    sha256: str


def send_file(
    connection: tcpconn.Connection,
    header: Header,
    source: Source,
    buffer: memoryview,
    *,
    advance: Callable[[int], None],
    begin: Callable[[], None] = lambda: None,
    timeout: float | None = None,
) -> Transferred:
    """Send one file through `buffer`, which is as large as a message may be.

    `begin` is called when the receiver is ready, `advance` with the size of every message. No wait
    for the receiver is longer than `timeout`.

    Raises Refused, Mismatch, TransferError, SourceError and whatever the connection raises. After
    the first two and SourceError the connection can take the next file.
    """
    connection.send(header.encode(), timeout)
    answer = _decode(connection.receive(timeout))
    _check_version(answer)
    if answer.get("status") == "refused":
        raise Refused(_text(answer, "reason"))
    if answer.get("status") != "ready":
        raise TransferError("it did not answer as a receiver does")
    begin()

    digest = hashlib.sha256()
    size = 0
    while True:
        try:
            count = source.readinto(buffer)
        except OSError as error:
            _cut_short(connection, f"the sender could not read on: {error.strerror}", timeout)
            _decode(connection.receive(timeout))  # the verdict, which can only be a failure
            raise SourceError(error.strerror or str(error)) from error
        if not count:
            break
        part = buffer[:count]
        digest.update(part)
        connection.send(part, timeout)
        size += count
        advance(count)
        early = _message_at_hand(connection)
        if early is not None:
            verdict = _decode(early)
            if verdict.get("status") != "failed":
                raise TransferError("it answered before the file's end")
            _cut_short(connection, "the receiver has failed", timeout)
            raise Refused(_text(verdict, "reason"))

    sha256 = digest.hexdigest()
    connection.send(b"", timeout)
    connection.send(_encode({"size": size, "sha256": sha256}), timeout)
    verdict = _decode(connection.receive(timeout))
    if verdict.get("status") == "failed":
        reason = _text(verdict, "reason")
        raise (Mismatch if verdict.get("mismatch") is True else Refused)(reason)
    if verdict.get("status") != "stored":
        raise TransferError("it gave no verdict on the file")
    if verdict.get("size") != size or verdict.get("sha256") != sha256:
        raise Mismatch("the receiver has another SHA-256 than was sent")
    return Transferred(size, sha256)


def receive_header(connection: tcpconn.Connection, timeout: float | None = None) -> Header | None:
    """Wait for the next file's header; None if the sender has closed: there is no more."""
    try:
        message = connection.receive(timeout)
    except tcpconn.ConnectionReset:
        raise
    except tcpconn.ConnectionClosed:
        return None
    return Header.decode(message)


def refuse(connection: tcpconn.Connection, reason: str, timeout: float | None = None) -> None:
    """Answer a header: the file is not wanted."""
    answer = {_MAGIC: VERSION, "status": "refused", "reason": reason}
    connection.send(_encode(answer), timeout)


def receive_file(
    connection: tcpconn.Connection,
    store: Store,
    *,
    advance: Callable[[int], None],
    timeout: float | None = None,
) -> Transferred:
    """Answer a header with "ready", and take the file into `store`.

    No wait for the sender is longer than `timeout`. Raises OSError if `store` did, after telling
    the sender; Mismatch and SourceError, after which the connection can take the next file as well;
    TransferError and whatever the connection raises. The file is then discarded.
    """
    stored = False
    try:
        connection.send(_encode({_MAGIC: VERSION, "status": "ready"}), timeout)
        failure: OSError | None = None
        digest = hashlib.sha256()
        size = 0
        while True:
            with connection.receive_view(timeout) as lease:
                count = len(lease)
                if not count:
                    break
                if failure is not None:
                    continue  # the sender is yet to see that we failed
                with memoryview(lease) as data:
                    digest.update(data)
                    try:
                        store.write(data)
                    except OSError as error:
                        failure = error
            size += count
            advance(count)
            if failure is not None:
                _fail(connection, f"could not write: {failure.strerror}", timeout)

        trailer = _decode(connection.receive(timeout))
        if failure is not None:
            raise failure
        if "error" in trailer:
            _fail(connection, "the file was cut short", timeout)
            raise SourceError(_text(trailer, "error"))
        sha256 = digest.hexdigest()
        if trailer.get("size") != size or trailer.get("sha256") != sha256:
            reason = f"the SHA-256 differ: {sha256} of {size} bytes came in"
            _fail(connection, reason, timeout, mismatch=True)
            raise Mismatch(reason)
        try:
            store.commit()
        except OSError as error:
            _fail(connection, f"could not store: {error.strerror}", timeout)
            raise
        stored = True
        verdict = {"status": "stored", "size": size, "sha256": sha256}
        connection.send(_encode(verdict), timeout)
        return Transferred(size, sha256)
    finally:
        if not stored:
            store.discard()


def _message_at_hand(connection: tcpconn.Connection) -> bytes | None:
    try:
        return connection.receive(0)
    except tcpconn.Timeout:
        return None


def _cut_short(connection: tcpconn.Connection, reason: str, timeout: float | None) -> None:
    connection.send(b"", timeout)
    connection.send(_encode({"error": reason}), timeout)


def _fail(
    connection: tcpconn.Connection, reason: str, timeout: float | None, *, mismatch: bool = False
) -> None:
    verdict: dict[str, object] = {"status": "failed", "reason": reason}
    if mismatch:
        verdict["mismatch"] = True
    connection.send(_encode(verdict), timeout)


def _encode(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def _decode(message: bytes) -> dict[str, Any]:
    if len(message) > _CONTROL_LIMIT:
        raise TransferError(f"a message of {len(message)} bytes came where JSON was due")
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError):
        raise TransferError("a message came that is not JSON") from None
    if not isinstance(fields, dict):
        raise TransferError("a message came that is not a JSON object")
    return fields


def _check_version(fields: dict[str, Any]) -> None:
    version = fields.get(_MAGIC)
    if version is None:
        raise TransferError(f"a message came without {_MAGIC!r}")
    if version != VERSION:
        raise TransferError(f"it speaks version {version!r} of the transfer, this side {VERSION}")


def _count(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    # In Python True is an int; in JSON it is no number.
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TransferError(f"its header has a {name} that is not a whole number")
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else "no reason given"
