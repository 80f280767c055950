"""Goes through every interleaving of a small model, and finds where it gets stuck for good."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol, Self


class Model(Protocol):
    """Threads and what they share, as one state of all."""

    def key(self) -> Hashable:
        """What distinguishes this state from others."""

    def copy(self) -> Self:
        """Another one like it."""

    def actors(self) -> list[tuple[int, str]]:
        """Who can act next: a number, and what in words."""

    def act(self, actor: int, choose: Callable[[int], int]) -> None:
        """Lets one of them act, in one of the ways that `choose` is asked about."""

    @property
    def done(self) -> bool:
        """Whether everybody has what they wanted."""


@dataclasses.dataclass
class Explored:
    """What `explore` found."""

    states: int
    stuck: list[str] | None
    """The shortest way to where not everybody can get done any more; None: there is none."""


def steps(model: Any) -> Iterator[tuple[str, Any]]:
    """All that can happen next, with each way that it can go: what, and the state after it."""
    for actor, what in model.actors():
        ways: list[list[int]] = [[]]
        while ways:
            way = ways.pop()
            asked: list[int] = []

            def choose(count: int, way: list[int] = way, asked: list[int] = asked) -> int:
                choice = way[len(asked)] if len(asked) < len(way) else 0
                asked.append(count)
                return choice

            new = model.copy()
            new.act(actor, choose)
            yield what, new
            for at in range(len(way), len(asked)):
                before = way + [0] * (at - len(way))
                ways += [[*before, other] for other in range(1, asked[at])]


def explore(start: Model, most: int = 2_000_000) -> Explored:
    """Goes through all states, breadth first."""
    numbers = {start.key(): 0}
    came: list[tuple[int, str]] = [(0, "")]
    before: list[list[int]] = [[]]
    good = [start.done]
    queue = collections.deque([start])
    at = 0
    while queue:
        for what, new in steps(queue.popleft()):
            key = new.key()
            number = numbers.get(key)
            if number is None:
                number = numbers[key] = len(came)
                assert number < most, "the model is too large"
                came.append((at, what))
                before.append([])
                good.append(new.done)
                queue.append(new)
            before[number].append(at)
        at += 1
    # Back from where everybody is done to all from where that can be reached.
    reached = [number for number, done in enumerate(good) if done]
    while reached:
        for earlier in before[reached.pop()]:
            if not good[earlier]:
                good[earlier] = True
                reached.append(earlier)
    if all(good):
        return Explored(len(good), None)
    path = []
    at = good.index(False)
    while at:
        at, what = came[at][0], came[at][1]
        path.append(what)
    return Explored(len(good), path[::-1])
