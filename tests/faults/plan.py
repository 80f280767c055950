"""What is to go wrong on which link, and where. A plan is data: the same seed gives the same plan.

A link of the proxy has two *ways*: `up` from the client to the server, and `down`. A fault strikes
one of them, before the byte with a given offset, or a given time after the link was made.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from typing import Any

FIN, RST, REFUSE = "fin", "rst", "refuse"
FREEZE, DELAY, SPLIT, DROP, FLIP = "freeze", "delay", "split", "drop", "flip"

BREAKS = (FIN, RST, REFUSE)
"""Those that end the link: an end of stream both ways, a reset both ways; and a reset after which
the proxy refuses links for a while."""

UP, DOWN = "up", "down"
WAYS = (UP, DOWN)


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    kind: str
    way: str = UP
    at: int | None = None
    """The byte of this way before which it strikes, counted from the beginning of the link; None:
    `after` says when."""
    after: float | None = None
    """Seconds after the link was made."""
    seconds: float | None = None
    """freeze, delay, refuse: how long. None: for ever (freeze only)."""
    length: int = 0
    """split: how many bytes go one by one. delay: how many bytes come late; 0: all that follow."""
    bit: int = 0
    """flip: which bit of the byte."""

    def __post_init__(self) -> None:
        known = (*BREAKS, FREEZE, DELAY, SPLIT, DROP, FLIP)
        if self.kind not in known or self.way not in WAYS:
            raise ValueError(f"not a fault: {self}")
        if (self.at is None) == (self.after is None):
            raise ValueError(f"a fault needs either an offset or a time: {self}")
        if self.kind == FLIP and self.at is None:
            raise ValueError("a bit is flipped at an offset")
        if self.kind in (DELAY, REFUSE) and self.seconds is None:
            raise ValueError(f"{self.kind} needs seconds")


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """What a random plan is made of. Shares and weights are relative to each other."""

    opening: tuple[int, int] = (150, 150)
    """Bytes up and down within which a link begins: its handshake or the resume."""
    in_opening: float = 0.5
    """The share of links whose break strikes there; the others live on for a while."""
    breaks: tuple[tuple[str, float], ...] = ((FIN, 1), (RST, 1))
    """How links end, and how often; none: they are left alive."""
    nuisances: tuple[tuple[str, float], ...] = ((FREEZE, 1), (DELAY, 1), (SPLIT, 2))
    """What else happens to links on the way there …"""
    nuisance: float = 0.3
    """… and how often on each, on the average."""
    life: tuple[int, int] = (200, 2_000_000)
    """Bytes after which a link that got over its opening breaks, log-uniform."""
    times: float = 0.3
    """The share of the later breaks that come by the clock instead …"""
    longest: float = 0.2
    """… after so many seconds at most."""
    pause: float = 0.02
    """Seconds that a freeze, delay or refusal lasts at most."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Which faults each link meets: those written down for the first links, then random ones.

    With neither a profile nor links, nothing ever goes wrong.
    """

    seed: int = 0
    links: Sequence[Sequence[Fault]] = ()
    """The faults of link 0, 1, …"""
    profile: Profile | None = None
    """Of the links after those; None: nothing happens to them."""

    def faults(self, link: int) -> tuple[Fault, ...]:
        """The faults of a link, by its number: the same ones however often and when asked."""
        if link < len(self.links):
            return tuple(self.links[link])
        if self.profile is None:
            return ()
        return tuple(random_faults(random.Random(f"{self.seed} {link}"), self.profile))

    def to_json(self) -> str:
        """For the command line of another process, and for whoever replays it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote."""
        read = json.loads(text)
        links = tuple(tuple(Fault(**each) for each in faults) for faults in read["links"])
        profile = read["profile"] and Profile(**_tuples(read["profile"]))
        return cls(read["seed"], links, profile)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Lists as tuples, which JSON does not know."""

    def frozen(value: Any) -> Any:
        return tuple(frozen(each) for each in value) if isinstance(value, list) else value

    return {name: frozen(value) for name, value in fields.items()}


def random_faults(choice: random.Random, profile: Profile) -> list[Fault]:
    """One link's faults: how it ends, and what comes before that."""
    end = _end(choice, profile) if profile.breaks else None
    whole, rest = divmod(profile.nuisance, 1)
    faults = [_nuisance(choice, profile, end) for _ in range(int(whole + (choice.random() < rest)))]
    if end is None:
        return faults
    if any(fault.kind == DROP for fault in faults):
        # Then the way may never come to where it was to break.
        end = dataclasses.replace(end, at=None, after=choice.uniform(0, profile.longest))
    return [*faults, end]


def _end(choice: random.Random, profile: Profile) -> Fault:
    way = choice.choice(WAYS)
    kind = _weighted(choice, profile.breaks)
    seconds = choice.uniform(0, profile.pause) if kind == REFUSE else None
    opening = profile.opening[WAYS.index(way)]
    if choice.random() < profile.in_opening:
        return Fault(kind, way, at=choice.randrange(opening), seconds=seconds)
    if choice.random() < profile.times:
        return Fault(kind, way, after=choice.uniform(0, profile.longest), seconds=seconds)
    return Fault(kind, way, at=opening + _log_uniform(choice, *profile.life), seconds=seconds)


def _nuisance(choice: random.Random, profile: Profile, end: Fault | None) -> Fault:
    kind = _weighted(choice, profile.nuisances)
    if end is None:
        at = _log_uniform(choice, 1, profile.life[1])
    else:
        at = choice.randrange(end.at + 1 if end.at is not None else max(profile.opening))
    pause = choice.uniform(0, profile.pause)
    way = choice.choice(WAYS)
    if kind == SPLIT:
        return Fault(kind, way, at=at, length=choice.randrange(1, 2000))
    if kind == FLIP:
        return Fault(kind, way, at=at, bit=choice.randrange(8))
    if kind == DELAY:
        return Fault(kind, way, at=at, seconds=pause, length=_log_uniform(choice, 100, 100_000))
    return Fault(kind, way, at=at, seconds=None if kind == DROP else pause)


def _weighted(choice: random.Random, weights: Sequence[tuple[str, float]]) -> str:
    kinds = [kind for kind, _ in weights]
    return choice.choices(kinds, [weight for _, weight in weights])[0]


def _log_uniform(choice: random.Random, low: int, high: int) -> int:
    """As many of each order of magnitude."""
    return int(low * (high / low) ** choice.random())
