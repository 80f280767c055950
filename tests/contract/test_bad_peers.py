"""Peers that speak something else, break the protocol, or vanish: only their own link ends."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tcpconn
import wire
from support import ANY, PATIENCE, Background, echo, in_time, noise, tcp_pair, wait_until

# TLS 1.2's record and handshake headers, as a client sends them.
SHELLS = "few"

TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(189))
FOREIGN = {
    "HTTP request": b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "HTTP response": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "TLS": TLS_HELLO,
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SMTP": b"220 mail.example.org ESMTP\r\n",
    "zeros": bytes(100),
    "newlines": b"\n" * 100,
    "a 36 first": b"$" + b"00000000-0000-0000-0000-000000000000",
    "noise": random.Random(1).randbytes(200_000),
    "almost": b"TCPCONX\x01",
    "lower case": b"tcpconn\x01",
}


def host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def read_to_the_end(sock: socket.socket) -> bytes:
    """Everything until the peer closes, in order or not."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            said += part
    return said


def send_all(sock: socket.socket, data: bytes) -> None:
    """Sends as much as the peer takes before it hangs up."""
    with contextlib.suppress(ConnectionError):
        sock.sendall(data)


@pytest.fixture
def server(link: str, caplog: pytest.LogCaptureFixture) -> Iterator[tcpconn.Server]:
    """An echo server that must work at the end as at the beginning, on old and new links."""
    caplog.set_level(logging.DEBUG)
    with (
        # One that is slow to see that links have ended must not count them against the next.
        tcpconn.serve(echo, ANY, link=link, max_links_per_address=4096) as server,
        tcpconn.ConnectionPool(link=link) as pool,
        pool.connect(server.address) as old,
    ):
        check(old)
        yield server
        check(old)
        with tcpconn.ConnectionPool(link=link) as another, another.connect(server.address) as new:
            check(new)
        wait_until(lambda: len(server.listener.multiplexers) <= 2, "bad links are kept")
    # What was logged was logged as tcpconn, as nobody's fault of ours.
    assert {record.name for record in caplog.records} - {"asyncio"} == {"tcpconn"}
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def check(connection: tcpconn.Connection) -> None:
    """A message there and back."""
    connection.send(noise(1000))
    assert connection.receive(PATIENCE) == noise(1000)


def dial(server: tcpconn.Server) -> socket.socket:
    return socket.create_connection(host_and_port(server.address), timeout=PATIENCE)


class TestForeign:
    @pytest.mark.parametrize("protocol", FOREIGN)
    def test_to_a_server(self, protocol: str, server: tcpconn.Server) -> None:
        """It hears nothing from us, and the link is closed."""
        with dial(server) as sock:
            send_all(sock, FOREIGN[protocol])
            assert read_to_the_end(sock) == b""

    @pytest.mark.parametrize("protocol", FOREIGN)
    def test_to_a_client(self, protocol: str, link: str) -> None:
        near, far = tcp_pair()
        address = "{}:{}".format(*far.getsockname())
        with far:
            answering = Background(lambda: (send_all(far, FOREIGN[protocol]), read_to_the_end(far)))
            with pytest.raises(tcpconn.NotTcpconn, match=f"{address}.*tcpconn.*port") as caught:
                tcpconn.Multiplexer(near, client=True, link=link)
            # It has heard our greeting, and no more than that.
            _, heard = answering.result()
        assert heard.startswith(wire.PREFACE)
        assert [frame.type for frame in wire.parse(heard[8:])] == [wire.HELLO]
        assert isinstance(caught.value, tcpconn.ProtocolError)
        assert isinstance(caught.value, ConnectionError)

    @pytest.mark.parametrize("size", [0, 1, 7])
    def test_that_says_little_and_goes(self, size: int, server: tcpconn.Server, link: str) -> None:
        with dial(server) as sock:
            sock.sendall(wire.PREFACE[:size])
        near, far = tcp_pair()
        far.sendall(wire.PREFACE[:size])
        far.close()
        with pytest.raises(tcpconn.LinkLost, match="before the peer said a word"):
            tcpconn.Multiplexer(near, client=True, link=link)

    @pytest.mark.parametrize("version", [0, 2, 255])
    def test_another_version_to_a_server(self, version: int, server: tcpconn.Server) -> None:
        """It is told, in the words of the version that we speak."""
        with dial(server) as sock:
            send_all(sock, wire.PREFACE[:7] + bytes([version]) + wire.hello())
            said = read_to_the_end(sock)
        assert said.startswith(wire.PREFACE)
        [reject] = wire.parse(said[8:])
        assert reject.type == wire.REJECT
        assert wire.u32(reject.payload) == wire.VERSION
        assert "version" in reject.payload[4:].decode()

    @pytest.mark.parametrize("version", [0, 2, 255])
    def test_another_version_to_a_client(self, version: int, link: str) -> None:
        near, far = tcp_pair()
        with far:
            far.sendall(wire.PREFACE[:7] + bytes([version]))
            with pytest.raises(tcpconn.VersionMismatch, match=f"{version}"):
                tcpconn.Multiplexer(near, client=True, link=link)

    def test_a_server_that_rejects(self, link: str) -> None:
        near, far = tcp_pair()
        text = "closed for today"
        with far:
            reject = wire.Frame(wire.REJECT, payload=struct.pack(">I", 9) + text.encode())
            far.sendall(wire.PREFACE + bytes(reject))
            with pytest.raises(tcpconn.ProtocolError, match=f"{text}.*REFUSED") as caught:
                tcpconn.Multiplexer(near, client=True, link=link)
        assert caught.value.code == 9


VECTORS = Path(__file__).parents[1] / "vectors"
TALK = json.loads((VECTORS / "conversations.json").read_text())
FRAMES = json.loads((VECTORS / "frames.json").read_text())


def unhex(text: str, pieces: dict[str, bytes]) -> bytes:
    """A vector's hex, as its `about` explains."""
    data = b""
    for word in text.split():
        if word.startswith("@"):
            data += pieces[word[1:]]
            continue
        digits, _, times = word.partition("*")
        data += bytes.fromhex(digits) * int(times or 1)
    return data


def pieces_for(session: bytes) -> dict[str, bytes]:
    known = {"session": session}
    for name, text in TALK["pieces"].items():
        known[name] = unhex(text, known)
    return known


def faults(role: str) -> list[Any]:
    """Conversations that a peer leads alone and that end in a fault of its own: a key where there
    is none is none of those."""
    return [
        pytest.param(vector, id=vector["name"].replace(" ", "-"))
        for vector in TALK["conversations"]
        if vector["role"] == role
        and vector["code"] not in (0, 18)
        and vector.get("kind", "fault") == "fault"
        and all(isinstance(step, str) for step in vector["steps"])
    ]


def said_by(vector: dict[str, Any], pieces: dict[str, bytes]) -> bytes:
    greeting = b""
    if vector.get("handshake", True):
        role = vector["role"]
        greeting = pieces["preface"] + pieces["hello" if role == "server" else "welcome"]
    return greeting + b"".join(unhex(step, pieces) for step in vector["steps"])


@pytest.mark.parametrize("vector", faults("server"))
def test_faults_to_a_server(vector: dict[str, Any], link: str) -> None:
    options = TALK["options"] | vector.get("options", {}) | {"link": link}
    with (
        tcpconn.listen(ANY, **options) as listener,
        socket.create_connection(host_and_port(listener.address), timeout=PATIENCE) as sock,
        tcpconn.Multiplexer(listener.address, **options) as other,
        other.open() as connection,
    ):
        send_all(sock, said_by(vector, pieces_for(bytes(16))))
        said = read_to_the_end(sock)
        # Another link of the same listener goes on.
        connection.send(b"unharmed")
        while (accepted := listener.accept(PATIENCE)).id != connection.id:
            # It may have been ended before the fault.
            with contextlib.suppress(tcpconn.ProtocolError, tcpconn.ConnectionClosed):
                while True:
                    accepted.receive(PATIENCE)
        assert accepted.receive(PATIENCE) == b"unharmed"
        accepted.close()
    check_farewell(vector, said)


def check_farewell(vector: dict[str, Any], said: bytes) -> None:
    if vector["section"] == "2" and vector["code"] != wire.VERSION:
        assert said in (b"", wire.PREFACE)
        return
    assert said.startswith(wire.PREFACE)
    farewell = wire.parse(said[8:])[-1]
    payload = farewell.payload
    if farewell.type == wire.GOAWAY:
        payload = payload[4:]
    else:
        assert farewell.type == wire.REJECT
    assert wire.u32(payload) == vector["code"]
    assert payload[4:].decode()


@pytest.mark.parametrize("vector", faults("client"))
def test_faults_to_a_client(vector: dict[str, Any], link: str) -> None:
    near, far = tcp_pair()
    options = TALK["options"] | vector.get("options", {}) | {"link": link}

    def misbehave() -> bytes:
        with far:
            heard = far.recv(8, socket.MSG_WAITALL)
            header = far.recv(16, socket.MSG_WAITALL)
            (length,) = struct.unpack_from(">I", header)
            payload = far.recv(length, socket.MSG_WAITALL)
            session = wire.tags_of(payload)[1]
            send_all(far, said_by(vector, pieces_for(session)))
            return heard + header + payload + read_to_the_end(far)

    def serve() -> None:
        with tcpconn.Multiplexer(near, client=True, **options) as multiplexer:
            while True:
                multiplexer.accept(PATIENCE)

    peer = Background(misbehave)
    with pytest.raises(tcpconn.ProtocolError) as caught:
        serve()
    said = peer.result()
    assert caught.value.code == vector["code"]
    assert caught.value.section == vector["section"]
    if vector["section"] != "2":
        farewell = wire.parse(said[8:])[-1]
        assert farewell.type == wire.GOAWAY
        assert wire.u32(farewell.payload, 4) == vector["code"]
        assert farewell.payload[8:].decode() in str(caught.value)


@pytest.mark.parametrize(
    "vector",
    [pytest.param(one, id=one["name"].replace(" ", "-")) for one in FRAMES["malformed"]],
)
def test_malformed_frames_to_a_server(vector: dict[str, Any], link: str) -> None:
    near, far = tcp_pair()
    with near, tcpconn.Multiplexer(far, link=link, max_frame_size=16384) as multiplexer:
        near.settimeout(PATIENCE)
        pieces = pieces_for(bytes(16))
        send_all(near, pieces["preface"] + pieces["hello"] + unhex(vector["hex"], pieces))
        said = read_to_the_end(near)
        with pytest.raises(tcpconn.ProtocolError) as caught:
            multiplexer.accept(PATIENCE)
    farewell = wire.parse(said[8:])[-1]
    assert farewell.type == wire.GOAWAY
    assert wire.u32(farewell.payload, 4) == caught.value.code == vector["code"]


def conversation(first: Callable[[], bytes]) -> list[bytes]:
    """What a well-behaved peer says, in the pieces in which it says it."""
    writer = wire.Writer()
    name = bytes(range(16, 32))
    return [
        first(),
        writer.open(1, name),
        writer.whole(1, b"whole"),
        wire.ping(1),
        *writer.chunks(1, noise(2100), 1050),
        wire.credit(0, 1 << 25),
        writer.open(2, bytes(16), priority=7),
        writer.whole(2, b""),
        writer.reset(2),
        writer.fin(1),
    ]


def cuts(total: int, starts: list[int]) -> list[int]:
    """Every byte of what is not message, and some of what is."""
    around = {start + offset for start in starts for offset in range(-26, 27)}
    return sorted({cut for cut in around if 0 <= cut <= total} | set(range(0, total, 97)) | {total})


def cuts_of(pieces: list[bytes]) -> list[int]:
    starts = list(itertools.accumulate(len(piece) for piece in pieces))
    return cuts(starts[-1], [0, 40, 80, *starts])


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_client_that_vanishes_at_every_byte(how: str, server: tcpconn.Server) -> None:
    pieces = conversation(lambda: wire.PREFACE + wire.hello())
    said = b"".join(pieces)
    for cut in cuts_of(pieces):
        with dial(server) as sock:
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            send_all(sock, said[:cut])


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_server_that_vanishes_at_every_byte(how: str, link: str) -> None:
    def first() -> bytes:
        return wire.PREFACE + wire.hello(wire.WELCOME)

    whole = conversation(first)
    expected = {b"whole", noise(2100), b""}
    for cut in cuts_of(whole):
        near, far = tcp_pair()

        def vanish(far: socket.socket = far, cut: int = cut) -> None:
            with far:
                greeting = far.recv(8 + 16, socket.MSG_WAITALL)
                (length,) = struct.unpack_from(">I", greeting, 8)
                session = wire.tags_of(far.recv(length, socket.MSG_WAITALL))[1]
                said = b"".join(whole).replace(bytes(range(16)), session, 1)
                if how == "reset":
                    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                send_all(far, said[:cut])

        vanishing = Background(vanish)
        received: list[bytes] = []
        address = "{}:{}".format(*near.getpeername())

        def use(near: socket.socket = near, received: list[bytes] = received) -> None:
            with tcpconn.Multiplexer(near, client=True, link=link) as client:
                for connection in [client.accept(PATIENCE), client.accept(PATIENCE)]:
                    with contextlib.suppress(tcpconn.ConnectionClosed):
                        while True:
                            received.append(connection.receive(PATIENCE))
                client.accept(PATIENCE)

        with pytest.raises(tcpconn.LinkLost, match=address):
            use()
        vanishing.result()
        assert set(received) <= expected


def test_a_peer_that_sends_byte_by_byte(server: tcpconn.Server) -> None:
    with dial(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer = wire.Writer()
        for byte in wire.PREFACE + wire.hello() + writer.open(1, bytes(16)) + writer.whole(1, b"x"):
            sock.send(bytes([byte]))
        heard = b""
        while b"x" not in [frame.payload for frame in frames_of(heard) if frame.type == wire.DATA]:
            heard += sock.recv(65536)


def frames_of(said: bytes) -> list[wire.Frame]:
    """The whole frames behind the preface."""
    data = said[8:]
    at = 0
    while at + 16 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 16 + length > len(data):
            break
        at += 16 + length
    return wire.parse(data[:at])


def test_silent_peers_do_not_keep_others_out(link: str) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(tcpconn.serve(echo, ANY, link=link, handshake_timeout=0.2))
        for count in (0, 4, 8, 50):
            sock = stack.enter_context(dial(server))
            sock.sendall((wire.PREFACE + wire.hello())[:count])
        pool = stack.enter_context(tcpconn.ConnectionPool(link=link))
        with in_time(lambda: pool.connect(server.address)) as connection:
            check(connection)
            # And they are gone when their time is over.
            wait_until(lambda: len(server.listener.multiplexers) == 1, "silent links are kept")
            check(connection)


def test_a_peer_that_reads_nothing_delays_nobody_else(link: str) -> None:
    """It has opened a connection and is sent more and more, but its window is closed."""
    flooding = threading.Event()

    def handler(connection: tcpconn.Connection) -> None:
        if connection.receive() == b"flood":
            flooding.set()
            while True:
                connection.send(noise(10_000))
        connection.send(b"answer")

    with (
        tcpconn.serve(handler, ANY, link=link) as server,
        tcpconn.ConnectionPool(link=link) as pool,
        dial(server) as sock,
    ):
        writer = wire.Writer()
        greeting = wire.PREFACE + wire.hello(route_credit=1 << 40, session_credit=1 << 40)
        sock.sendall(greeting + writer.open(1, bytes(16)) + writer.whole(1, b"flood"))
        assert flooding.wait(PATIENCE)
        for _ in range(20):
            with pool.connect(server.address) as connection:
                connection.send(b"ask")
                assert connection.receive(PATIENCE) == b"answer"


def test_an_announced_giant_takes_no_memory(link: str) -> None:
    """A message of the largest size is announced on many connections, and not sent."""
    near, far = tcp_pair()
    with near, tcpconn.Multiplexer(far, link=link, session_credit=1 << 40) as multiplexer:
        writer = wire.Writer()
        near.sendall(wire.PREFACE + wire.hello())
        for route in range(1, 201):
            near.sendall(writer.open(route, route.to_bytes(16, "big")))
            near.sendall(writer.first(route, 16 << 20, noise(1024)))
        near.sendall(writer.open(201, bytes(16)) + writer.whole(201, b"done"))
        accepted = [multiplexer.accept(PATIENCE) for _ in range(201)]
        assert accepted[-1].receive(PATIENCE) == b"done"
        # 3.2 GB were announced: not one page of it is here.
        with Path("/proc/self/status").open() as status:
            peak = next(line for line in status if line.startswith("VmRSS"))
        assert int(peak.split()[1]) < 1 << 20
        multiplexer.abort()
