"""Runs a module under callgrind, and reads what it has counted: instructions by function."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT

SECONDS = 300
"""How long it may take; usual are 10."""

_NAME = re.compile(r"\((\d+)\)(?: (.*))?$")
_CYTHON = re.compile(r"__pyx_[a-z]+_7tcpconn_(.*)")
_COST = re.compile(r"[-+*\d]")


class NoCallgrind(Exception):
    """It cannot be had here; the text says why, for the user."""


@dataclass(frozen=True)
class Function:
    """Where instructions were executed."""

    library: str
    """The path of the shared object."""
    name: str

    @property
    def ours(self) -> bool:
        """Whether it is in one of tcpconn's compiled modules."""
        return "tcpconn" in Path(self.library).parts

    @property
    def of_libc(self) -> bool:
        """Whether it is in the C library: memory, copies, locks."""
        return Path(self.library).name.startswith("libc.")


def version() -> str:
    """Valgrind's; raises `NoCallgrind`."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise NoCallgrind("valgrind is not installed (Debian: apt install valgrind)")
    done = subprocess.run([valgrind, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip().removeprefix("valgrind-")


def run(module: str, folder: Path, marker: str) -> list[Path]:
    """Runs `python -m module`; a file for what was counted before each call of `marker`.

    Only the main thread counts. Raises `NoCallgrind`.
    """
    version()
    out = folder / "callgrind"
    done = subprocess.run(
        [
            "valgrind",
            "--tool=callgrind",
            "--dump-line=no",
            "--separate-threads=yes",
            f"--dump-before={marker}",
            f"--callgrind-out-file={out}",
            sys.executable,
            *("-m", module),
        ],
        check=False,
        cwd=ROOT,
        # The same dictionaries, thus the same instructions, each time.
        env={"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    if done.returncode:
        raise NoCallgrind(f"python -m {module} failed under callgrind:\n{done.stderr}")
    # callgrind.PART-THREAD
    parts = folder.glob("callgrind.*-01")
    return sorted(parts, key=lambda path: int(path.suffix[1:].partition("-")[0]))


def read(lines: Iterable[str]) -> Counter[Function]:
    """Instructions that each function has executed itself, from a file in callgrind's format."""
    # A name is written out once, behind its number, and then the number stands for it.
    names: dict[tuple[str, str], str] = {}

    def name(kind: str, text: str) -> str:
        found = _NAME.match(text)
        if found is None:
            return text
        if found[2] is not None:
            names[kind, found[1]] = found[2]
        return names[kind, found[1]]

    costs: Counter[Function] = Counter()
    library, function = "", ""
    of_callee = False
    for line in lines:
        key, _, text = line.rstrip("\n").partition("=")
        if key == "ob":
            library = name("ob", text)
        elif key == "fn":
            function = name("fn", text)
        elif key in ("cob", "cfn"):
            name(key[1:], text)
        elif key == "calls":
            of_callee = True
        elif _COST.match(line):
            # The line behind a call says what the callee cost, with all that it called.
            _, _, cost = line.partition(" ")
            if not of_callee and cost:
                costs[Function(library, function)] += int(cost)
            of_callee = False
    return costs


def readable(name: str) -> str:
    """A function of ours as the source calls it: `_session.Session.send`."""
    found = _CYTHON.match(name)
    if found is None:
        return name
    module, rest = _split(found[1])
    if (length := re.match(r"\d+", rest)) is not None:
        owner, own = _split(rest)
        # Else, and before a method's own name, the number only tells functions apart.
        rest = f"{owner}.{own.lstrip('0123456789')}" if own else rest[length.end() :]
    return f"{module}.{rest}"


def _split(text: str) -> tuple[str, str]:
    """A name that has its length before it, and what comes behind the underscore after it.

    Where there is no such name, what comes behind is empty.
    """
    digits = re.match(r"\d+", text)
    if digits is None:
        return text, ""
    end = digits.end() + int(digits[0])
    if text[end : end + 1] != "_":
        return text[digits.end() :], ""
    return text[digits.end() : end], text[end + 1 :]
