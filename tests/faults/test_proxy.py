"""The proxy does what its plan says, at the byte that it says, over plain sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

import wire
from faults.plan import BREAKS, DROP, FLIP, WAYS, Fault, Plan, Profile
from faults.proxy import LINGER_OFF, Proxy, ProxyProcess
from support import PATIENCE, Background, noise, wait_until

DATA = noise(5000)


class Sockets:
    """A client's and a server's end of links through a proxy."""

    def __init__(self, *faults: Fault, more: tuple[tuple[Fault, ...], ...] = ()) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(PATIENCE)
        host, port = self._server.getsockname()
        self.proxy = Proxy(f"{host}:{port}", Plan(links=(faults, *more)))
        self._open: list[socket.socket] = []

    def link(self) -> tuple[socket.socket, socket.socket]:
        """A new link: both its ends."""
        host, port = self.proxy.address.split(":")
        client = socket.create_connection((host, int(port)), PATIENCE)
        self._open.append(client)
        server, _ = self._server.accept()
        server.settimeout(PATIENCE)
        self._open.append(server)
        return client, server

    def close(self) -> None:
        self.proxy.close()
        for sock in (*self._open, self._server):
            sock.close()


@contextlib.contextmanager
def sockets(*faults: Fault, more: tuple[tuple[Fault, ...], ...] = ()) -> Iterator[Sockets]:
    both = Sockets(*faults, more=more)
    try:
        yield both
    finally:
        both.close()


def read_all(sock: socket.socket) -> tuple[bytes, str]:
    """All that comes, and how it ends."""
    data = bytearray()
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionError:
        return bytes(data), "rst"
    return bytes(data), "fin"


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, "it ended early"
        data += piece
    return bytes(data)


def silent(sock: socket.socket) -> bool:
    """Whether nothing has come so far."""
    sock.setblocking(False)
    try:
        sock.recv(1)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(PATIENCE)
    return False


def ways(both: Sockets, way: str) -> tuple[socket.socket, socket.socket]:
    """Who sends and who receives on this way of a new link."""
    client, server = both.link()
    return (client, server) if way == "up" else (server, client)


def test_what_goes_in_comes_out() -> None:
    with sockets() as both:
        client, server = both.link()
        sending = [Background(lambda s=s: s.sendall(noise(3_000_000, 1))) for s in (client, server)]
        reading = Background(lambda: read_exactly(client, 3_000_000))
        assert read_exactly(server, 3_000_000) == noise(3_000_000, 1)
        assert reading.result() == noise(3_000_000, 1)
        for each in sending:
            each.result()
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == (b"", "fin")
        server.sendall(b"still here")
        assert read_exactly(client, 10) == b"still here"
        server.close()
        assert read_all(client) == (b"", "fin")
        both.proxy.wait("end")
        wait_until(lambda: not both.proxy.links, "a link is left")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("kind", "at"),
    # A reset before the first byte may come before `connect` has returned.
    [("fin", 0), *((kind, at) for kind in ("fin", "rst") for at in (1, 2, 1000, 4999, 5000))],
)
def test_a_cut_comes_at_its_byte(way: str, kind: str, at: int) -> None:
    with sockets(Fault(kind, way, at=at)) as both:
        source, sink = ways(both, way)
        told = ""
        try:
            source.sendall(DATA)
        except ConnectionError:
            told = "rst"  # so the next call does not hear of it
        assert read_all(sink) == (DATA[:at], kind)
        assert (told or read_all(source)[1]) == kind
        both.proxy.wait(kind)
        event = next(event for event in both.proxy.events if event.what == kind)
        assert (event.link, event.way, event.offset) == (0, way, at)
        with contextlib.suppress(OSError):
            source.shutdown(socket.SHUT_WR)
        sink.close()


@pytest.mark.parametrize("kind", ["fin", "rst"])
def test_a_cut_comes_at_its_time(kind: str) -> None:
    with sockets(Fault(kind, after=0.001)) as both:
        client, server = both.link()
        assert read_all(client) == (b"", kind)
        assert read_all(server) == (b"", kind)


@pytest.mark.parametrize("kind", BREAKS)
def test_faults_are_of_one_link(kind: str) -> None:
    with sockets(more=((Fault(kind, at=3, seconds=0.001),),)) as both:
        first, second = both.link(), both.link()
        second[0].sendall(DATA)
        assert read_all(second[1])[0] == DATA[:3]
        first[0].sendall(DATA)
        assert read_exactly(first[1], len(DATA)) == DATA


def test_links_are_refused_for_a_while() -> None:
    with sockets(Fault("refuse", at=10, seconds=0.05)) as both:
        client, server = both.link()
        client.sendall(DATA)
        assert read_all(server) == (DATA[:10], "rst")
        both.proxy.wait("refuse")
        host, port = both.proxy.address.split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), PATIENCE)

        def again() -> bool:
            with contextlib.suppress(ConnectionRefusedError):
                client, server = both.link()
                client.sendall(b"here again")
                return read_exactly(server, 10) == b"here again"
            return False

        wait_until(again, "it never takes links again")


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
    with Proxy(f"{host}:{port}") as proxy:
        near = proxy.address.split(":")
        with (
            contextlib.suppress(ConnectionResetError),
            socket.create_connection((near[0], int(near[1])), PATIENCE) as client,
        ):
            assert read_all(client)[0] == b""
        proxy.wait("refused")


@pytest.mark.parametrize("way", WAYS)
class TestOneWay:
    def test_a_frozen_way_leaves_the_other_alone(self, way: str) -> None:
        with sockets(Fault("freeze", way, at=7)) as both:
            source, sink = ways(both, way)
            source.sendall(DATA)
            assert read_exactly(sink, 7) == DATA[:7]
            both.proxy.wait("freeze")
            sink.sendall(DATA)
            assert read_exactly(source, len(DATA)) == DATA
            source.close()  # nobody hears of that
            assert silent(sink)
            both.proxy.thaw()
            assert read_all(sink)[0] == DATA[7:]

    def test_a_freeze_ends_by_itself(self, way: str) -> None:
        with sockets(Fault("freeze", way, at=7, seconds=0.01)) as both:
            source, sink = ways(both, way)
            source.sendall(DATA)
            assert read_exactly(sink, len(DATA)) == DATA

    def test_delayed_bytes_come_in_order(self, way: str) -> None:
        with sockets(Fault("delay", way, at=100, seconds=0.005, length=2000)) as both:
            source, sink = ways(both, way)
            for start in range(0, len(DATA), 500):
                source.sendall(DATA[start : start + 500])
            assert read_exactly(sink, len(DATA)) == DATA

    def test_single_bytes(self, way: str) -> None:
        with sockets(Fault("split", way, at=100, length=300)) as both:
            source, sink = ways(both, way)
            source.sendall(DATA)
            assert read_exactly(sink, len(DATA)) == DATA
            assert both.proxy.links[0].ways[WAYS.index(way)].sends >= 301

    def test_the_rest_is_dropped(self, way: str) -> None:
        with sockets(Fault(DROP, way, at=100)) as both:
            source, sink = ways(both, way)
            source.sendall(DATA * 1000)
            sink.sendall(DATA)
            assert read_exactly(source, len(DATA)) == DATA
            source.close()
            assert read_all(sink)[0] == DATA[:100]

    @pytest.mark.parametrize("at", [0, 1, 4999])
    def test_a_flipped_bit(self, way: str, at: int) -> None:
        with sockets(Fault(FLIP, way, at=at, bit=5)) as both:
            source, sink = ways(both, way)
            source.sendall(DATA)
            received = read_exactly(sink, len(DATA))
            assert received[at] == DATA[at] ^ 32
            assert received[:at] + received[at + 1 :] == DATA[:at] + DATA[at + 1 :]

    def test_several_faults_in_turn(self, way: str) -> None:
        plan = [
            Fault("split", way, at=10, length=50),
            Fault(FLIP, way, at=100, bit=0),
            Fault("freeze", way, at=200, seconds=0.001),
            Fault("delay", way, at=300, seconds=0.001),
            Fault("rst", way, at=400),
        ]
        with sockets(*reversed(plan)) as both:
            source, sink = ways(both, way)
            source.sendall(DATA)
            received, end = read_all(sink)
            assert end == "rst"
            # A reset takes along what is still under way: single bytes go ten at a time at first.
            assert received
            assert received[:100] + received[101:] == DATA[:100] + DATA[101 : len(received)]
            kinds = [event.what for event in both.proxy.events if event.what != "link"]
            assert kinds == ["split", "flip", "freeze", "delay", "rst"]


@pytest.mark.parametrize("way", WAYS)
def test_a_dead_end_behind_a_frozen_way_is_not_noticed(way: str) -> None:
    with sockets(Fault("freeze", way, at=0)) as both:
        source, sink = ways(both, way)
        both.proxy.wait("freeze")
        source.close()
        for _ in range(20):
            sink.sendall(b"anybody there?")
            assert silent(sink)


def test_a_reset_is_passed_on() -> None:
    with sockets() as both:
        client, server = both.link()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_OFF)
        client.close()
        assert read_all(server) == (b"", "rst")


def test_faults_on_demand() -> None:
    with sockets() as both:
        first, second = both.link(), both.link()
        both.proxy.wait("link", 2)
        both.proxy.strike("freeze")
        first[0].sendall(b"hello")
        assert silent(first[1])
        both.proxy.thaw()
        assert read_exactly(first[1], 5) == b"hello"
        both.proxy.strike("rst")
        for sock in (*first, *second):
            assert read_all(sock) == (b"", "rst")


def talk(first: int) -> list[bytes]:
    """What one side says, frame by frame: its opening, and messages whole and in chunks."""
    writer = wire.Writer()
    return [
        wire.PREFACE,
        wire.hello(first) if first <= wire.WELCOME else bytes(wire.Frame(first, payload=b"r" * 60)),
        writer.open(1, bytes(16)),
        writer.whole(1, b"message"),
        writer.whole(1, b""),
        bytes(wire.Frame(wire.ACK, payload=bytes(8))),
        bytes(wire.Frame(wire.DATA, wire.FIRST, 1, 3, (3000).to_bytes(8, "big") + bytes(2000))),
        bytes(wire.Frame(wire.PING, payload=bytes(16))),
        bytes(wire.Frame(wire.DATA, wire.LAST, 1, 4, bytes(1000))),
    ]


def offsets() -> list[tuple[int, int, str]]:
    """(link, offset, phase) of breaks in what a server says."""
    found = []
    for link, first in enumerate((wire.WELCOME, wire.RESUMED)):
        word = ("handshake", "resume")[link]
        at = 0
        for number, part in enumerate(talk(first)):
            if number < 2:
                found += [(link, at, word), (link, at + 1, word)]
            else:
                idle = "in a message" if number in (7, 8) else "between frames"
                found += [(link, at, idle), (link, at + 1, "in a header")]
                if len(part) > 16:
                    inside = "in a chunk" if number in (3, 6, 8) else "in a frame"
                    found += [(link, at + 16, inside), (link, at + len(part) - 1, inside)]
            at += len(part)
        found.append((link, at, "between frames"))
    return found


@pytest.mark.parametrize(("number", "at", "phase"), offsets())
def test_the_phase_of_a_break_is_known(number: int, at: int, phase: str) -> None:
    cut = (Fault("fin", "down", at=at),)
    with sockets(*cut[number:], more=(cut,)) as both:
        if number == 1:
            both.link()
        client, server = both.link()
        said = b"".join(talk(wire.RESUME if number else wire.HELLO)[:2])
        if at > 0:
            client.sendall(said)
            assert read_exactly(server, len(said)) == said
            server.sendall(b"".join(talk(wire.RESUMED if number else wire.WELCOME)))
        assert len(read_all(client)[0]) == at
        both.proxy.wait("fin")
        event = next(event for event in both.proxy.events if event.what == "fin")
        assert event.phase == phase


def test_frames_are_seen() -> None:
    seen = []
    server = socket.create_server(("127.0.0.1", 0))
    host, port = server.getsockname()
    done = threading.Event()

    def on_frame(way: str, link: int, frame: wire.Frame, length: int) -> None:
        seen.append((way, link, frame.type, length))
        if len(seen) == 5:
            done.set()

    with server, Proxy(f"{host}:{port}", on_frame=on_frame) as proxy:
        near = proxy.address.split(":")
        with socket.create_connection((near[0], int(near[1])), PATIENCE) as client:
            client.sendall(b"".join(talk(wire.RESUME)[:6]))
            assert done.wait(PATIENCE)
    assert seen == [
        ("up", 0, wire.RESUME, 60),
        ("up", 0, wire.OPEN, 17),
        ("up", 0, wire.DATA, 7),
        ("up", 0, wire.DATA, 0),
        ("up", 0, wire.ACK, 8),
    ]


def test_a_proxy_in_a_process_of_its_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        told = threading.Event()
        plan = Plan(links=[[Fault("rst", at=4)]])
        with ProxyProcess(f"{host}:{port}", plan, lambda _: told.set()) as proxy:
            near = proxy.address.split(":")
            with socket.create_connection((near[0], int(near[1])), PATIENCE) as client:
                client.sendall(b"over")
                assert read_all(client) == (b"", "rst")
            assert told.wait(PATIENCE)
        assert [event.what for event in proxy.events] == ["link", "rst"]


def test_what_fails_names_its_plan() -> None:
    plan = Plan(7, profile=Profile())
    with pytest.raises(AssertionError) as caught, Proxy("127.0.0.1:1", plan):
        raise AssertionError("something is wrong")
    said = caught.value.__notes__[0]
    assert Plan.from_json(said.removeprefix("the plan: ")) == plan
