"""What the README shows works, and what it lists is what there is."""

import dataclasses
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tcpconn

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SECURITY = (ROOT / "SECURITY.md").read_text("utf-8")


def section(title: str, text: str = README) -> str:
    """A section's text, without its subsections."""
    found = re.search(rf"^##+ {title}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def written(name: str, value: object) -> str:
    """A default as the table of options has it."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return f'`"{value}"`'
    if name.endswith("_rate"):
        return f"{value:.0f}/s"
    if isinstance(value, float):
        return f"{value:.0f} s" if value else "0"
    assert isinstance(value, int)
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value % size == 0 and name.endswith(("_size", "_credit", "_memory", "_bytes")):
            return f"{value // size} {unit}"
    return f"{value:,}"


def test_options() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S.*?) \|", section("Options"), re.MULTILINE)
    options = tcpconn.Options()
    assert rows == [
        (field.name, written(field.name, getattr(options, field.name)))
        for field in dataclasses.fields(options)
    ]


NO_LIMITS = {
    "keepalive",
    "on_disconnect",
    "on_state",
    "busy_poll",
    "link",
    "ssl",
    "server_hostname",
    "authkey",
    "authorize",
}
"""Options that do not bound what a peer can take."""


def test_limits_in_security() -> None:
    """Every limit is there with its default and a reason, and none that there is not."""
    table = section("Limits", SECURITY)
    rows = re.findall(r"^\| `(\w+)` \| (\S.*?) \| \S.+ \|$", table, re.MULTILINE)
    options = tcpconn.Options()
    assert rows == [
        (field.name, written(field.name, getattr(options, field.name)))
        for field in dataclasses.fields(options)
        if field.name not in NO_LIMITS
    ]


def test_options_in_security() -> None:
    """Whatever else it names like an option or a function with options is one."""
    known = {field.name for field in dataclasses.fields(tcpconn.Options)} | set(tcpconn.__all__)
    named = set(re.findall(r"`(\w+_\w+)`", SECURITY))
    assert named - known == {"check_hostname", "verify_mode"}


def test_errors() -> None:
    named = set(re.findall(r"`(\w+)`", section("Errors")))
    for name in tcpconn.__all__:
        thing = getattr(tcpconn, name)
        if isinstance(thing, type) and issubclass(thing, tcpconn.TcpconnError):
            assert name in named


def test_every_method_of_a_connection_is_listed() -> None:
    text = section("The interface")
    for name in dir(tcpconn.Connection):
        if not name.startswith("_") and name not in ("engine", "counters"):
            assert re.search(rf"`{name}\b", text), name


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)", README, re.MULTILINE)
    anchors = {"#" + heading.lower().replace(" ", "-").replace(",", "") for heading in headings}
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert target in anchors or (ROOT / target).exists(), target


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT ends a process otherwise there")
def test_first_steps(tmp_path: Path) -> None:
    server, client = re.findall(r"```python\n(.*?)```", section("First steps"), re.DOTALL)
    address = f"unix:{tmp_path}/socket"
    for name, code in (("server", server), ("client", client)):
        assert "127.0.0.1:9000" in code
        Path(tmp_path, f"{name}.py").write_text(code.replace("127.0.0.1:9000", address), "utf-8")
    python = [sys.executable, "-P", "-W", "error"]
    with subprocess.Popen(
        [*python, str(tmp_path / "server.py")], stderr=subprocess.PIPE, text=True
    ) as serving:
        while not Path(tmp_path, "socket").exists():
            assert serving.poll() is None
            time.sleep(0.01)
        done = subprocess.run(
            [*python, str(tmp_path / "client.py")],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("b'hello, world'\n", "")
        serving.send_signal(signal.SIGINT)
        _, errors = serving.communicate(timeout=50)
        assert errors.endswith("KeyboardInterrupt\n")


@pytest.mark.parametrize(("title", "port"), [("asyncio", 9001), ("AnyIO", 9002)])
def test_event_loops(title: str, port: int, tmp_path: Path) -> None:
    if title == "AnyIO":
        pytest.importorskip("anyio")
    [code] = re.findall(r"```python\n(.*?)```", section(title), re.DOTALL)
    assert f"127.0.0.1:{port}" in code
    code = code.replace(f"127.0.0.1:{port}", "127.0.0.1:0")
    Path(tmp_path, "both.py").write_text(code, "utf-8")
    done = subprocess.run(
        [sys.executable, "-P", "-X", "dev", "-W", "error", str(tmp_path / "both.py")],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    # On a busy machine, asyncio's debug mode says that something took long.
    complaints = re.sub(r"^Executing .* took .* seconds\n", "", done.stderr, flags=re.MULTILINE)
    assert (done.stdout, complaints) == ("b'hello'\n", "")
