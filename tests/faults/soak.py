"""The checked traffic over links that break, for as long as one likes: `python -m faults.soak`.

Prints a line now and then about what happened, and a table in the end. What it does to links comes
from a seed: the same seed does the same again, at the same bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import time
from collections.abc import Iterable

import tcpconn.redial
from faults.cost import measure
from faults.ends import KINDS, End, Job
from faults.kill import run_kills
from faults.plan import BREAKS, DELAY, DROP, FIN, FLIP, FREEZE, REFUSE, RST, SPLIT, Plan, Profile
from faults.proxy import Event
from faults.run import run

PAUSES = {"PAUSE": 0.005, "LONGEST_PAUSE": 0.05}
"""Seconds, for the redialling: else most of the time would go by waiting after breaks in a resume.
"""

PLAIN = Profile(
    opening=(100, 100),
    breaks=((FIN, 4), (RST, 4), (REFUSE, 1)),
    nuisances=((FREEZE, 2), (DELAY, 2), (SPLIT, 4), (DROP, 1)),
    life=(100, 20_000_000),
)
TLS = dataclasses.replace(
    PLAIN,
    opening=(1000, 2800),
    nuisances=(*PLAIN.nuisances, (FLIP, 2)),
)
"""A flipped bit is noticed there, and one more break."""


class Watch:
    """Says when it is enough, and what happened so far."""

    def __init__(self, seconds: float, messages: int, breaks: int, *, quiet: bool) -> None:
        self._began = time.monotonic()
        self._seconds, self._messages, self._breaks = seconds, messages, breaks
        self._quiet = quiet
        self._over = False
        self._seen = 0
        self._broken = 0
        self._resumes = 0
        self._width = 0

    def enough(self) -> bool:
        """Whether all that was asked for has happened."""
        return self._over

    def __call__(self, events: Iterable[Event], ends: list[End]) -> None:
        """Looks at the events so far and at this side's ends."""
        events = list(events)
        for event in events[self._seen :]:
            self._broken += event.what in BREAKS
            self._resumes += event.what in BREAKS and event.phase in ("resume", "handshake")
        self._seen = len(events)
        elapsed = time.monotonic() - self._began
        messages = sum(end.ledger.tally.messages + end.sent for end in ends)
        amiss = sum(not end.ledger.tally.clean for end in ends) + sum(
            len(end.errors) for end in ends
        )
        self._over = amiss > 0 or (
            elapsed >= self._seconds and messages >= self._messages and self._broken >= self._breaks
        )
        if not self._quiet:
            size = sum(end.ledger.tally.size for end in ends)
            line = (
                f"{elapsed:6.0f} s  {messages:>11,} messages  {self._broken:>7,} breaks, "
                f"{self._resumes:,} in openings  {size / elapsed / 1e6:5.0f} MB/s down  "
                f"{'AMISS' if amiss else 'clean'}"
            )
            print(line, end="\r" if sys.stdout.isatty() else "\n", flush=True)


def main() -> int:
    """Runs until all that was asked for has happened; 1 when anything was amiss."""
    parser = argparse.ArgumentParser(
        prog="python -m faults.soak",
        description="Checked traffic between two processes, over links that a third one breaks.",
    )
    add = parser.add_argument
    add("--seconds", type=float, default=10, help="run at least so long (%(default)s)")
    add("--messages", type=int, default=0, help="send at least so many, both ways together")
    add("--breaks", type=int, default=0, help="break links at least so often")
    add("--connections", type=int, default=16, help="at once, on one link (%(default)s)")
    add("--seed", type=int, default=None, help="what to do to links; random, and said, without")
    add(
        "--ends",
        nargs=2,
        choices=KINDS,
        default=("blocking", "blocking"),
        metavar=("CLIENT", "SERVER"),
        help=f"what sends and receives in the two processes, each one of {', '.join(KINDS)}",
    )
    add(
        "--kill",
        type=int,
        nargs="?",
        const=100,
        metavar="TIMES",
        help="instead, kill the server in mid-stream so often, and account for every message",
    )
    add("--cost", action="store_true", help="instead, measure what a break costs")
    add("--link", default="auto", help="the link class: native, stdlib or auto")
    add("--tls", action="store_true", help="through TLS, where bits are flipped too")
    add("--plan", help="do to links what an earlier run said that it did")
    add("--quiet", action="store_true", help="only the table")
    given = parser.parse_args()
    if given.cost:
        measure(breaks=1000, seconds=given.seconds, rounds=3, link=given.link)
        return 0
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    for name, seconds in PAUSES.items():
        setattr(tcpconn.redial, name, seconds)
    print(f"seed {seed}", flush=True)
    if given.kill:
        kills = run_kills(
            given.kill,
            seed,
            connections=given.connections,
            client=given.ends[0],
            link=given.link,
        )
        print(f"\n{kills.table()}")
        return 0 if kills.clean else 1
    plan = Plan(seed, profile=TLS if given.tls else PLAIN)
    if given.plan:
        plan = Plan.from_json(given.plan)
    options = {"link": given.link}
    job = Job(
        connections=given.connections,
        seed=plan.seed,
        tls=given.tls,
        client_options=options,
        server_options=options,
        client=given.ends[0],
        server=given.ends[1],
    )
    watch = Watch(given.seconds, given.messages, given.breaks, quiet=given.quiet)
    outcome = run(plan, job, enough=watch.enough, watch=watch)
    print(f"\n{outcome.table()}")
    return 0 if outcome.clean else 1


if __name__ == "__main__":
    sys.exit(main())
