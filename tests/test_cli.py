"""The command line, run as its users run it: in processes of its own, and in a terminal."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pytest

import tcpconn

pytest.importorskip("click", reason="needs the extra 'cli'")
pytest.importorskip("rich", reason="needs the extra 'cli'")

from tcpconn.cli import main
from tcpconn.cli.exits import ExitCode, printable
from tcpconn.cli.options import DurationType, SizeType
from tcpconn.cli.ping import RoundTrips
from tcpconn.cli.storage import safe_name
from tcpconn.cli.transfer import Header, TransferError

ANY = "127.0.0.1:0"
# Longer than anything here takes; only a hang gets there.
PATIENCE = 30.0
MEMORY_LIMIT = 100 << 20
MIB = 1 << 20

posix_only = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and terminals")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc or /dev/full")

# Runs the command line and then tells how much memory the process has had at most.
MEASURED = """
import sys
from tcpconn.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmHWM")), file=sys.stderr, flush=True)
sys.exit(code)
"""


class Command:
    """A running ``tcpconn``. It is killed if the test ends, or hangs, before it has."""

    def __init__(
        self,
        *arguments: str,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        code: str | None = None,
        **options: Any,
    ) -> None:
        how = ["-m", "tcpconn"] if code is None else ["-c", code]
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-P", *how, *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            **options,
        )
        self._watchdog = threading.Timer(PATIENCE, self.process.kill)
        self._watchdog.start()
        self.address = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watchdog.cancel()
        self._watchdog.join()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def line(self) -> str:
        """The next line on standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def error_line(self) -> str:
        """The next line on standard error."""
        assert self.process.stderr is not None
        return self.process.stderr.readline().decode()

    def end(self, signal_number: int | None = None) -> tuple[int, bytes, str]:
        """Wait for the end; return exit code and what there is on standard output and error."""
        if signal_number is not None:
            self.process.send_signal(signal_number)
        output, errors = self.process.communicate()
        return self.process.returncode, output or b"", (errors or b"").decode()


def listening(command: str, *arguments: str, address: str = ANY, **options: Any) -> Command:
    """Start a command that listens, and wait until it does."""
    running = Command(command, "--print-address", *arguments, address, **options)
    running.address = running.line().strip()
    return running


def send(address: str, *arguments: str, **options: Any) -> tuple[int, bytes, str]:
    with Command("send", address, *arguments, **options) as sender:
        return sender.end()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process, which is quicker; nothing may be said to it."""

    def run_here(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_here


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    path = tmp_path / "inbox"
    path.mkdir()
    return path


@pytest.fixture
def contents() -> bytes:
    # More than one message, and no two parts of it alike.
    return b"".join(hashlib.sha256(bytes([n])).digest() * 4096 for n in range(20)) + b"end"


@contextlib.contextmanager
def plain_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on a plain socket, which says to one client whatever `talk` does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                with client:
                    talk(client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


def is_one_line(text: str) -> bool:
    return text.startswith("tcpconn: ") and text.count("\n") == 1 and text.endswith("\n")


class TestHelp:
    def test_says_what_there_is(self, run: Callable[..., tuple[int, str, str]]) -> None:
        code, output, _ = run("--help")
        assert code == 0
        for word in ("serve", "ping", "receive", "send", "Examples:", "Exit codes"):
            assert word in output
        for exit_code in ExitCode:
            assert re.search(rf"^ +{exit_code.value}  \S", output, re.MULTILINE)

    @pytest.mark.parametrize("command", ["serve", "ping", "receive", "send"])
    def test_each_command_has_examples(
        self, run: Callable[..., tuple[int, str, str]], command: str
    ) -> None:
        code, output, _ = run(command, "-h")
        assert code == 0
        assert f"  tcpconn {command} " in output

    def test_version(self, run: Callable[..., tuple[int, str, str]]) -> None:
        assert run("--version") == (0, f"tcpconn {tcpconn.__version__}\n", "")

    def test_without_arguments_it_is_help_and_a_usage_error(
        self, run: Callable[..., tuple[int, str, str]]
    ) -> None:
        code, output, errors = run()
        assert (code, output) == (2, "")
        assert "Usage: tcpconn" in errors

    @pytest.mark.parametrize("missing", ["click", "rich"])
    def test_without_the_extra_it_tells_what_to_install(
        self,
        run: Callable[..., tuple[int, str, str]],
        monkeypatch: pytest.MonkeyPatch,
        missing: str,
    ) -> None:
        for name in list(sys.modules):
            if name.startswith("tcpconn.cli."):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, missing, None)
        code, _, errors = run("--help")
        assert code == 2
        assert is_one_line(errors)
        assert f"{missing}: pip install 'tcpconn[cli]'" in errors


class TestErrors:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["pong"],
            ["ping"],
            ["ping", "--nonsense", ANY],
            ["ping", "-s", "10Q", ANY],
            ["ping", "-i", "soon", ANY],
            ["ping", "-c", "0", ANY],
            ["send", "--message-size", "32M", ANY],
            ["send", "--message-size", "0", ANY],
            ["send", ANY, "-", "-"],
            ["send", ANY, __file__, __file__],
            ["receive", "-o", "-", "--print-address", ANY],
            ["serve", "--link", "carrier-pigeon", ANY],
        ],
        ids=" ".join,
    )
    def test_usage(
        self, run: Callable[..., tuple[int, str, str]], arguments: Sequence[str]
    ) -> None:
        code, output, errors = run(*arguments)
        assert (code, output) == (2, "")
        assert is_one_line(errors)
        assert "--help)" in errors

    @pytest.mark.parametrize("command", ["serve", "ping", "receive", "send"])
    def test_address(self, run: Callable[..., tuple[int, str, str]], command: str) -> None:
        code, _, errors = run(command, "nowhere")
        assert code == 3
        assert is_one_line(errors)
        assert "'nowhere'" in errors

    @pytest.mark.parametrize("command", ["ping", "send"])
    def test_name_that_does_not_resolve(
        self, run: Callable[..., tuple[int, str, str]], command: str
    ) -> None:
        code, _, errors = run(command, "no-such-host.invalid:9000")
        assert code == 6
        assert is_one_line(errors)
        assert "no-such-host.invalid" in errors

    @pytest.mark.parametrize("command", ["ping", "send"])
    def test_refused(self, run: Callable[..., tuple[int, str, str]], command: str) -> None:
        with socket.socket() as unheard:
            unheard.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{unheard.getsockname()[1]}"
            code, _, errors = run(command, address)
        assert code == 7
        assert is_one_line(errors)
        assert address in errors

    @pytest.mark.parametrize("command", ["ping", "send"])
    def test_another_protocol(self, run: Callable[..., tuple[int, str, str]], command: str) -> None:
        with plain_server(
            lambda client: client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        ) as web:
            code, _, errors = run(command, web)
        assert code == 8
        assert is_one_line(errors)
        assert web in errors

    def test_a_server_that_says_nothing(self, run: Callable[..., tuple[int, str, str]]) -> None:
        def wait_for_the_end(client: socket.socket) -> None:
            while client.recv(1000):
                pass

        with plain_server(wait_for_the_end) as mute:
            code, _, errors = run("ping", "--connect-timeout", "50ms", mute)
        assert code == 28
        assert is_one_line(errors)
        assert mute in errors

    @pytest.mark.parametrize("command", ["serve", "receive"])
    def test_address_in_use(self, run: Callable[..., tuple[int, str, str]], command: str) -> None:
        with tcpconn.listen(ANY) as listener:
            code, _, errors = run(command, listener.address)
        assert code == 45
        assert is_one_line(errors)
        assert listener.address in errors

    def test_debug_shows_the_traceback(self, run: Callable[..., tuple[int, str, str]]) -> None:
        code, _, errors = run("ping", "--debug", "nowhere")
        assert code == 3
        assert "Traceback" in errors
        assert "AddressError" in errors


class TestServe:
    @posix_only
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_well(self, number: int) -> None:
        with listening("serve") as server:
            with tcpconn.connect(server.address) as connection:
                connection.send(b"hello")
                assert connection.receive(PATIENCE) == b"hello"
            code, output, errors = server.end(number)
        assert (code, output) == (0, b"")
        assert errors == f"tcpconn: listening on {server.address}, echo; Ctrl-C ends\n"

    @posix_only
    def test_quiet_prints_the_address_only(self) -> None:
        with listening("serve", "-q") as server:
            assert server.end(signal.SIGTERM) == (0, b"", "")

    @posix_only
    def test_sink_counts(self) -> None:
        with listening("serve", "--sink") as server:
            with tcpconn.connect(server.address) as connection:
                for _ in range(10):
                    connection.send(bytes(100_000))
                connection.close()
            with Command("ping", "-c1", "-W", "50ms", server.address) as ping:
                assert ping.end()[0] == ExitCode.NO_REPLY
            code, _, errors = server.end(signal.SIGTERM)
        assert code == 0
        assert "tcpconn: 11 messages, 1.0 MB in " in errors

    @posix_only
    def test_unix_address(self, tmp_path: Path) -> None:
        with (
            listening("serve", address=f"unix:{tmp_path}/s") as server,
            Command("ping", "-c1", f"unix:{tmp_path}/s") as ping,
        ):
            assert ping.end()[0] == 0
            assert server.address == f"unix:{tmp_path}/s"


@pytest.fixture
def echo() -> Iterator[str]:
    """The address of an echo server in this process."""

    def answer(connection: tcpconn.Connection) -> None:
        with contextlib.suppress(tcpconn.TcpconnError):
            for message in connection:
                connection.send(message)

    with tcpconn.serve(answer, ANY) as server:
        yield server.address


class TestPing:
    def test_a_line_for_each_reply_and_a_summary(
        self, run: Callable[..., tuple[int, str, str]], echo: str
    ) -> None:
        code, output, errors = run("ping", "-c", "3", "-s", "1K", "-i", "1ms", echo)
        assert (code, errors) == (0, "")
        lines = output.splitlines()
        address = re.escape(echo)
        assert re.fullmatch(rf"PING {address}: 1024 bytes a message, connected in \S+ ms", lines[0])
        for sequence, line in enumerate(lines[1:4], 1):
            assert re.fullmatch(
                rf"1024 bytes from {address}: seq={sequence} time=\d+\.\d{{3}} ms", line
            )
        assert lines[4] == f"--- {echo} ping statistics ---"
        assert re.fullmatch(r"3 sent, 3 received, 0% lost, time \d+ ms", lines[5])
        times = r"(\d+\.\d{3}/){3}\d+\.\d{3} ms"
        assert re.fullmatch(rf"rtt min/avg/max/stddev = {times}", lines[6])
        assert re.fullmatch(rf"rtt p50/p90/p99/p99\.9 = {times}", lines[7])
        assert len(lines) == 8

    @pytest.mark.parametrize("size", ["0", "1", "3M"])
    def test_any_size(self, run: Callable[..., tuple[int, str, str]], echo: str, size: str) -> None:
        code, output, _ = run("ping", "-c2", "-i0", "-s", size, echo)
        assert code == 0
        assert "2 sent, 2 received, 0% lost" in output

    @pytest.mark.parametrize("option", ["--flood", "--quiet"])
    def test_no_lines(
        self, run: Callable[..., tuple[int, str, str]], echo: str, option: str
    ) -> None:
        code, output, _ = run("ping", option, "-i0", "-c", "300", echo)
        assert code == 0
        assert "300 sent, 300 received" in output
        assert "seq=" not in output

    def test_no_reply(self, run: Callable[..., tuple[int, str, str]]) -> None:
        def swallow(connection: tcpconn.Connection) -> None:
            with contextlib.suppress(tcpconn.TcpconnError):
                for _ in connection:
                    pass

        with tcpconn.serve(swallow, ANY) as server:
            code, output, errors = run("ping", "-c2", "-i0", "-W", "20ms", server.address)
        assert code == 1
        assert "seq=2 no reply within 0.02 s" in output
        assert "2 sent, 0 received, 100% lost" in output
        assert "rtt" not in output
        assert is_one_line(errors)

    def test_a_late_reply_counts(self, run: Callable[..., tuple[int, str, str]]) -> None:
        def answer_the_first_after_the_second(connection: tcpconn.Connection) -> None:
            first = connection.receive(PATIENCE)
            connection.send_many([first, connection.receive(PATIENCE)])
            with contextlib.suppress(tcpconn.TcpconnError):
                connection.receive(PATIENCE)

        with tcpconn.serve(answer_the_first_after_the_second, ANY) as server:
            code, output, _ = run("ping", "-c2", "-i", "0", "-W", "0.3", server.address)
        assert code == 0
        assert "seq=1 no reply within 0.3 s" in output
        assert re.search(r"seq=1 time=\S+ ms \(late\)", output)
        assert "2 sent, 2 received, 0% lost" in output

    def test_something_else_came_back(self, run: Callable[..., tuple[int, str, str]]) -> None:
        def answer_wrongly(connection: tcpconn.Connection) -> None:
            with contextlib.suppress(tcpconn.TcpconnError):
                for message in connection:
                    connection.send(message[::-1])

        with tcpconn.serve(answer_wrongly, ANY) as server:
            code, output, errors = run("ping", "-c2", server.address)
        assert code == 8
        assert is_one_line(errors)
        assert "1 sent, 0 received, 100% lost" in output

    def test_a_peer_that_goes_away(self, run: Callable[..., tuple[int, str, str]]) -> None:
        def go_away(connection: tcpconn.Connection) -> None:
            connection.receive(PATIENCE)
            connection.abort()

        with tcpconn.serve(go_away, ANY) as server:
            code, output, errors = run("ping", server.address)
        assert code == 56
        assert is_one_line(errors)
        assert "1 sent, 0 received, 100% lost" in output

    @posix_only
    def test_ctrl_c_ends_with_the_summary(self, echo: str) -> None:
        with Command("ping", echo) as ping:
            assert ping.line().startswith("PING")
            assert "seq=1" in ping.line()
            code, output, errors = ping.end(signal.SIGINT)
        assert (code, errors) == (0, "")
        assert b"ping statistics" in output
        assert b"0% lost" in output

    @posix_only
    def test_nobody_reads_the_lines(self, echo: str) -> None:
        with Command("ping", "-i", "1ms", echo) as ping:
            assert ping.process.stdout is not None
            ping.process.stdout.close()
            ping.process.stdout = None
            code, _, errors = ping.end()
        assert (code, errors) == (23, "")


class TestSendAndReceive:
    def test_files(self, tmp_path: Path, contents: bytes) -> None:
        outbox, inbox = tmp_path / "out", tmp_path / "new" / "inbox"
        outbox.mkdir()
        files = {"big one": contents, "empty": b"", "[red]ä.txt": b"small", "tool": b"#!"}
        for name, data in files.items():
            (outbox / name).write_bytes(data)
        (outbox / "tool").chmod(0o700)
        paths = [str(outbox / name) for name in files]
        with listening("receive", "-o", f"{inbox}/") as receiver:
            assert send(receiver.address, *paths) == (0, b"", "")
            code, output, errors = receiver.end()
        assert (code, output) == (0, b"")
        assert is_one_line(errors)  # the address, and not a word more where there is no terminal
        assert {path.name: path.read_bytes() for path in inbox.iterdir()} == files
        if os.name != "nt":
            assert (inbox / "tool").stat().st_mode & 0o777 == 0o700
            assert (inbox / "empty").stat().st_mode & 0o111 == 0

    def test_verbose_tells_the_digest(self, tmp_path: Path, inbox: Path, contents: bytes) -> None:
        (tmp_path / "file").write_bytes(contents)
        digest = hashlib.sha256(contents).hexdigest()
        with listening("receive", "-q", "-v", "-o", str(inbox)) as receiver:
            _, _, sent = send(receiver.address, "-v", str(tmp_path / "file"))
            _, _, received = receiver.end()
        for line in (sent, received):
            assert is_one_line(line)
            assert line.endswith(f"sha256 {digest}\n")
            assert "2.6 MB in " in line

    @pytest.mark.parametrize("message_size", ["1000", "64K", "4M"])
    def test_stream(self, contents: bytes, message_size: str) -> None:
        with Command("receive", "-o", "-", ANY) as receiver:
            address = receiver.error_line().split()[3].rstrip(",")
            with Command(
                "send", "--message-size", message_size, address, stdin=subprocess.PIPE
            ) as sender:
                # From one pipe to another: neither side may wait for the other's end.
                feeding = threading.Thread(target=sender.process.communicate, args=(contents,))
                feeding.start()
                assert receiver.end() == (0, contents, "")
                feeding.join(PATIENCE)
                assert sender.process.returncode == 0

    def test_stream_comes_as_it_goes(self) -> None:
        with Command("receive", "-o", "-", ANY) as receiver:
            address = receiver.error_line().split()[3].rstrip(",")
            with Command("send", address, stdin=subprocess.PIPE) as sender:
                assert sender.process.stdin is not None
                for line in (b"one\n", b"two\n"):
                    sender.process.stdin.write(line)
                    sender.process.stdin.flush()
                    assert receiver.line().encode() == line
                assert sender.process.poll() is None

    @pytest.mark.parametrize(
        ("arguments", "name"), [([], "stdin"), (["--name", "photos.tgz"], "photos.tgz")]
    )
    def test_name_of_a_stream(self, inbox: Path, arguments: list[str], name: str) -> None:
        with listening("receive", "-o", str(inbox)) as receiver:
            assert send(receiver.address, *arguments) == (0, b"", "")
            assert receiver.end()[0] == 0
        assert [path.name for path in inbox.iterdir()] == [name]

    def test_single_file(self, tmp_path: Path, inbox: Path) -> None:
        for name in ("one", "two"):
            (tmp_path / name).write_text(name)
        with listening("receive", "-o", str(inbox / "it")) as receiver:
            code, _, errors = send(receiver.address, str(tmp_path / "one"), str(tmp_path / "two"))
            assert code == 25
            assert is_one_line(errors)
            assert receiver.end()[0] == 23
        assert (inbox / "it").read_text() == "one"

    def test_no_overwriting_and_the_other_files_go_on(self, tmp_path: Path, inbox: Path) -> None:
        for name in ("taken", "folder", "free"):
            (tmp_path / name).write_text("new")
        (inbox / "taken").write_text("old")
        (inbox / "folder").mkdir()
        paths = [str(tmp_path / name) for name in ("taken", "folder", "free")]
        with listening("receive", "-q", "-o", str(inbox)) as receiver:
            code, _, errors = send(receiver.address, *paths)
            assert code == 25
            assert len(errors.splitlines()) == 2
            assert "'taken' exists already" in errors
            code, _, errors = receiver.end()
        assert code == 23
        assert len(errors.splitlines()) == 2
        assert (inbox / "taken").read_text() == "old"
        assert (inbox / "free").read_text() == "new"
        assert sorted(path.name for path in inbox.iterdir()) == ["folder", "free", "taken"]

    def test_force_overwrites(self, tmp_path: Path, inbox: Path) -> None:
        (tmp_path / "taken").write_text("new")
        (inbox / "taken").write_text("old")
        with listening("receive", "--force", "-o", str(inbox)) as receiver:
            assert send(receiver.address, str(tmp_path / "taken"))[0] == 0
            assert receiver.end()[0] == 0
        assert (inbox / "taken").read_text() == "new"

    @pytest.mark.parametrize("output", ["taken", "missing/file", "taken/"])
    def test_output_that_cannot_be(
        self, run: Callable[..., tuple[int, str, str]], inbox: Path, output: str
    ) -> None:
        (inbox / "taken").write_text("old")
        code, _, errors = run("receive", "-o", f"{inbox}/{output}", ANY)
        assert code == 23
        assert is_one_line(errors)
        assert str(inbox) in errors

    @posix_only
    def test_keep_listening(self, tmp_path: Path, inbox: Path) -> None:
        with listening("receive", "-q", "-k", "-o", str(inbox)) as receiver:
            for name in ("one", "two"):
                (tmp_path / name).write_text(name)
                assert send(receiver.address, str(tmp_path / name))[0] == 0
            assert receiver.end(signal.SIGINT) == (0, b"", "")
        assert sorted(path.name for path in inbox.iterdir()) == ["one", "two"]

    @pytest.mark.parametrize("path", ["missing", "."])
    def test_what_cannot_be_read_is_told_before_anything_is_sent(
        self, run: Callable[..., tuple[int, str, str]], tmp_path: Path, path: str
    ) -> None:
        code, _, errors = run("send", ANY, __file__, str(tmp_path / path))
        assert code == 26
        assert is_one_line(errors)
        assert str(tmp_path) in errors

    @linux_only
    def test_disk_full(self, tmp_path: Path, contents: bytes) -> None:
        (tmp_path / "file").write_bytes(contents)
        with listening("receive", "-q", "-o", "/dev/full") as receiver:
            code, _, errors = send(receiver.address, "--message-size", "1K", str(tmp_path / "file"))
            assert code == 25
            assert is_one_line(errors)
            assert "No space left" in errors
            code, _, errors = receiver.end()
        assert code == 23
        assert is_one_line(errors)
        assert "No space left" in errors

    @posix_only
    def test_nobody_reads_the_stream(self, contents: bytes) -> None:
        with Command("receive", "-o", "-", ANY) as receiver:
            address = receiver.error_line().split()[3].rstrip(",")
            assert receiver.process.stdout is not None
            receiver.process.stdout.close()
            receiver.process.stdout = None
            code, _, errors = send(address, __file__)
            assert code == 25
            assert is_one_line(errors)
            code, _, errors = receiver.end()
        assert code == 23
        assert is_one_line(errors)

    def test_messages_larger_than_the_receiver_takes(
        self, contents: bytes, inbox: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_bytes(contents)
        with listening("receive", "-q", "-o", str(inbox), "--max-message-size", "64K") as receiver:
            code, _, errors = send(receiver.address, "--message-size", "1M", str(tmp_path / "file"))
            assert code == 63
            assert is_one_line(errors)
            code, _, errors = receiver.end()
        assert code == 18
        assert is_one_line(errors)
        assert list(inbox.iterdir()) == []

    def test_not_a_receiver(self, run: Callable[..., tuple[int, str, str]], echo: str) -> None:
        code, _, errors = run("send", echo, __file__)
        assert code == 8
        assert is_one_line(errors)
        assert "tcpconn receive" in errors

    def test_a_receiver_that_says_nothing(self, run: Callable[..., tuple[int, str, str]]) -> None:
        with tcpconn.listen(ANY) as listener:
            code, _, errors = run("send", "--timeout", "50ms", listener.address, __file__)
        assert code == 28
        assert is_one_line(errors)

    def test_a_sender_that_does_not_come(self, run: Callable[..., tuple[int, str, str]]) -> None:
        code, _, errors = run("receive", "-q", "--timeout", "20ms", ANY)
        assert code == 28
        assert is_one_line(errors)

    @posix_only
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_leaves_nothing_behind(self, inbox: Path, number: int) -> None:
        with (
            listening("receive", "-q", "-o", str(inbox)) as receiver,
            Command("send", "-n", "file", receiver.address, stdin=subprocess.PIPE) as sender,
        ):
            assert sender.process.stdin is not None
            # More than all buffers on the way hold: the receiver has taken some of it by then.
            for _ in range(48):
                sender.process.stdin.write(bytes(MIB))
            assert [path.suffix for path in inbox.iterdir()] == [".part"]
            assert receiver.end(number) == (128 + number, b"", "")
            with contextlib.suppress(BrokenPipeError):
                sender.process.stdin.close()
            sender.process.stdin = None
            code, _, errors = sender.end()
        assert code == 55
        assert is_one_line(errors)
        assert list(inbox.iterdir()) == []


class FakeSender:
    """The sender's side, to say what a well-behaved sender never would."""

    def __init__(self, address: str) -> None:
        self.connection = tcpconn.connect(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.connection.close()

    def say(self, **fields: object) -> None:
        self.connection.send(json.dumps(fields).encode())

    def header(self, **fields: object) -> dict[str, Any]:
        self.say(**{"tcpconn-transfer": 1, "name": "file"} | fields)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        answer = json.loads(self.connection.receive(PATIENCE))
        assert isinstance(answer, dict)
        return answer

    def file(self, name: str, data: bytes) -> dict[str, Any]:
        assert self.header(name=name, size=len(data))["status"] == "ready"
        self.connection.send(data)
        self.connection.send(b"")
        self.say(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        return self.answer()


class TestHostilePeers:
    def test_names_do_not_escape(self, tmp_path: Path, inbox: Path) -> None:
        names = ["../up", "/etc/absolute", "..", "a/../../b", "..\\back", "x\ny\x1b[2J", ".hidden"]
        with listening("receive", "-q", "-o", str(inbox)) as receiver:
            with FakeSender(receiver.address) as sender:
                for name in names:
                    assert sender.file(name, b"evil")["status"] == "stored"
            assert receiver.end() == (0, b"", "")
        assert [path.name for path in tmp_path.iterdir()] == ["inbox"]
        stored = sorted(path.name for path in inbox.iterdir())
        assert stored == sorted(["up", "absolute", "__", "b", "back", "x_y_[2J", "_hidden"])

    def test_a_link_in_the_inbox_is_not_followed(self, tmp_path: Path, inbox: Path) -> None:
        (tmp_path / "victim").write_text("precious")
        (inbox / "file").symlink_to(tmp_path / "victim")
        with listening("receive", "-q", "--force", "-o", str(inbox)) as receiver:
            with FakeSender(receiver.address) as sender:
                assert sender.file("file", b"evil")["status"] == "stored"
            assert receiver.end()[0] == 0
        assert (tmp_path / "victim").read_text() == "precious"
        assert (inbox / "file").read_text() == "evil"

    def test_wrong_digest(self, inbox: Path) -> None:
        with listening("receive", "-q", "-o", str(inbox)) as receiver:
            with FakeSender(receiver.address) as sender:
                assert sender.header()["status"] == "ready"
                sender.connection.send(b"contents")
                sender.connection.send(b"")
                sender.say(size=8, sha256=hashlib.sha256(b"otherwise").hexdigest())
                assert sender.answer()["status"] == "failed"
            code, _, errors = receiver.end()
        assert code == 18
        assert is_one_line(errors)
        assert "SHA-256" in errors
        assert list(inbox.iterdir()) == []

    def test_sender_goes_away(self, inbox: Path) -> None:
        with listening("receive", "-q", "-o", str(inbox)) as receiver:
            with FakeSender(receiver.address) as sender:
                assert sender.header(size=100)["status"] == "ready"
                sender.connection.send(b"some")
                sender.connection.abort()
            code, _, errors = receiver.end()
        assert code == 18
        assert is_one_line(errors)
        assert list(inbox.iterdir()) == []

    def test_sender_cannot_read_on(self, inbox: Path) -> None:
        with listening("receive", "-q", "-o", str(inbox)) as receiver:
            with FakeSender(receiver.address) as sender:
                assert sender.header(size=100)["status"] == "ready"
                sender.connection.send(b"some")
                sender.connection.send(b"")
                sender.say(error="bad sector\x1b[2J\nnext line")
                assert sender.answer()["status"] == "failed"
                assert sender.file("next", b"whole")["status"] == "stored"
            code, _, errors = receiver.end()
        assert code == 18
        assert is_one_line(errors)
        assert "bad sector?[2J?next line" in errors
        assert [path.name for path in inbox.iterdir()] == ["next"]

    @pytest.mark.parametrize(
        "noise", [b"", b"hello", b"[1]", b'{"tcpconn-transfer": 2}', b"[" * 60000]
    )
    def test_no_sender_at_all_does_not_end_the_wait_for_one(
        self, inbox: Path, noise: bytes
    ) -> None:
        with listening("receive", "-q", "-o", str(inbox)) as receiver:
            with tcpconn.connect(receiver.address):
                pass
            with FakeSender(receiver.address) as other:
                other.connection.send(noise)
                assert other.answer()["status"] == "refused"
            with FakeSender(receiver.address) as sender:
                assert sender.file("file", b"contents")["status"] == "stored"
            code, _, errors = receiver.end()
        assert code == 0
        assert is_one_line(errors)
        assert "no tcpconn send" in errors

    @pytest.mark.parametrize(
        ("verdict", "expected"),
        [
            ({"status": "stored", "size": 5, "sha256": "0" * 64}, 18),
            ({"status": "failed", "reason": "the SHA-256 differ", "mismatch": True}, 18),
            ({"status": "failed", "reason": "disk full"}, 25),
            ({"status": "well"}, 8),
            ([], 8),
        ],
    )
    def test_verdict(
        self,
        run: Callable[..., tuple[int, str, str]],
        tmp_path: Path,
        verdict: object,
        expected: int,
    ) -> None:
        (tmp_path / "file").write_bytes(b"12345")

        def receive(connection: tcpconn.Connection) -> None:
            with contextlib.suppress(tcpconn.TcpconnError):
                connection.receive(PATIENCE)
                connection.send(b'{"tcpconn-transfer": 1, "status": "ready"}')
                while connection.receive(PATIENCE):
                    pass
                connection.receive(PATIENCE)
                connection.send(json.dumps(verdict).encode())
                connection.receive(PATIENCE)

        with tcpconn.serve(receive, ANY) as server:
            code, _, errors = run("send", server.address, str(tmp_path / "file"))
        assert code == expected
        assert is_one_line(errors)

    def test_an_early_failure_cuts_the_file_short(
        self, run: Callable[..., tuple[int, str, str]], tmp_path: Path
    ) -> None:
        with (tmp_path / "file").open("wb") as file:
            file.truncate(1 << 40)  # which nobody will ever read to the end
        trailers = []

        def receive(connection: tcpconn.Connection) -> None:
            with contextlib.suppress(tcpconn.TcpconnError):
                connection.receive(PATIENCE)
                connection.send(b'{"tcpconn-transfer": 1, "status": "ready"}')
                connection.receive(PATIENCE)
                connection.send(b'{"status": "failed", "reason": "disk full"}')
                while connection.receive(PATIENCE):
                    pass
                trailers.append(json.loads(connection.receive(PATIENCE)))
                connection.receive(PATIENCE)

        with tcpconn.serve(receive, ANY) as server:
            code, _, errors = run("send", server.address, str(tmp_path / "file"))
        assert code == 25
        assert is_one_line(errors)
        assert "disk full" in errors
        assert list(trailers[0]) == ["error"]


@posix_only
class TestTerminal:
    @staticmethod
    def read_until(terminal: int, pattern: str) -> str:
        """Read what a command draws, up to `pattern`; without colours and cursor movements."""
        shown = ""
        while not re.search(pattern, plain := re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)):
            shown += os.read(terminal, 65536).decode()
        return plain

    @pytest.fixture
    def terminal(self) -> Iterator[tuple[int, int]]:
        ours, theirs = os.openpty()
        yield ours, theirs
        os.close(ours)
        os.close(theirs)

    def test_progress(self, inbox: Path, terminal: tuple[int, int]) -> None:
        ours, theirs = terminal
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
        with (
            listening("receive", stderr=theirs, cwd=inbox, env=environment) as receiver,
            FakeSender(receiver.address) as sender,
        ):
            data = bytes(4 * MIB)
            assert sender.header(name="[red]movie", size=len(data))["status"] == "ready"
            sender.connection.send(data[: 2 * MIB])
            shown = self.read_until(ours, r"\[red\]movie.*/4\.2 MB")
            assert "%" in shown
            sender.connection.send(data[2 * MIB :])
            sender.connection.send(b"")
            sender.say(size=len(data), sha256=hashlib.sha256(data).hexdigest())
            assert sender.answer()["status"] == "stored"
            sender.connection.close()
            self.read_until(ours, r"\[red\]movie received: 4.2 MB in .*, sha256 [0-9a-f]{64}")
            assert receiver.end()[0] == 0

    def test_ping_keeps_the_figures_below_the_lines(
        self, echo: str, terminal: tuple[int, int]
    ) -> None:
        ours, theirs = terminal
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
        with Command("ping", "-i", "50ms", echo, stdout=theirs, env=environment) as ping:
            self.read_until(ours, r"seq=2 time=")
            self.read_until(ours, r"\d+ sent, \d+ received · min .* p50 .* p99 .* max .* ms")
            assert ping.end(signal.SIGINT) == (0, b"", "")
            self.read_until(ours, "ping statistics")

    def test_sink_prints_rates(self, terminal: tuple[int, int]) -> None:
        ours, theirs = terminal
        with listening("serve", "--sink", stderr=theirs) as server:
            with tcpconn.connect(server.address) as connection:
                connection.send(bytes(1000))
                self.read_until(ours, r"/s, \d+ messages/s, 1 connection\r\n")
            assert server.end(signal.SIGINT)[0] == 0


@linux_only
class TestMemory:
    @staticmethod
    def transfer(source: Path, output: str) -> None:
        """Send `source`, and see that neither side has taken much memory for it."""
        with Command(
            "receive", "--print-address", "-q", "-o", output, ANY, code=MEASURED
        ) as receiver:
            receiver.address = receiver.line().strip()
            with Command("send", receiver.address, str(source), code=MEASURED) as sender:
                for ended in (sender, receiver):
                    code, _, errors = ended.end()
                    assert code == 0, errors
                    match = re.search(r"VmHWM:\s*(\d+) kB", errors)
                    assert match is not None
                    assert int(match[1]) * 1024 < MEMORY_LIMIT

    def test_is_bounded(self, tmp_path: Path) -> None:
        with (tmp_path / "file").open("wb") as file:
            file.truncate(256 * MIB)
        self.transfer(tmp_path / "file", os.devnull)

    @pytest.mark.slow
    def test_is_bounded_for_2_gib(self, tmp_path: Path, inbox: Path) -> None:
        block = os.urandom(MIB)
        with (tmp_path / "file").open("wb") as file:
            for number in range(2048):
                file.write(number.to_bytes(8, "big") + block[8:])
        self.transfer(tmp_path / "file", str(inbox))
        with (tmp_path / "file").open("rb") as sent, (inbox / "file").open("rb") as stored:
            while part := sent.read(MIB):
                assert stored.read(MIB) == part
            assert not stored.read(1)


class TestParts:
    @pytest.mark.parametrize(
        ("text", "size"),
        [("4096", 4096), ("64K", 65536), ("64k", 65536), ("1.5M", 3 << 19), ("1GiB", 1 << 30)],
    )
    def test_sizes(self, text: str, size: int) -> None:
        assert SizeType().convert(text, None, None) == size

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("2", 2.0), (".5", 0.5), ("500ms", 0.5), ("20us", 20e-6), ("2m", 120.0), ("1h", 3600.0)],
    )
    def test_durations(self, text: str, seconds: float) -> None:
        assert DurationType().convert(text, None, None) == pytest.approx(seconds)

    @pytest.mark.parametrize(
        ("name", "stored"),
        [
            ("plain.txt", "plain.txt"),
            ("two words", "two words"),
            ("für.txt", "für.txt"),
            (None, "stdin"),
            ("", "stdin"),
            ("a/", "stdin"),
            (".", "_"),
            ("..", "__"),
            ("/etc/passwd", "passwd"),
            ("../../x", "x"),
            ("C:\\windows\\x", "x"),
            (".bashrc", "_bashrc"),
            ("-rf", "_rf"),
            ("a\0b\nc\x7fd", "a_b_c_d"),
            ("\u202egnp.exe", "_gnp.exe"),
            ("\udcff\udcfe", "__"),
        ],
    )
    def test_safe_names(self, name: str | None, stored: str) -> None:
        assert safe_name(name) == stored

    def test_long_names_keep_their_suffix(self) -> None:
        stored = safe_name("ü" * 300 + ".tar")
        assert stored.endswith("ü.tar")
        assert len(os.fsencode(stored)) <= 255

    def test_text_of_peers_is_harmless(self) -> None:
        assert printable("a\x1b[31mb\r\nc") == "a?[31mb??c"
        assert len(printable("x" * 10_000)) == 200

    def test_round_trips(self) -> None:
        trips = RoundTrips()
        for nanoseconds in range(1, 100_001):
            trips.add(nanoseconds)
        assert (trips.count, trips.least, trips.greatest) == (100_000, 1, 100_000)
        assert trips.mean == pytest.approx(50_000.5)
        assert trips.deviation == pytest.approx(28_867.5, rel=1e-3)
        assert trips.percentiles(50, 90, 99, 99.9) == pytest.approx(
            [50_000, 90_000, 99_000, 99_900], rel=5e-3
        )
        trips = RoundTrips()
        trips.add(123_456)
        assert trips.percentiles(0, 50, 100) == [123_456] * 3

    @pytest.mark.parametrize(
        "message",
        [
            b"",
            b"\xff",
            b"[]",
            b"{}",
            b'{"tcpconn-transfer": 1, "name": 5}',
            b'{"tcpconn-transfer": 1, "name": "a", "size": -1}',
            b'{"tcpconn-transfer": 1, "name": "a", "size": true}',
            b'{"tcpconn-transfer": 1, "name": "a", "mode": 1.5}',
            b'{"tcpconn-transfer": 1, "name": "' + b"a" * 70_000 + b'"}',
        ],
    )
    def test_malformed_headers(self, message: bytes) -> None:
        with pytest.raises(TransferError):
            Header.decode(message)

    @pytest.mark.parametrize(
        "header", [Header(None), Header("a\udcff", 1 << 40, 0o644), Header("x", 0)]
    )
    def test_headers(self, header: Header) -> None:
        assert Header.decode(header.encode()) == header
