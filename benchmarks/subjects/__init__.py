"""Who is timed: every module here and in `peers/` lists its subjects in `SUBJECTS`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from benchmarks.subjects import peers
from benchmarks.subjects.base import Subject

_ORDER = (
    "tcpconn",
    "tcpconn_busy_poll",
    "tcpconn_stdlib",
    "tcpconn_tls",
    "tcpconn_aio",
    "tcpconn_aio_uvloop",
    "raw_tcp",
    "raw_tcp_batched",
    "limit",
)
"""Who comes first in tables; all others follow by name."""


@cache
def all_subjects() -> dict[str, Subject]:
    """By name, in the order of the tables."""
    found: list[Subject] = []
    for package, path in ((__name__, __path__), (peers.__name__, peers.__path__)):
        for module in pkgutil.iter_modules(path):
            loaded = importlib.import_module(f"{package}.{module.name}")
            found.extend(getattr(loaded, "SUBJECTS", ()))
    rank = {name: position for position, name in enumerate(_ORDER)}
    found.sort(key=lambda subject: (rank.get(subject.name, len(rank)), subject.name))
    return {subject.name: subject for subject in found}
