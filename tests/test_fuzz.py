"""The fuzzer itself: what it kept is run again, and it sees what is wrong when something is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "fuzz").is_dir():
    pytest.skip("the fuzzer is not here", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def _fuzzer_is_importable():
    """The repository at the end of the path: `fuzz` is found, an installed tcpconn wins."""
    sys.path.append(str(ROOT))
    yield
    sys.path.remove(str(ROOT))


def test_all_seeds_and_the_corpus():
    from fuzz import cases
    from fuzz.targets import TARGETS

    seeds = list(cases.seeds())
    assert {case.target for case in seeds} == set(TARGETS)
    for case in seeds:
        assert cases.loads(case.dumps()) == case
        TARGETS[case.target](case)


@pytest.mark.parametrize("seed", range(3))
def test_mutations(seed):
    """Each is made of plain data, the same from the same seed, and nothing is found with it."""
    from fuzz import cases
    from fuzz.mutate import Mutator
    from fuzz.targets import TARGETS

    one, other = Mutator(seed), Mutator(seed)
    seeds = list(cases.seeds())
    for case in one.rng.sample(seeds, 100):
        mutated = one.mutate(case, seeds)
        assert cases.loads(mutated.dumps()) == mutated
        TARGETS[case.target](mutated)
    for case in other.rng.sample(seeds, 100):
        repeated = other.mutate(case, seeds)
    assert repeated == mutated


def _pair(*steps):
    from fuzz.cases import Case

    return Case("pair", {}, [["open", 0, 1, 3], ["carry", 0, 0, 0], ["accept", 1, 0, 0], *steps])


def _broken(monkeypatch, **methods):
    """Sessions of the target `pair` in which something is wrong."""
    from fuzz import both

    monkeypatch.setattr(both, "Session", type("Session", (both.Session,), methods))


MESSAGE = [["send", 0, 0, 100], ["carry", 0, 0, 0], ["receive", 1, 0, 0]]


def test_a_message_that_comes_twice_is_found(monkeypatch):
    from fuzz.common import Finding
    from fuzz.targets import TARGETS
    from tcpconn._session import Session

    last = []

    def receive(self, name):
        last.append(Session.receive(self, name))
        return last[-1] or (last[-2] if len(last) == 2 else None)

    TARGETS["pair"](_pair(*MESSAGE))
    _broken(monkeypatch, receive=receive)
    with pytest.raises(Finding, match="twice"):
        TARGETS["pair"](_pair(*MESSAGE))


def test_a_resume_that_fails_is_found(monkeypatch):
    from fuzz.common import Finding
    from fuzz.targets import TARGETS

    TARGETS["pair"](_pair(["cut", 0, 0, 0], *MESSAGE))
    _broken(monkeypatch, resume=lambda self, count: False)
    with pytest.raises(Finding, match="resumed"):
        TARGETS["pair"](_pair(["cut", 0, 0, 0], *MESSAGE))


def test_a_finding_is_made_small(monkeypatch, tmp_path):
    from fuzz import cases
    from fuzz.__main__ import Findings
    from fuzz.cases import Case

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    # A step of a shape that there is not: the fuzzer falls over it, which is found like all else.
    bad = ["flip", 0, 0]
    cases.write(tmp_path / "case", [Case("pair", {}, [["carry", 0, 0, 0], bad, ["time", 0, 0, 1]])])
    [case] = cases.read(tmp_path / "case")
    replay = subprocess.run(
        [sys.executable, "-P", "-m", "fuzz.worker", "--replay", str(tmp_path / "case")],
        capture_output=True,
        text=True,
        check=False,
    )
    findings = Findings(tmp_path / "findings")
    for _ in range(2):
        findings.add(case, replay.stderr, replay.returncode)
    [(signature, count)] = findings.counts.items()
    assert count == 2
    assert "ValueError" in signature.what
    assert "both.py" in signature.where
    assert cases.read(tmp_path / "findings" / "001.jsonl") == [Case("pair", {}, [bad])]
