"""Which links a listener takes, without sockets that lead anywhere."""

from __future__ import annotations

import socket

import pytest

from tcpconn.admission import Admission, origin


@pytest.mark.parametrize(
    ("sockaddr", "name"),
    [
        (("192.0.2.7", 1234), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1234, 0, 0), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 1, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        ("", ""),
        (b"\0abstract", ""),
        ("/run/socket", ""),
    ],
)
def test_what_counts_as_one_address(sockaddr: object, name: str) -> None:
    assert origin(sockaddr) == name


def address(last: int) -> tuple[str, int]:
    return (f"192.0.2.{last}", 5)


def test_counts_until_closed() -> None:
    admission = Admission(3, 2)
    socks = [socket.socket() for _ in range(6)]
    assert admission.admit(socks[0], address(1)) is None
    assert admission.admit(socks[1], address(1)) is None
    assert (
        admission.admit(socks[2], address(1)) == "all 2 places for links from 192.0.2.1 are taken"
    )
    assert admission.admit(socks[3], address(2)) is None
    assert admission.admit(socks[4], address(3)) == "all 3 places for links are taken"
    socks[0].close()
    assert admission.admit(socks[4], address(1)) is None
    assert admission.admit(socks[5], address(3)) == "all 3 places for links are taken"
    socks[1].close()
    assert admission.admit(socks[4], address(3)) is None
    for sock in socks:
        sock.close()


def test_counts_what_is_left_of_links() -> None:
    admission = Admission(3, 2)
    left = [True] * 3
    with socket.socket() as sock:
        for number in range(2):
            admission.count(address(1), lambda number=number: left[number])
        assert admission.admit(sock, address(1)) == (
            "all 2 places for links from 192.0.2.1 are taken"
        )
        admission.count("", lambda: left[2])
        assert admission.admit(sock, address(2)) == "all 3 places for links are taken"
        left[0] = False
        assert admission.admit(sock, address(1)) is None


def test_without_an_address_there_is_only_the_whole() -> None:
    admission = Admission(3, 1)
    socks = [socket.socket() for _ in range(4)]
    assert [admission.admit(sock, "") for sock in socks] == [None] * 3 + [
        "all 3 places for links are taken"
    ]
    for sock in socks:
        sock.close()


def test_forgets_addresses() -> None:
    admission = Admission(10, 5)
    for n in range(1000):
        with socket.socket() as sock:
            assert admission.admit(sock, (f"192.0.{n // 256}.{n % 256}", 1)) is None
    assert len(admission._places) <= 11
