"""What is run: a case is a target's name, its set-up, and steps. All of it is plain JSON.

A step is a list: a word and its arguments. What the words mean is the target's business
(`targets`); what a case may turn into, the mutator's (`mutate`). The seeds are the vectors of the
tests.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "tests" / "vectors"
CORPUS = Path(__file__).resolve().parent / "corpus"

Step = list[Any]

_HEADER = struct.Struct(">IBBHII")


class Case(NamedTuple):
    """One input."""

    target: str
    setup: dict[str, Any]
    steps: list[Step]

    def dumps(self) -> str:
        """On one line."""
        return json.dumps(list(self), separators=(",", ":"))


def loads(line: str) -> Case:
    """What `dumps` gave."""
    return Case(*json.loads(line))


def read(path: Path) -> list[Case]:
    """The cases of a file, one a line; none where there is no file."""
    if not path.exists():
        return []
    return [loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def write(path: Path, cases: Iterable[Case]) -> None:
    """The file that `read` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(case.dumps() + "\n" for case in cases), "utf-8")


def _unhex(text: str, pieces: dict[str, str]) -> str:
    """A vector's words as plain hex."""
    out = ""
    for word in text.split():
        if word.startswith("@"):
            out += _unhex(pieces[word[1:]], pieces)
            continue
        digits, _, times = word.partition("*")
        out += digits * int(times or 1)
    return out


_BEGIN: list[Step] = [["open", 0, 1, 3], ["carry", 0, 0, 0], ["accept", 1, 0, 0]]
_SAY: list[Step] = [["send", 0, 0, 30_000], ["send", 1, 0, 100], ["carry", 0, 0, 0]]
_HEAR: list[Step] = [["receive", 0, 0, 0], ["receive", 1, 0, 0]]
_END: list[Step] = [["finish", 0, 0, 0], ["close", 1, 0, 0], ["close", 0, 0, 0]]
_PAIRS: list[list[Step]] = [
    [*_BEGIN, *_SAY, *_HEAR, *_END],
    [*_BEGIN, *_SAY[:2], ["write", 0, 0, 20_000], ["read", 1, 0, 5000], ["cut", 0, 0, 0], *_HEAR],
    [*_BEGIN, *_SAY, *_SAY, ["restart", 0, 0, 0], ["carry", 0, 0, 0], *_HEAR],
]
"""What two sessions do: the vectors have only one and its peer."""

_LONGEST = 40_000
"""Hex digits of a seed: what is longer takes its time and shows nothing more."""


def _frames_of(data: bytes) -> Iterator[Step]:
    """The frames of a vector as steps; what is no whole frame stays as it is."""
    at = 0
    while len(data) - at >= _HEADER.size:
        length, kind, flags, reserved, route, number = _HEADER.unpack_from(data, at)
        end = at + _HEADER.size + length
        if reserved or end > len(data):
            break
        yield ["frame", kind, flags, route, number, data[at + _HEADER.size : end].hex()]
        at = end
    if at < len(data):
        yield ["raw", data[at:].hex()]


def _steps_of(vector: dict[str, Any], pieces: dict[str, str]) -> list[Step]:
    steps: list[Step] = []
    handshake = vector.get("handshake", True)
    if handshake:
        steps.append(["hello", {}])
    number = 0
    for step in vector["steps"]:
        if isinstance(step, dict):
            steps.append(["do", step["do"], 0, len(step.get("hex", "")) // 2])
            continue
        data = _unhex(step, pieces)
        if len(data) > _LONGEST:
            return []
        if not handshake:
            steps.append(["raw", data])
            continue
        for frame in _frames_of(bytes.fromhex(data)):
            if frame[0] == "frame":
                # Numbers are relative to what comes next, so that steps may come and go.
                sequenced = 0x10 <= frame[1] < 0x20
                frame[4] -= number if sequenced else 0
                number += sequenced and frame[4] == 0
            steps.append(frame)
    return steps


def seeds() -> Iterator[Case]:
    """The vectors as cases, and what was found worth keeping before."""
    talk = json.loads((VECTORS / "conversations.json").read_text("utf-8"))
    # A client's session has a random id, which `hello` steps know; in raw bytes it will differ.
    pieces = {"session": "00" * 16, **talk["pieces"]}
    for vector in talk["conversations"]:
        setup = {"client": vector["role"] == "client", "options": vector.get("options", {})}
        setup["options"] = {**talk["options"], **setup["options"]}
        if steps := _steps_of(vector, pieces):
            yield Case("session", setup, steps)
    for name in ("frames", "hello"):
        vectors = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
        for vector in [*vectors["valid"], *vectors["malformed"]]:
            data = _unhex(vector["hex"], pieces)
            if len(data) < _LONGEST:
                yield Case("decoder", {"kind": name}, [["raw", data]])
    for said in json.loads((VECTORS / "auth.json").read_text("utf-8"))["says"]:
        yield Case("decoder", {"kind": "auth"}, [["raw", _unhex(said["hex"], pieces)]])
    for steps in _PAIRS:
        yield Case("pair", {}, steps)
    for path in sorted(CORPUS.glob("*.jsonl")):
        yield from read(path)
