"""The command line's options for TLS and keys."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tcpconn
from support import ANY, CERTIFICATES, client_context, echo, noise, server_context

pytest.importorskip("click", reason="needs the extra 'cli'")
pytest.importorskip("rich", reason="needs the extra 'cli'")

from tcpconn.cli import main
from tcpconn.cli.exits import ExitCode

Run = Callable[..., tuple[int, str]]

AUTHORITY = str(CERTIFICATES / "authority.pem")
SERVER = str(CERTIFICATES / "server.pem")
CLIENT = str(CERTIFICATES / "client.pem")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command here; its exit code and what it says on standard error."""

    def run_here(*arguments: object) -> tuple[int, str]:
        code = main([str(argument) for argument in arguments])
        return code, capsys.readouterr().err

    return run_here


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return key_file(tmp_path / "key", b"0123456789abcdef0123\n")


def key_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def ping(run: Run, address: str, *options: object) -> tuple[int, str]:
    return run("ping", "-q", "-c", 1, *options, address)


def test_tls(run: Run) -> None:
    with tcpconn.serve(echo, ANY, ssl=server_context()) as server:
        assert ping(run, server.address, "--tls-ca", AUTHORITY) == (ExitCode.OK, "")
        code, said = ping(run, server.address, "--tls")
        assert code == ExitCode.UNTRUSTED
        assert f"no TLS with {server.address}: the peer's certificate is not trusted" in said
        code, said = ping(run, server.address, "--tls-ca", AUTHORITY, "--tls-name", "elsewhere")
        assert code == ExitCode.UNTRUSTED
        assert "elsewhere" in said
    with tcpconn.serve(echo, ANY, ssl=server_context("elsewhere")) as server:
        name = ("--tls-name", "elsewhere.example")
        assert ping(run, server.address, "--tls-ca", AUTHORITY, *name) == (ExitCode.OK, "")


def test_a_peer_without_tls(run: Run) -> None:
    with tcpconn.serve(echo, ANY) as server:
        code, said = ping(run, server.address, "--tls-ca", AUTHORITY)
    assert code == ExitCode.RECEIVE
    assert "does it speak TLS?" in said


def test_a_client_with_a_certificate(run: Run, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    text = (CERTIFICATES / "client.pem").read_text()
    at = text.index("-----BEGIN CERTIFICATE")
    key.write_text(text[:at])
    certificate.write_text(text[at:])
    with listening("serve", "--tls-cert", SERVER, "--tls-ca", AUTHORITY) as address:
        trusting = ("--tls-ca", AUTHORITY)
        assert ping(run, address, *trusting, "--tls-cert", CLIENT) == (ExitCode.OK, "")
        split = ("--tls-cert", certificate, "--tls-key", key)
        assert ping(run, address, *trusting, *split) == (ExitCode.OK, "")
        code, said = ping(run, address, *trusting)
        assert code == ExitCode.UNTRUSTED
        assert "wants a certificate" in said


def test_files_through_tls_with_a_key(run: Run, key: Path, tmp_path: Path) -> None:
    source, inbox = tmp_path / "file", tmp_path / "inbox"
    source.write_bytes(noise(1_000_000))
    inbox.mkdir()
    secured = ("--tls-cert", SERVER, "--authkey-file", str(key))
    with listening("receive", "-k", "-o", str(inbox), *secured) as address:
        trusting = ("--tls-ca", AUTHORITY)
        code, said = run("send", "-q", *trusting, "--authkey-file", key, address, source)
        assert (code, said) == (ExitCode.OK, "")
        assert (inbox / "file").read_bytes() == noise(1_000_000)
        code, said = run("send", "-q", *trusting, address, source)
        assert code == ExitCode.AUTHENTICATION
        assert "authkey" in said


def test_keys(run: Run, key: Path, tmp_path: Path) -> None:
    same = key_file(tmp_path / "same", key.read_bytes().rstrip())
    other = key_file(tmp_path / "other", bytes(32))
    with listening("serve", "--authkey-file", str(key)) as address:
        assert ping(run, address, "--authkey-file", key) == (ExitCode.OK, "")
        assert ping(run, address, "--authkey-file", same) == (ExitCode.OK, "")
        for wrong in ((), ("--authkey-file", other)):
            code, said = ping(run, address, *wrong)
            assert code == ExitCode.AUTHENTICATION
            assert address in said
            assert key.read_text().strip() not in said


@pytest.mark.parametrize(
    ("content", "said"), [(b"short\n", "16 bytes or more, and this one 5"), (b"", "this one 0")]
)
def test_keys_that_are_none(run: Run, tmp_path: Path, content: bytes, said: str) -> None:
    code, errors = ping(run, ANY, "--authkey-file", key_file(tmp_path / "key", content))
    assert code == ExitCode.CREDENTIALS
    assert said in errors


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_key_that_others_can_read(run: Run, key: Path) -> None:
    key.chmod(0o644)
    with tcpconn.serve(echo, ANY, authkey=key.read_bytes().strip()) as server:
        code, said = ping(run, server.address, "--authkey-file", key)
    assert code == ExitCode.OK
    assert f"chmod 600 {key}" in said


def test_files_that_are_no_certificates(run: Run, key: Path) -> None:
    for options in (("--tls-ca", key), ("--tls-cert", key), ("--tls-cert", AUTHORITY)):
        code, said = ping(run, ANY, *options)
        assert code == ExitCode.CREDENTIALS
        assert str(options[1]) in said
        assert "PEM" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ping", "--tls-name", "x", ANY), "--tls-name says what"),
        (("ping", "--tls-key", SERVER, ANY), "--tls-key is the key of --tls-cert"),
        (("serve", "--tls-ca", AUTHORITY, ANY), "need --tls-cert"),
        (("serve", "--tls-key", SERVER, ANY), "need --tls-cert"),
        (("ping", "--tls-ca", "/not/there", ANY), "does not exist"),
        (("receive", "--authkey-file", "/not/there", ANY), "does not exist"),
    ],
)
def test_options_that_do_not_go_together(run: Run, arguments: tuple[str, ...], said: str) -> None:
    code, errors = run(*arguments)
    assert code == ExitCode.USAGE
    assert said in errors


def test_the_context_of_a_server_lets_in_the_clients_of_the_library(key: Path) -> None:
    secured = ("--tls-cert", SERVER, "--authkey-file", str(key))
    with (
        listening("serve", *secured) as address,
        tcpconn.ConnectionPool(ssl=client_context(), authkey=key.read_bytes().strip()) as pool,
        pool.connect(address) as connection,
    ):
        connection.send(b"hello")
        assert connection.receive(30) == b"hello"


class listening:  # noqa: N801  - it reads as a function
    """A command that listens, in a process of its own; its address."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tcpconn", *arguments, "--print-address", ANY],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
