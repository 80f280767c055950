"""The proof of the authkey without a socket: right, wrong, replayed, reflected, cut short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tcpconn import AuthenticationError, LinkLost, NotTcpconn, VersionMismatch, authkey, handshake
from tcpconn._frame import PREFACE, WIRE, decode_frames, encode_frame, encode_hello
from tcpconn.handshake import Malformed, Rejected, encode_tagged, reject

VECTORS = Path(__file__).parent / "vectors"

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
AUTH = WIRE["types"]["AUTH"]
NONCE, PROOF = WIRE["tags"]["nonce"], WIRE["tags"]["proof"]
REFUSED = WIRE["codes"]["AUTHENTICATION"]
CLIENTS, SERVERS = b"c" * 16, b"s" * 16
ASK = PREFACE + encode_tagged(AUTH, {NONCE: CLIENTS})
ANSWER = PREFACE + encode_tagged(AUTH, {NONCE: SERVERS})


class Side:
    """One side of the exchange, given what it reads piece by piece."""

    def __init__(self, steps: Any, piece: int = 1 << 20) -> None:
        self.steps = steps
        self.piece = piece
        self.said = b""
        self.done = False
        self.error: Exception | None = None
        self._take(next, self.steps)

    def _take(self, function: Any, *arguments: Any) -> None:
        try:
            self.request = function(*arguments)
            while isinstance(self.request, bytes):
                self.said += self.request
                self.request = next(self.steps)
        except StopIteration:
            self.done = True
        except Exception as error:  # noqa: BLE001  - it is what the tests look at
            self.error = error

    def hear(self, data: bytes) -> bytes:
        """Reads all it wants of `data`; returns what it has said since the last time."""
        while data and not self.done and self.error is None:
            count = min(self.request, self.piece)
            piece, data = data[:count], data[count:]
            self._take(self.steps.send, piece)
        self.left = data
        return self.hush()

    def hush(self) -> bytes:
        said, self.said = self.said, b""
        return said

    def end(self) -> None:
        """The stream ends."""
        self._take(self.steps.send, b"")


def sides(clients: bytes = KEY, servers: bytes = KEY, piece: int = 1 << 20) -> tuple[Side, Side]:
    return (
        Side(authkey.prove_to_server(clients), piece),
        Side(authkey.prove_to_client(servers), piece),
    )


def code_of(said: bytes, *, preface: bool) -> int:
    """The code of the REJECT that a server has said."""
    assert said.startswith(PREFACE) == preface
    [(kind, _, _, _, payload)], used = decode_frames(said[8 if preface else 0 :])
    assert used == len(said) - (8 if preface else 0)
    assert kind == WIRE["types"]["REJECT"]
    return int.from_bytes(payload[:4])


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_both_have_the_key(piece: int) -> None:
    client, server = sides(piece=piece)
    asked = client.hush()
    answered = server.hear(asked)
    proved = client.hear(answered)
    proved_back = server.hear(proved)
    assert server.done
    assert not client.done, "the server has not proved anything yet"
    assert client.hear(proved_back + b"more") == b""
    assert client.done
    assert client.left == b"more"
    whole = asked + answered + proved + proved_back
    assert KEY not in whole
    assert [asked.count(PREFACE), answered.count(PREFACE), proved.count(PREFACE)] == [1, 1, 0]


@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_the_golden_vector(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = json.loads((VECTORS / "auth.json").read_text())
    nonces = iter([bytes.fromhex(vector[f"{side}_nonce"]) for side in ("client", "server")])
    monkeypatch.setattr(authkey.os, "urandom", lambda size: next(nonces))
    key = bytes.fromhex(vector["key"])
    client, server = sides(key, key, piece)
    said = client.hush()
    for line in vector["says"]:
        assert said == bytes.fromhex(line["hex"])
        said = (server if line["side"] == "client" else client).hear(said)
    assert client.done
    assert server.done


def test_a_client_with_another_key() -> None:
    client, server = sides(clients=OTHER_KEY)
    said = server.hear(client.hear(server.hear(client.hush())))
    assert isinstance(server.error, AuthenticationError)
    assert code_of(said, preface=False) == REFUSED
    client.hear(said)
    assert isinstance(client.error, AuthenticationError)
    assert "the same on both sides" in str(client.error)


def test_a_server_with_another_key() -> None:
    """One that takes any proof, to be let in on what the client has to say."""
    client = Side(authkey.prove_to_server(KEY))
    asked = client.hush()
    client.hear(ANSWER)
    wrong = authkey.proof(OTHER_KEY, authkey.SERVER_LABEL, asked[-16:], SERVERS)
    client.hear(encode_tagged(AUTH, {PROOF: wrong}))
    assert isinstance(client.error, AuthenticationError)
    assert client.hush() == b""


def test_a_proof_sent_back() -> None:
    """To a client, by a server that has no key: the client's own proof and nonce."""
    client = Side(authkey.prove_to_server(KEY))
    asked = client.hush()
    proved = client.hear(asked)  # the client's own nonce as the server's
    client.hear(proved)
    assert isinstance(client.error, AuthenticationError)


def test_a_proof_sent_back_through_another_link() -> None:
    """To a server, by a client that has no key and lets another server of it do the work."""
    one = Side(authkey.prove_to_client(KEY))
    other = Side(authkey.prove_to_client(KEY))
    nonce = one.hear(ASK)[-16:]
    other.hear(PREFACE + encode_tagged(AUTH, {NONCE: nonce}))
    assert not other.done, "it proves nothing before it was shown a proof"
    # And if it did: a server's proof is none of a client's.
    servers = authkey.proof(KEY, authkey.SERVER_LABEL, CLIENTS, nonce)
    one.hear(encode_tagged(AUTH, {PROOF: servers}))
    assert isinstance(one.error, AuthenticationError)


def test_a_proof_that_was_right_once() -> None:
    client, server = sides()
    asked = client.hush()
    proved = client.hear(server.hear(asked))
    server.hear(proved)
    assert server.done
    again = Side(authkey.prove_to_client(KEY))
    again.hear(asked)
    said = again.hear(proved)
    assert isinstance(again.error, AuthenticationError)
    assert code_of(said, preface=False) == REFUSED


def test_an_answer_that_was_right_once() -> None:
    client, server = sides()
    answered = server.hear(client.hush())
    proved_back = server.hear(client.hear(answered))
    again = Side(authkey.prove_to_server(KEY))
    again.hear(answered)
    again.hear(proved_back)
    assert isinstance(again.error, AuthenticationError)


@pytest.mark.parametrize(
    "first", [encode_hello(session_id=bytes(16), nonce=bytes(16)), encode_frame(0x04, bytes(9))]
)
def test_a_client_that_has_no_key(first: bytes) -> None:
    server = Side(authkey.prove_to_client(KEY))
    said = server.hear(PREFACE + first)
    assert isinstance(server.error, AuthenticationError)
    assert code_of(said, preface=True) == REFUSED


def test_a_server_that_has_no_key() -> None:
    """It leaves it to a session to say so."""
    server = Side(handshake.greeted())
    client = Side(authkey.prove_to_server(KEY))
    server.hear(client.hush())
    assert server.done
    client.hear(reject(REFUSED, "there is none here"))
    assert isinstance(client.error, AuthenticationError)
    assert "there is none here" in str(client.error)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"HTTP/1.1 400 Bad", NotTcpconn),
        (b"TCPCONN\x02", VersionMismatch),
        (reject(10, "too many links"), Rejected),
        (PREFACE + encode_hello(session_id=bytes(16), nonce=bytes(16)), AuthenticationError),
        (PREFACE + encode_tagged(AUTH, {PROOF: bytes(32)}), Malformed),
        (PREFACE + encode_tagged(AUTH, {NONCE: bytes(15)}), Malformed),
        (PREFACE + encode_frame(AUTH, bytes(4097)), Malformed),
        (PREFACE + encode_frame(AUTH, flags=1), Malformed),
    ],
)
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_a_client_is_answered_something_else(
    said: bytes, error: type[Exception], piece: int
) -> None:
    client = Side(authkey.prove_to_server(KEY), piece)
    client.hush()
    client.hear(said)
    assert type(client.error) is error
    assert client.hush() == b"", "no proof goes to who has not asked for one"


@pytest.mark.parametrize(
    ("said", "error", "code"),
    [
        (b"GET / HTTP/1.1\r\n", NotTcpconn, None),
        (b"TCPCONN\x02" + ASK[8:], VersionMismatch, "VERSION"),
        (PREFACE + encode_frame(AUTH), Malformed, "MALFORMED"),
        (PREFACE + encode_tagged(AUTH, {PROOF: bytes(32)}), Malformed, "MALFORMED"),
        (PREFACE + encode_frame(AUTH, bytes(4097)), Malformed, "FRAME_SIZE"),
        (PREFACE + encode_frame(AUTH, route=1), Malformed, "MALFORMED"),
    ],
)
def test_a_server_is_asked_something_else(
    said: bytes, error: type[Exception], code: str | None
) -> None:
    server = Side(authkey.prove_to_client(KEY))
    answer = server.hear(said)
    assert type(server.error) is error
    if code is None:
        assert answer == b""
    else:
        assert code_of(answer, preface=True) == WIRE["codes"][code]


@pytest.mark.parametrize(
    "said", [ASK[8:], encode_frame(0x01), encode_tagged(AUTH, {PROOF: bytes(31)})]
)
def test_a_server_hears_no_proof(said: bytes) -> None:
    server = Side(authkey.prove_to_client(KEY))
    server.hear(ASK)
    answer = server.hear(said)
    assert type(server.error) is Malformed
    assert code_of(answer, preface=False) == WIRE["codes"]["MALFORMED"]


def test_tags_that_are_not_known() -> None:
    server = Side(authkey.prove_to_client(KEY))
    nonce = server.hear(PREFACE + encode_tagged(AUTH, {NONCE: CLIENTS, 999: b"x"}))[-16:]
    right = authkey.proof(KEY, authkey.CLIENT_LABEL, CLIENTS, nonce)
    server.hear(encode_tagged(AUTH, {999: b"x", PROOF: right}))
    assert server.done


def test_streams_that_end() -> None:
    client, server = sides()
    for side in (client, server):
        side.end()
        assert isinstance(side.error, LinkLost)
