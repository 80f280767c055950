"""What cases run against, and what must hold whatever they say.

A target runs the steps of a case and raises `Finding` when something is not as it should be. What
the sanitizers find ends the process.
"""

from __future__ import annotations

from collections.abc import Callable

from fuzz.both import run_pair
from fuzz.cases import Case
from fuzz.decoder import run_decoder
from fuzz.scripted import run_session

TARGETS: dict[str, Callable[[Case], None]] = {
    "decoder": run_decoder,
    "session": run_session,
    "pair": run_pair,
}
