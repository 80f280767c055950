"""The examples run, end by themselves and say what they should."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

OUTPUT = {
    "anyio_streams": r"WHOLE\nMESSAGES\n",
    "asyncio_echo": r"100 clients in the loop, 100 with all replies\n"
    r"sockets dialled: 1\n"
    r"a client in a thread: from a thread\n",
    "echo": r"sent 5 bytes, received 5: True\n"
    r"sent 0 bytes, received 0: True\n"
    r"sent 1000000 bytes, received 1000000: True\n",
    "file_transfer": r"numbers: 30\.9 MB in \d+\.\d\d s\nthe receiver has stored the same\n",
    "request_reply": r"4000 requests from 8 threads, 0 wrong replies\n"
    r"sockets dialled: 1\n"
    r"\d+ requests/s, client and server in one process\n",
    "two_services": r"L-I-N-K has 4 letters\nS-E-S-S-I-O-N has 7 letters\non one link: True\n",
    "web_application": r"200 requests at once, 200 with the right answer\n"
    r"sockets dialled: 1\n"
    r"without a worker: 503\n",
    "worker_pool": r"quick: \d+ bulk jobs, at most \d+ sent ahead\n"
    r"slow: \d+ bulk jobs, at most \d+ sent ahead\n"
    r"bulk jobs done: 200 of 200\n"
    r"urgent jobs done: 20, \d+\.\d ms after they came\n",
}

NEEDS = {"anyio_streams": ["anyio"], "web_application": ["httpx", "starlette"]}
"""What is not tcpconn's; without it, an example is not run."""

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="the examples are not here")


def python(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-P", "-W", "error", *map(str, arguments)]


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(OUTPUT)


@pytest.mark.parametrize("name", OUTPUT)
def test_example(name: str) -> None:
    for needed in NEEDS.get(name, []):
        pytest.importorskip(needed)
    done = subprocess.run(
        python(EXAMPLES / f"{name}.py"), capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(OUTPUT[name], done.stdout), done.stdout


@pytest.mark.parametrize("name", OUTPUT)
def test_example_says_how_to_run_it(name: str) -> None:
    assert f"\n    python examples/{name}.py" in (EXAMPLES / f"{name}.py").read_text("utf-8")
