"""Where the figures come from: the machine and the versions. No names of hosts or users."""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
import platform
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any

from benchmarks import ROOT, compiled
from benchmarks.placement import placement


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return f"{platform.system()} {platform.release()}"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _public_path(path: Path) -> str:
    """The path without what lies above the repository, the environment or the home."""
    for above, name in ((ROOT, ""), (Path(sys.prefix), "<prefix>"), (Path.home(), "~")):
        if path.is_relative_to(above):
            return str(Path(name, path.relative_to(above)))
    return path.name


def _tcpconn() -> dict[str, Any]:
    spec = importlib.util.find_spec("tcpconn")
    if spec is None or spec.origin is None:
        return {"tcpconn": None, "tcpconn_file": None}
    try:
        import tcpconn

        version = tcpconn.__version__
    except (ImportError, AttributeError):
        version = None
    return {"tcpconn": version, "tcpconn_file": _public_path(Path(spec.origin).resolve())}


def environment() -> dict[str, Any]:
    """The section `environment` of the report."""
    gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")) and not gil_enabled(),
        "os": _os_name(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": _cores(),
        **_tcpconn(),
        "placement": placement(),
        "compiled_peer": compiled.why_not("_limit") is None,
    }
