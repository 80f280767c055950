"""What the targets share: how they say that something is wrong, and what they feed."""

from __future__ import annotations

import functools
from typing import Any

from tcpconn import errors
from tcpconn._buffer import BlockPool
from tcpconn.options import Options

MS = 1_000_000
CEILING = 1 << 62
"""No count of bytes is anywhere near."""

LONGEST = 1 << 21
"""Bytes that one case feeds to a session: a run shall be short."""

_WORDS = b"".join(n.to_bytes(8, "big") for n in range(1 << 17))


class Finding(AssertionError):
    """Something that must hold does not."""


def check(condition: bool, what: object) -> None:
    """Raises a `Finding` unless the condition holds."""
    if not condition:
        raise Finding(what)


def payload(size: int, seed: int = 0) -> bytes:
    """`size` bytes that are different for each seed."""
    start = seed * 8 % 4096
    return _WORDS[start : start + min(size, LONGEST // 4)]


def uid(number: int) -> bytes:
    """A connection's id."""
    return (number & 0xFFFF).to_bytes(16, "big")


def u(value: int, bits: int) -> int:
    """The value, cut to so many bits."""
    return value & ((1 << bits) - 1)


def options_of(setup: dict[str, Any]) -> Options:
    """A set-up's options; what is out of range is left out."""
    return _options(tuple(setup.items()))


@functools.lru_cache(maxsize=4096)
def _options(setup: tuple[tuple[str, Any], ...]) -> Options:
    chosen: dict[str, Any] = {}
    for name, value in setup:
        try:
            Options(**{**chosen, name: value})
        except (errors.OptionError, TypeError):
            continue
        chosen[name] = value
    return Options(**chosen)


def check_blocks(blocks: BlockPool) -> None:
    """All memory has come back."""
    numbers = blocks.stats()
    check(numbers["allocated_bytes"] == numbers["free_bytes"], f"memory is lost: {numbers}")
