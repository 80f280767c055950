"""The command line: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.environment import environment
from benchmarks.live import watcher as new_watcher
from benchmarks.markdown import markdown
from benchmarks.placement import leave_to_the_kernel
from benchmarks.report import Report
from benchmarks.runner import Plan, run
from benchmarks.scale.definitions import SCALES
from benchmarks.scale.runner import ScalePlan, run_scales
from benchmarks.subjects import all_subjects
from benchmarks.subjects.base import Chosen, Subject
from benchmarks.workloads import SWEEP_SIZES, WORKLOADS

QUICK = Plan(
    rounds=5,
    round_seconds=0.12,
    most_seconds=50,
    sweep_sizes=SWEEP_SIZES[::2],
    sweep_seconds=0.05,
)
FULL = Plan(
    rounds=11,
    round_seconds=0.4,
    most_seconds=280,
    sweep_sizes=SWEEP_SIZES,
    sweep_seconds=0.15,
)
QUICK_SCALE = ScalePlan(quick=True, measure_seconds=0.1, most_seconds=30)
FULL_SCALE = ScalePlan(quick=False, measure_seconds=0.6, most_seconds=150)
USUAL_SUBJECTS = 5
"""For so many subjects the plans above are made."""

_EPILOG = """\
how to read it:
  A ratio is a subject's time divided by another's, taken between two runs that followed each other,
  so that what else the machine does cancels out. Below 1 is faster. Compare ratios, not absolute
  times: those drift from run to run. p50 and p99 are of single round trips; where messages go one
  way, of blocks of 1024. B/op and allocs/op count what the timed process allocates through Python's
  allocators, in a pass of its own. MB are 10^6 bytes, counted once per operation.

examples:
  python -m benchmarks                                   everything, 3 to 4 minutes
  python -m benchmarks --quick                           everything, within a minute
  python -m benchmarks --scale                           what grows too, within 7 minutes
  python -m benchmarks --peers                           other libraries too, within 12 minutes
  python -m benchmarks --only small --only send_only     two workloads
  python -m benchmarks --subjects tcpconn,raw_tcp        two subjects
  python -m benchmarks --json r.json --html r.html       with files to keep
  python -m benchmarks --from r.json --html r.html       the files again, without a run
  python -m benchmarks --list                            who and what there is

Client and server are two processes on 127.0.0.1. Leave the machine alone meanwhile.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures tcpconn against plain sockets, against the machine's own limit and\n"
        "against other libraries: round trips, connections, and messages one way.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what")
    what.add_argument(
        "--only",
        metavar="WORKLOAD",
        action="append",
        choices=[*WORKLOADS, *SCALES],
        help=f"this workload only; may be repeated: {', '.join((*WORKLOADS, *SCALES))}",
    )
    what.add_argument(
        "--scale",
        action="store_true",
        help="also what grows: connections on a link, threads, message sizes, links, clients",
    )
    what.add_argument(
        "--subjects",
        metavar="NAME,…",
        type=lambda names: [name.strip() for name in names.split(",")],
        help="these subjects only (see --list)",
    )
    what.add_argument(
        "--stdlib", action="store_true", help="also tcpconn without its compiled link"
    )
    what.add_argument("--tls", action="store_true", help="also tcpconn through TLS")
    what.add_argument(
        "--peers", action="store_true", help="also the other libraries that are installed"
    )
    what.add_argument("--list", action="store_true", help="list workloads and subjects, and end")
    how = parser.add_argument_group("how long")
    how.add_argument(
        "--quick", action="store_true", help="end within a minute (with --peers: two); rougher"
    )
    how.add_argument("--rounds", type=_positive(int), help="rounds of each workload")
    how.add_argument(
        "--round-seconds", type=_positive(float), metavar="S", help="one subject's run in a round"
    )
    how.add_argument(
        "--most-seconds", type=_positive(float), metavar="S", help="end within so many seconds"
    )
    how.add_argument("--no-sweep", action="store_true", help="without throughput over message size")
    how.add_argument(
        "--free-placement",
        action="store_true",
        help="leave it to the kernel where processes run (else, in round trips, client and server "
        "take different cores)",
    )
    out = parser.add_argument_group("where to")
    out.add_argument(
        "--verbose",
        action="store_true",
        help="show what a process wrote before it failed, and where it hung",
    )
    out.add_argument("--json", type=Path, metavar="FILE", help="everything, for other programs")
    out.add_argument("--markdown", type=Path, metavar="FILE", help="tables")
    out.add_argument("--html", type=Path, metavar="FILE", help="one page with pictures")
    out.add_argument(
        "--from",
        dest="from_json",
        type=Path,
        metavar="FILE",
        help="write the files from an earlier run's JSON instead of running",
    )
    return parser


def _positive(kind: type[int | float]) -> Callable[[str], float]:
    def convert(text: str) -> float:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def _choose(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Subject]:
    known = all_subjects()
    if arguments.subjects:
        for name in arguments.subjects:
            if name not in known:
                parser.error(f"no subject {name!r}; there are {', '.join(known)}")
        return [subject for name, subject in known.items() if name in arguments.subjects]
    chosen = {Chosen.ALWAYS}
    if arguments.stdlib:
        chosen.add(Chosen.STDLIB)
    if arguments.tls:
        chosen.add(Chosen.TLS)
    if arguments.peers:
        chosen.add(Chosen.PEERS)
    return [subject for subject in known.values() if subject.chosen in chosen]


def _list() -> None:
    print("workloads:")
    for workload in WORKLOADS.values():
        print(f"  {workload.name:<18} {workload.what}")
    print("\nwhat grows, with --scale:")
    for scale in SCALES.values():
        print(f"  {scale.name:<18} {scale.title}: {scale.what}")
    print("\nsubjects:")
    for subject in all_subjects().values():
        print(f"  {subject.name:<18} {subject.summary} ({subject.chosen.value})")


def _plan(arguments: argparse.Namespace, subjects: Sequence[Subject]) -> Plan:
    plan = QUICK if arguments.quick else FULL
    # Else more subjects would share the same time, in fewer rounds.
    longer = max(1.0, len(subjects) / USUAL_SUBJECTS)
    return Plan(
        rounds=arguments.rounds or plan.rounds,
        round_seconds=arguments.round_seconds or plan.round_seconds,
        most_seconds=arguments.most_seconds or plan.most_seconds * longer,
        # Who asks for one workload wants that one.
        sweep_sizes=() if arguments.no_sweep or arguments.only else plan.sweep_sizes,
        sweep_seconds=plan.sweep_seconds,
    )


def _scale_plan(arguments: argparse.Namespace) -> ScalePlan:
    plan = QUICK_SCALE if arguments.quick else FULL_SCALE
    seconds = arguments.round_seconds or plan.measure_seconds
    most = arguments.most_seconds or plan.most_seconds
    return ScalePlan(arguments.quick, seconds, most)


def _write(report: Report, arguments: argparse.Namespace) -> None:
    def put(path: Path | None, text: str) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")

    put(arguments.json, report.as_json() + "\n")
    put(arguments.markdown, markdown(report))
    if arguments.html is not None:
        # Late: drawing needs libraries that measuring does not.
        from benchmarks.html import html

        put(arguments.html, html(report))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.list:
        _list()
        return 0
    if arguments.from_json is not None:
        _write(Report.from_json(arguments.from_json.read_text(encoding="utf-8")), arguments)
        return 0
    if arguments.free_placement:
        leave_to_the_kernel()
    subjects = _choose(arguments, parser)
    only = arguments.only or list(WORKLOADS)
    workloads = [WORKLOADS[name] for name in dict.fromkeys(only) if name in WORKLOADS]
    scales = [each for each in SCALES.values() if arguments.scale or each.name in only]
    watcher = new_watcher(arguments.verbose)
    report = Report(environment())
    interrupted = False
    try:
        if workloads:
            run(workloads, subjects, _plan(arguments, subjects), report, watcher)
        run_scales(scales, _scale_plan(arguments), report, watcher, arguments.subjects)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        watcher.close()
    watcher.summary(report)
    _write(report, arguments)
    if interrupted:
        print("interrupted: the report has what was finished", file=sys.stderr)
        return 130
    return 0 if report.results or report.scale else 1
