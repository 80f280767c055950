"""What is measured while many are open at once: connections of one link, or links."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.placement import apart
from benchmarks.scale.control import Control
from benchmarks.scale.measuring import KILOBYTE, SMALL, memory, ns_per_message, round_trips_ns

ROUND_TRIPS = 400
AT_ONCE = 20
"""Of them; then the server is asked for more."""
ENOUGH_SECONDS = 5.0
"""After which there are no more round trips: on a machine that has too much to do, 400 can take a
minute.
"""


def measure_opened(
    connect: Callable[[], Any], control: Control, at: int, seconds: float, many: int, **accept: Any
) -> tuple[dict[str, float], list[Any]]:
    """Opens `at`, which it returns, too; a round trip on one of them, sends on one, sends on all by
    turns.

    From `many` on, memory and the rate of opening say something. `accept` is for the other side.
    """
    theirs = control.ask(do="accept", count=0, **accept)["memory"]
    ours = memory()

    started = time.perf_counter()
    control.say(do="accept", count=at, **accept)
    opened = [connect() for _ in range(at)]
    theirs_now = control.hear()["memory"]
    values = {}
    if at >= many:
        values["open_rate"] = at / (time.perf_counter() - started)
    if at >= many and ours:
        values["client_memory"] = (memory() - ours) / at
        values["server_memory"] = (theirs_now - theirs) / at

    index = at // 2
    one = opened[index]

    def exchange() -> None:
        one.send(SMALL)
        one.receive()

    taken: list[int] = []
    enough = time.perf_counter() + ENOUGH_SECONDS
    while not taken or (len(taken) < ROUND_TRIPS and time.perf_counter() < enough):
        control.say(do="echo", index=index, count=AT_ONCE)
        with apart("client"):
            taken += round_trips_ns(exchange, AT_ONCE)
        control.hear()
    values["round_trip"] = statistics.median(taken)

    def one_sends(count: int) -> None:
        control.say(do="take", index=index, count=count)
        send = one.send
        for _ in range(count):
            send(KILOBYTE)
        control.hear()

    values["one_sends"] = ns_per_message(one_sends, seconds, first=1000)
    sends = [each.send for each in opened]

    def all_send(count: int) -> None:
        control.say(do="take_from_each", rounds=count // at)
        for send in itertools.islice(itertools.cycle(sends), count):
            send(KILOBYTE)
        control.hear()

    values["all_send"] = ns_per_message(all_send, seconds, first=at)
    return values, opened
