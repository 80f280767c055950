"""The benchmark harness's own logic: ratios, figures, counting, and one tiny run.

What it says of speed is not tested here; that its arithmetic and its counters are right is.
"""

import importlib.util
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)

PEERS = [
    "asyncio_streams",
    "grpcio",
    "mp_connection",
    "picows_uvloop",
    "pynng",
    "pyzmq",
    "uvloop_streams",
    "websockets",
]
SCALES = ["connections", "threads", "sizes", "links", "clients"]


@pytest.fixture(scope="module", autouse=True)
def _harness_is_importable():
    """The repository at the end of the path: `benchmarks` is found, an installed tcpconn wins."""
    sys.path.append(str(ROOT))
    yield
    sys.path.remove(str(ROOT))


def _rounds(subject, *ns_per_op):
    from benchmarks.report import Rounds
    from benchmarks.timing import Histogram

    return Rounds(subject, list(ns_per_op), Histogram.of(ns_per_op))


class TestRatios:
    def test_are_taken_round_by_round(self):
        from benchmarks.report import pair_ratio

        # The machine was twice as slow in the second round: no pair shows it.
        ratio = pair_ratio(
            "small", _rounds("tcpconn", 50, 100, 60), _rounds("raw_tcp", 100, 200, 100)
        )
        assert (ratio.median, ratio.min, ratio.max) == (0.5, 0.5, 0.6)

    def test_each_of_ours_against_each_other(self):
        from benchmarks.report import ratios_of

        measured = [_rounds(name, 10) for name in ("tcpconn", "tcpconn_busy_poll", "raw_tcp")]
        assert [(row.subject, row.versus) for row in ratios_of("small", measured)] == [
            ("tcpconn", "tcpconn_busy_poll"),
            ("tcpconn", "raw_tcp"),
            ("tcpconn_busy_poll", "tcpconn"),
            ("tcpconn_busy_poll", "raw_tcp"),
        ]

    def test_the_fastest_peer_is_the_one_that_is_hardest_to_beat(self):
        from benchmarks.report import Report
        from benchmarks.workloads import WORKLOADS

        report = Report({"python": "3"})
        measured = {"tcpconn": 10, "raw_tcp": 5, "grpcio": 40, "pyzmq": 20}
        report.add(WORKLOADS["small"], [_rounds(name, ns) for name, ns in measured.items()])
        fastest = report.fastest_peer("small", "tcpconn")
        assert (fastest.versus, fastest.median) == ("pyzmq", 0.5)
        assert report.versus("tcpconn") == ["raw_tcp", "grpcio", "pyzmq"]
        assert report.fastest_peer("large", "tcpconn") is None

    def test_need_a_pair_for_each_round(self):
        from benchmarks.report import pair_ratio

        with pytest.raises(ValueError, match="shorter"):
            pair_ratio("small", _rounds("tcpconn", 1, 2), _rounds("raw_tcp", 1))


class TestReport:
    def test_has_the_documented_form(self):
        from benchmarks.report import Report
        from benchmarks.workloads import WORKLOADS

        report = Report({"python": "3"})
        report.add(
            WORKLOADS["send_only"], [_rounds("tcpconn", 500, 510), _rounds("raw_tcp", 1000, 1020)]
        )
        data = json.loads(report.as_json())
        assert list(data)[:3] == ["environment", "results", "ratios"]
        row = data["results"][0]
        assert set(row) == {
            *("workload", "subject", "size", "ns_per_op", "ops_per_s", "mb_per_s"),
            *("p50_ns", "p99_ns", "bytes_per_op", "allocs_per_op"),
        }
        assert row["ns_per_op"] == 505
        assert row["size"] == 1024
        assert row["ops_per_s"] == pytest.approx(1e9 / 505)
        assert row["mb_per_s"] == pytest.approx(1024 / 505 * 1000)
        assert row["bytes_per_op"] is None
        assert data["ratios"] == [
            {
                "workload": "send_only",
                "subject": "tcpconn",
                "versus": "raw_tcp",
                "median": 0.5,
                "min": 0.5,
                "max": 0.5,
            }
        ]

    def test_comes_back_from_json(self):
        from benchmarks.report import Report
        from benchmarks.workloads import WORKLOADS

        report = Report({"python": "3"})
        report.add(WORKLOADS["small"], [_rounds("tcpconn", 70e3), _rounds("limit", 5e3)])
        text = report.as_json()
        assert Report.from_json(text).as_json() == text


class TestHistogram:
    def test_percentiles_are_within_half_a_percent(self):
        from benchmarks.timing import Histogram

        histogram = Histogram.of(range(1000, 2000))
        assert histogram.percentile(0.5) == pytest.approx(1500, rel=0.006)
        assert histogram.percentile(0.99) == pytest.approx(1990, rel=0.006)

    def test_of_nothing_has_none(self):
        from benchmarks.timing import Histogram

        assert Histogram().percentile(0.5) is None

    def test_adds_up_over_the_pipe(self):
        from benchmarks.timing import Histogram

        histogram = Histogram.of([100, 200])
        histogram.add(Histogram.from_json(json.loads(json.dumps(Histogram.of([300]).as_json()))))
        assert histogram.bins.total() == 3
        assert math.fsum(share for _, share in histogram.density()) == pytest.approx(1)


class TestTicks:
    @pytest.mark.parametrize(
        ("count", "per_stamp", "stamps"), [(5, 1, 5), (128, 64, 2), (64, 64, 1), (3, 4, 1)]
    )
    def test_a_stamp_for_each_block(self, count, per_stamp, stamps):
        from benchmarks.timing import clock_ticks

        taken = []
        assert sum(1 for _ in clock_ticks(count, per_stamp, taken)) == count
        assert len(taken) == stamps
        assert taken == sorted(taken)

    def test_a_run_is_timed_from_the_first_tick_to_the_end_of_finish(self):
        from benchmarks.subjects.base import Client
        from benchmarks.timing import timed_run

        class Counting(Client):
            per_stamp = 8
            began = ran = finished = 0

            def begin(self, count):
                self.began = count

            def run(self, ticks):
                self.ran = sum(1 for _ in ticks)

            def finish(self):
                self.finished += 1

        client = Counting()
        run = timed_run(client, 32)
        assert (client.began, client.ran, client.finished) == (32, 32, 1)
        assert run.operations == 32
        assert run.elapsed_ns > 0
        assert run.latencies.bins.total() == 4


class TestScale:
    def test_time_for_a_message_is_that_of_whole_runs(self):
        from benchmarks.scale.measuring import ns_per_message

        counts = []

        def run(count):
            counts.append(count)
            time.sleep(count * 1e-5)

        found = ns_per_message(run, 0.06, first=100)
        assert 10_000 <= found < 30_000
        assert all(count % 100 == 0 for count in counts)
        assert counts[-1] == counts[-2] == counts[-3]

    def test_points_are_shown_with_their_unit(self):
        from benchmarks.scale.definitions import SCALES as DEFINED
        from benchmarks.scale.definitions import ScalePoint

        sizes, connections = DEFINED["sizes"], DEFINED["connections"]
        assert sizes.step_text(1 << 20) == "1 MiB"
        assert connections.step_text(100_000) == "100,000"
        point = ScalePoint("sizes", "tcpconn", 1, "throughput", 12.34)
        assert sizes.value_text(point) == "12.3 MB/s"
        point = ScalePoint("connections", "tcpconn", 1, "client_memory", 620)
        assert connections.value_text(point) == "620 B"

    def test_memory_is_counted_in_bytes(self):
        from benchmarks.scale.measuring import memory

        if not memory():
            pytest.skip("not known on this system")
        # In a process of its own: in this one, others' memory may go back at any time.
        program = """
from benchmarks.scale.measuring import memory
before = memory()
kept = bytearray(b"x") * (64 << 20)
print(memory() - before)
"""
        grown = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT, text=True
        )
        assert (64 << 20) <= int(grown.stdout) < (80 << 20)


CALLGRIND = """\
# callgrind format
positions: line
events: Ir
summary: 1000

ob=(1) /x/tcpconn/_session.cpython-311-x86_64-linux-gnu.so
fl=(2) session.c
fn=(3) __pyx_pw_7tcpconn_8_session_7Session_9send
10 40
+2 60
cob=(4) /lib/libc.so.6
cfi=(5) malloc.c
cfn=(6) malloc
calls=7 20
11 300

ob=(4)
fn=(6)
20 300
fn=(7) memcpy
* 500

ob=(1)
fn=(3)
-3 100
"""


class TestCallgrind:
    def test_reads_what_each_function_executed_itself(self):
        from benchmarks.callgrind import Function, read

        counts = read(CALLGRIND.splitlines())
        libc = "/lib/libc.so.6"
        session = "/x/tcpconn/_session.cpython-311-x86_64-linux-gnu.so"
        assert counts == {
            Function(session, "__pyx_pw_7tcpconn_8_session_7Session_9send"): 200,
            Function(libc, "malloc"): 300,
            Function(libc, "memcpy"): 500,
        }
        assert [each.ours for each in counts] == [True, False, False]
        assert [each.of_libc for each in counts] == [False, True, True]

    @pytest.mark.parametrize(
        ("name", "readable"),
        [
            ("__pyx_pw_7tcpconn_8_session_7Session_9send", "_session.Session.send"),
            ("__pyx_f_7tcpconn_7_engine_6Engine_pump", "_engine.Engine.pump"),
            ("__pyx_f_7tcpconn_5_send_send_direct", "_send.send_direct"),
            ("__pyx_f_7tcpconn_7_buffer_block_release.part.0", "_buffer.block_release.part.0"),
            ("__pyx_pw_7tcpconn_6_frame_1encode", "_frame.encode"),
            ("malloc", "malloc"),
        ],
    )
    def test_names_functions_as_the_source_does(self, name, readable):
        from benchmarks import callgrind

        assert callgrind.readable(name) == readable

    def test_says_when_there_is_no_valgrind(self, monkeypatch, capsys):
        from benchmarks import cost

        monkeypatch.setenv("PATH", "/nowhere")
        assert cost.main([]) == 2
        assert "valgrind is not installed" in capsys.readouterr().err


class TestCost:
    def _counted(self, *regions):
        from collections import Counter

        from benchmarks.callgrind import Function
        from benchmarks.cost import costs_of
        from benchmarks.hot_paths import Region

        ours = Function("/x/tcpconn/_send.so", "__pyx_f_7tcpconn_5_send_prepare")
        libc = Function("/lib/libc.so.6", "memcpy")
        return costs_of(
            [
                (Region(path, operations, str), Counter({ours: cost, libc: 10 * operations}))
                for path, operations, cost in regions
            ]
        )

    def test_is_the_difference_of_n_and_2_n(self):
        counted = self._counted(("", 20, 7), ("p", 10, 1500), ("p", 20, 2500))
        assert list(counted) == ["p"]
        assert (counted["p"].ours, counted["p"].libc) == (100, 10)
        assert counted["p"].functions == {"_send.prepare": 100}

    def test_is_the_round_in_the_middle(self):
        counted = self._counted(*(("p", 10, cost) for cost in (1000, 9000, 1100, 1020, 1010)))
        assert counted["p"].ours == 102

    def test_more_is_told_with_what_has_changed(self):
        from benchmarks.cost import Cost, compare

        recorded = {"send": Cost(100, 10, {"f": 60, "g": 40}), "receive": Cost(50, 10, {})}
        counted = {"send": Cost(110, 10, {"f": 60, "g": 48, "h": 2}), "receive": Cost(50, 9, {})}
        lines, good = compare(recorded, counted)
        assert not good
        assert "+10.0%, more than is allowed" in lines[1]
        assert [line.strip() for line in lines[2:4]] == ["+8.0 g", "+2.0 h"]
        assert "allowed" not in lines[4]

    def test_within_the_tolerance_or_less_is_good(self):
        from benchmarks.cost import Cost, compare

        recorded = {"session: send": Cost(100, 0, {}), "send": Cost(100, 0, {})}
        assert compare(recorded, {"session: send": Cost(100.9, 0), "send": Cost(101.9, 0)})[1]
        lines, good = compare(recorded, {"session: send": Cost(98, 0), "send": Cost(90, 0)})
        assert good
        assert "less" in lines[1]
        # A path that is not counted any more has to be taken out of the record on purpose.
        assert not compare(recorded, {"send": Cost(100, 0)})[1]

    def test_paths_are_planned_as_they_are_run(self):
        from benchmarks import hot_paths

        planned = hot_paths.plan()
        assert planned[::2] == [None] * (len(planned) // 2)
        paths = {region.path for region in planned[1::2] if region.path}
        assert {"send 1 KiB", "receive 1 KiB", "session: a chunk of 64 KiB"} <= paths
        recorded = json.loads((ROOT / "benchmarks" / "cost.json").read_text())
        assert set(recorded["costs"]) == paths


class TestCompare:
    def test_ratios_are_taken_pair_by_pair(self):
        from benchmarks.compare import Comparison

        # The machine was twice as slow in the third pair.
        found = Comparison(base=[100, 100, 200, 100, 100], this=[80, 82, 160, 78, 90])
        assert found.ratios == [0.8, 0.82, 0.8, 0.78, 0.9]
        assert found.median == 0.8
        assert found.middle == (0.8, 0.82)
        assert found.verdict == "1.25 times faster"

    def test_says_when_it_cannot_tell(self):
        from benchmarks.compare import Comparison

        assert "tell" in Comparison([100, 100, 100, 100], [80, 120, 70, 130]).verdict
        assert "tell" in Comparison([100], [50]).verdict
        assert Comparison([100], [50]).middle == (0.5, 0.5)

    def test_a_commit_that_is_not_there_is_an_error(self, capsys):
        from benchmarks import compare

        assert compare.main(["no-such-commit"]) == 2
        assert capsys.readouterr().err.startswith("error: ")

    def test_both_sides_are_measured(self):
        from benchmarks.compare import measure
        from benchmarks.workloads import WORKLOADS

        # The base is what is installed as well: nothing has to be built.
        site = Path(importlib.util.find_spec("tcpconn").origin).parent.parent
        found = measure(WORKLOADS["small"], "tcpconn", site, rounds=3, seconds=0.01, most=300)
        assert len(found.ratios) == 3
        assert all(ratio > 0 for ratio in found.ratios)


@pytest.fixture(scope="module")
def counter():
    """The compiled allocation counter."""
    from benchmarks import compiled

    if reason := compiled.why_not("_allocs"):
        pytest.skip(reason)
    return compiled.load("_allocs")


class TestAllocationCounter:
    def test_counts_one_small_object(self, counter):
        bytes(100)  # leaves the call's argument tuple on its free list
        counter.start()
        kept = bytes(100)
        counted = counter.stop()
        assert counted == (1, sys.getsizeof(kept))

    def test_counts_a_large_object_once(self, counter):
        bytes(100)
        # Its memory goes through two of the domains.
        counter.start()
        kept = bytes(100_000)
        counted = counter.stop()
        assert counted == (1, sys.getsizeof(kept))

    def test_counts_nothing_where_nothing_is_allocated(self, counter):
        counter.start()
        counted = counter.stop()
        assert counted == (0, 0)

    def test_counts_growth_and_not_shrinking(self, counter):
        kept = bytearray()
        counter.start()
        kept.extend(b"x" * 0)
        before = counter.stop()
        counter.start()
        kept += bytes(1000)
        grown = counter.stop()
        counter.start()
        del kept[10:]
        shrunk = counter.stop()
        assert before == (0, 0)
        assert grown[0] == 2  # the operand, and the memory
        assert grown[1] >= 2000
        assert shrunk[0] <= 1  # the slice

    def test_is_started_once(self, counter):
        counter.start()
        try:
            with pytest.raises(RuntimeError):
                counter.start()
        finally:
            counter.stop()
        with pytest.raises(RuntimeError):
            counter.stop()


class TestRegistry:
    def test_has_the_documented_subjects(self):
        from benchmarks.subjects import all_subjects

        always = ["tcpconn", "tcpconn_busy_poll", "raw_tcp", "raw_tcp_batched", "limit"]
        found = [name for name, each in all_subjects().items() if each.chosen.value == "always"]
        assert found == always
        assert [name for name, each in all_subjects().items() if each.ours] == [
            "tcpconn",
            "tcpconn_busy_poll",
            "tcpconn_stdlib",
            "tcpconn_tls",
            "tcpconn_aio",
            "tcpconn_aio_uvloop",
        ]

    def test_has_the_documented_peers(self):
        from benchmarks.subjects import all_subjects

        every = all_subjects().items()
        chosen = [name for name, each in every if each.chosen.value == "with --peers"]
        assert [name for name in chosen if not all_subjects()[name].ours] == PEERS

    def test_a_library_that_is_not_there_is_missing(self):
        from benchmarks.subjects.peers.conversation import Peer

        class Absent(Peer):
            needs = ("no_such_library",)
            serve = client = None

        assert "no module no_such_library" in Absent().missing()
        Absent.needs = ("json",)
        assert Absent().missing() is None

    def test_has_the_documented_scales(self):
        from benchmarks.scale.definitions import SCALES as DEFINED

        assert list(DEFINED) == SCALES
        assert (DEFINED["connections"].steps[0], DEFINED["connections"].steps[-1]) == (1, 100_000)
        assert (DEFINED["threads"].steps[0], DEFINED["threads"].steps[-1]) == (1, 16)
        assert (DEFINED["sizes"].steps[0], DEFINED["sizes"].steps[-1]) == (1, 256 << 20)
        assert (DEFINED["links"].steps[0], DEFINED["links"].steps[-1]) == (1, 1000)
        assert (DEFINED["clients"].steps[0], DEFINED["clients"].steps[-1]) == (1, 10_000)

    def test_each_subject_has_a_colour_of_its_own(self):
        pytest.importorskip("matplotlib")
        from benchmarks.charts import colour_variable
        from benchmarks.subjects import all_subjects

        style = (ROOT / "benchmarks" / "page.css").read_text()
        variables = [colour_variable(name) for name in all_subjects()]
        assert len(set(variables)) == len(variables)
        # Once for light, once for dark.
        assert all(style.count(f"{name}: #") == 2 for name in variables)

    def test_has_the_documented_workloads(self):
        from benchmarks.workloads import WORKLOADS

        assert {name: workload.size for name, workload in WORKLOADS.items()} == {
            "small": 100,
            "large": 1048576,
            "chunking": 204800,
            "pool_reuse": 1024,
            "pool_fresh": 1024,
            "send_only": 1024,
            "receive_only": 1024,
        }


def _harness(*arguments, timeout=50):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="the extra is not installed")
class TestCommand:
    def test_a_tiny_run_writes_its_reports(self, tmp_path):
        json_file, markdown_file = tmp_path / "report.json", tmp_path / "report.md"
        done = _harness(
            *("--quick", "--only", "small", "--only", "receive_only", "--subjects", "raw_tcp"),
            *("--rounds", "2", "--round-seconds", "0.02"),
            *("--json", str(json_file), "--markdown", str(markdown_file)),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        data = json.loads(json_file.read_text())
        assert [row["workload"] for row in data["results"]] == ["small", "receive_only"]
        assert all(0 < row["ns_per_op"] < 1e8 for row in data["results"])
        assert data["ratios"] == []
        assert "raw_tcp" in markdown_file.read_text()

    @pytest.mark.parametrize("subject", PEERS)
    def test_a_peer_goes_through_every_kind_of_workload(self, subject, tmp_path):
        from benchmarks.subjects import all_subjects

        if reason := all_subjects()[subject].missing():
            pytest.skip(reason)
        json_file = tmp_path / "report.json"
        workloads = ["small", "chunking", "pool_fresh", "send_only", "receive_only"]
        done = _harness(
            *(part for name in workloads for part in ("--only", name)),
            *("--subjects", subject, "--rounds", "1", "--round-seconds", "0.01"),
            *("--json", str(json_file)),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        data = json.loads(json_file.read_text())
        assert data["left_out"] == []
        assert [row["workload"] for row in data["results"]] == workloads

    @pytest.mark.timeout(180)
    def test_what_grows_is_in_its_reports(self, tmp_path):
        kinds = ["json", "markdown"]
        if importlib.util.find_spec("matplotlib") is not None:
            kinds.append("html")
        files = {kind: tmp_path / f"report.{kind}" for kind in kinds}
        done = _harness(
            *("--quick", "--round-seconds", "0.01", "--most-seconds", "600"),
            *(part for name in SCALES for part in ("--only", name)),
            *(part for kind, path in files.items() for part in (f"--{kind}", str(path))),
            timeout=150,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        data = json.loads(files["json"].read_text())
        assert data["left_out"] == []
        from benchmarks.scale.definitions import SCALES as DEFINED

        for name, scale in DEFINED.items():
            points = [point for point in data["scale"] if point["workload"] == name]
            assert {point["at"] for point in points} == set(scale.quick_steps)
            assert {point["subject"] for point in points} == set(scale.subjects)
            assert all(point["value"] > 0 for point in points)
            assert f"`{name}`" in files["markdown"].read_text()
            if "html" in files:
                assert f'aria-label="{scale.title}' in files["html"].read_text()

    def test_says_who_is_not_known(self):
        done = _harness("--subjects", "carrier_pigeon")
        assert done.returncode == 2
        assert "no subject 'carrier_pigeon'" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="there is no /proc here")
class TestAnatomy:
    def test_a_round_trip_takes_two_sleeps(self):
        from benchmarks import anatomy

        per_operation, sides = anatomy.measure("raw_tcp", "small", seconds=0.05, count=False)
        assert [side.role for side in sides] == ["client", "server"]
        assert per_operation > 0
        # One on each side, but for answers that are there before anybody sleeps.
        assert all(0 < side.sleeps < 2 for side in sides)

    def test_what_nobody_called_has_no_column(self):
        from benchmarks import anatomy

        client = anatomy.Side("client", 2000, 3000, 1.0, 0.0, {"all": 2.0, "sendto": 1.0})
        server = anatomy.Side("server", 1000, 4000, 1.0, 0.0, {"all": 2.5, "sendto": 1.0})
        lines = list(anatomy.table([("raw_tcp", 50_000.0, [client, server])]))
        assert lines[0].split() == [
            *("subject", "time", "user", "system", "sleeps", "preempted"),
            *("syscalls", "sendto"),
        ]
        words = [" ".join(line.split()) for line in lines[1:]]
        assert words == [
            "raw_tcp 50.0 µs client 2.00 µs 3.00 µs 1.00 - 2.00 1.00",
            "server 1.00 µs 4.00 µs 1.00 - 2.50 1.00",
        ]
