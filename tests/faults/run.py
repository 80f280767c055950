"""One run of the checked traffic through the proxy: three processes, and what came of it."""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Iterable

from faults.drivers import connect_all
from faults.ends import End, Job, Report
from faults.plan import BREAKS, Plan
from faults.proxy import Event, ProxyProcess
from faults.server import ServerProcess


@dataclasses.dataclass
class Outcome:
    """What a run showed."""

    plan: Plan
    job: Job
    seconds: float
    client: Report
    server: Report
    events: list[Event]

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, doubled, reordered or wrong, and no call failed."""
        return self.client.clean and self.server.clean and self._complete

    @property
    def _complete(self) -> bool:
        """Whether each side has what the other says that it has sent."""
        return (
            self.client.sent == self.server.tally.messages
            and self.server.sent == self.client.tally.messages
        )

    @property
    def breaks(self) -> collections.Counter[tuple[str, str]]:
        """How many breaks of which kind struck which phase."""
        return collections.Counter(
            (event.what, event.phase) for event in self.events if event.what in BREAKS
        )

    @property
    def nuisances(self) -> collections.Counter[str]:
        """What else was done to links."""
        seen = {"link", "refused", "open", "first message", "end", *BREAKS}
        return collections.Counter(e.what for e in self.events if e.what not in seen)

    def resume_times(self) -> list[float]:
        """Seconds from each break of an open link to the first message on the next one, where
        the first attempt to resume was left alone. In order of size."""
        times = []
        began: tuple[float, int] | None = None
        for event in self.events:
            if event.what in BREAKS:
                opened = event.phase not in ("handshake", "resume")
                began = (event.time, event.link) if opened else None
            elif event.what == "first message" and began is not None:
                if event.link == began[1] + 1:
                    times.append(event.time - began[0])
                began = None
        return sorted(times)

    def table(self) -> str:
        """All of it, for people."""
        total = self.client.tally + self.server.tally
        lines = [f"{self.seconds:.1f} s, seed {self.plan.seed}", ""]
        phases = sorted({phase for _, phase in self.breaks})
        kinds = sorted({kind for kind, _ in self.breaks})
        lines.append(f"{'breaks':<16}" + "".join(f"{kind:>9}" for kind in [*kinds, "all"]))
        for phase in phases:
            row = [self.breaks[kind, phase] for kind in kinds]
            lines.append(f"{phase:<16}" + "".join(f"{n:>9,}" for n in [*row, sum(row)]))
        row = [sum(self.breaks[kind, phase] for phase in phases) for kind in kinds]
        lines.append(f"{'all':<16}" + "".join(f"{n:>9,}" for n in [*row, sum(row)]))
        if self.nuisances:
            said = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.nuisances.items()))
            lines.append(f"besides         {said}")
        lines += ["", f"{'messages':<16}{'up':>18}{'down':>18}"]
        for word in ("messages", "size", "lost", "doubled", "reordered", "wrong"):
            up, down = getattr(self.server.tally, word), getattr(self.client.tally, word)
            lines.append(f"{'arrived' if word == 'messages' else word:<16}{up:>18,}{down:>18,}")
        lines += ["", f"{total.size / self.seconds / 1e6:.0f} MB/s, both ways together"]
        times = self.resume_times()
        if times:
            cuts = ", ".join(
                f"{name} {1000 * percentile(times, share):.2f}"
                for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))
            )
            lines.append(
                f"ms from a break to the first message, {len(times):,} times: "
                f"{cuts}, most {1000 * times[-1]:.2f}"
            )
        lines += [f"client: {error}" for error in self.client.errors]
        lines += [f"server: {error}" for error in self.server.errors]
        lines += ["", "clean" if self.clean else f"NOT CLEAN; the plan: {self.plan.to_json()}"]
        return "\n".join(lines)


def percentile(ordered: list[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run(
    plan: Plan,
    job: Job,
    *,
    enough: Callable[[], bool] | None = None,
    watch: Callable[[Iterable[Event], list[End]], None] | None = None,
    every: float = 1.0,
) -> Outcome:
    """Lets the job's traffic through a proxy with this plan.

    `enough` says when senders are to stop, for a job without a number of messages. `watch` is
    called now and then, with the events so far and this side's ends.
    """
    ends = [End(n, job, client=True, enough=enough) for n in range(job.connections)]
    with ServerProcess(job) as server, ProxyProcess(server.address, plan) as proxy:
        began = time.monotonic()
        over = threading.Event()
        if watch is not None:
            calls = threading.Thread(
                target=_call_often, args=(over, every, lambda: watch(proxy.events, ends))
            )
            calls.start()
        try:
            connect_all(job.client, proxy.address, job.for_client(), ends)
            theirs = server.report()
        finally:
            over.set()
            if watch is not None:
                calls.join()
        seconds = time.monotonic() - began
    ours = Report.of(ends)
    return Outcome(plan, job, seconds, ours, theirs, proxy.events)


def _call_often(over: threading.Event, every: float, call: Callable[[], None]) -> None:
    while not over.wait(every):
        call()
