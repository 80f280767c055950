"""The proof of a shared key, PROTOCOL.md section 4.1: what a link with one begins with.

Each side proves that it has the key by the HMAC of two fresh nonces, one from either side, so that
no proof is good for another link; and under a label of its own, so that none can be sent back. Who
dialled proves it first: whoever merely finds a listener's port learns nothing to try keys on.

Steps without I/O, as in `handshake`.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from tcpconn._frame import PREFACE, WIRE
from tcpconn.errors import AuthenticationError, VersionMismatch
from tcpconn.handshake import (
    Malformed,
    Rejected,
    Steps,
    check_preface,
    encode_tagged,
    exactly,
    parse_tagged,
    reject,
    take_answer,
    take_frame,
)

CLIENT_LABEL = b"tcpconn AUTH client"
SERVER_LABEL = b"tcpconn AUTH server"
NONCE_SIZE = 16
PROOF_SIZE = hashlib.sha256().digest_size

REFUSED: int = WIRE["codes"]["AUTHENTICATION"]
"""The code of a REJECT for who has not proved the key."""

_AUTH = WIRE["types"]["AUTH"]
_NONCE = WIRE["tags"]["nonce"]
_PROOF = WIRE["tags"]["proof"]


def proof(authkey: bytes, label: bytes, nonce_of_client: bytes, nonce_of_server: bytes) -> bytes:
    """What shows that the side which `label` stands for has the key."""
    return hmac.new(authkey, label + nonce_of_client + nonce_of_server, hashlib.sha256).digest()


def _nonce(payload: bytes) -> bytes:
    return parse_tagged(payload, {_NONCE: NONCE_SIZE})[_NONCE]


def _is_right(payload: bytes, expected: bytes) -> bool:
    given = parse_tagged(payload, {_PROOF: PROOF_SIZE})[_PROOF]
    return hmac.compare_digest(given, expected)


def prove_to_client(authkey: bytes) -> Steps[None]:
    """The server's side: hears the client's proof, and gives its own.

    Raises `AuthenticationError`, `NotTcpconn`, `VersionMismatch`, `Malformed` or `LinkLost`. The
    client is told why, where it understands.
    """
    greeted = False
    try:
        check_preface((yield from exactly(len(PREFACE))))
        kind, payload = yield from take_frame()
        if kind != _AUTH:
            yield reject(REFUSED, "this side wants a proof of its authkey before all else")
            raise AuthenticationError("the client does not prove the authkey")
        of_client, of_server = _nonce(payload), os.urandom(NONCE_SIZE)
        greeted = True
        yield PREFACE + encode_tagged(_AUTH, {_NONCE: of_server})
        kind, payload = yield from take_frame()
        if kind != _AUTH:
            raise Malformed(f"frame type {kind} where the proof of the authkey is due", "4.1")
        if not _is_right(payload, proof(authkey, CLIENT_LABEL, of_client, of_server)):
            text = "this is no proof of the authkey; is it the same on both sides?"
            yield reject(REFUSED, text, preface=False)
            raise AuthenticationError("the client's proof of the authkey is wrong")
        yield encode_tagged(_AUTH, {_PROOF: proof(authkey, SERVER_LABEL, of_client, of_server)})
    except (Malformed, VersionMismatch) as error:
        yield reject(error.code, str(error), preface=not greeted)
        raise


def prove_to_server(authkey: bytes) -> Steps[None]:
    """The client's side: proves the key, and hears the server's proof.

    Raises `AuthenticationError`, `Rejected` (for another reason), `NotTcpconn`, `VersionMismatch`,
    `Malformed` or `LinkLost`.
    """
    of_client = os.urandom(NONCE_SIZE)
    yield PREFACE + encode_tagged(_AUTH, {_NONCE: of_client})
    check_preface((yield from exactly(len(PREFACE))))
    of_server = _nonce((yield from _take_auth()))
    yield encode_tagged(_AUTH, {_PROOF: proof(authkey, CLIENT_LABEL, of_client, of_server)})
    if not _is_right((yield from _take_auth()), proof(authkey, SERVER_LABEL, of_client, of_server)):
        raise AuthenticationError("the server's proof of the authkey is wrong")


def _take_auth() -> Steps[bytes]:
    try:
        kind, payload = yield from take_answer()
    except Rejected as error:
        if error.code == REFUSED:
            raise AuthenticationError(str(error)) from None
        raise
    if kind != _AUTH:
        raise AuthenticationError(f"the server does not prove the authkey, it sends type {kind}")
    return payload
