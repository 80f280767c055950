"""Builds the harness's own Cython modules when they are first needed, and loads them.

They are no part of the package that users install, so nothing builds them beforehand. The result is
kept in `build/benchmarks/`, under a name that changes with the source and the interpreter.

`python -m benchmarks.compiled` builds both and says where they are.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

from benchmarks import ROOT

NAMES = ("_limit", "_allocs")
BUILD_SECONDS = 180
"""How long a build may take; usual are 5 seconds."""

_SETUP = """
import sys
from setuptools import Extension, setup
from Cython.Build import cythonize
name, source = sys.argv[1:3]
sys.argv[1:] = ["-q", "build_ext", "--build-lib", "out", "--build-temp", "temp"]
# No optimisation for this very processor: the package is built without it too.
extension = Extension(name, [source], extra_compile_args=["-O3"], extra_link_args=["-pthread"])
setup(name=name, ext_modules=cythonize([extension], quiet=True))
"""


class NotCompiled(Exception):
    """A compiled helper cannot be had here; the text says why, for the user."""


def _target(name: str) -> Path:
    source = Path(__file__).with_name(f"{name}.pyx").read_bytes()
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    digest = hashlib.sha256(source + _SETUP.encode() + sys.version.encode()).hexdigest()[:16]
    return ROOT / "build" / "benchmarks" / digest / f"{name}{suffix}"


def build(name: str) -> Path:
    """The path of the compiled module, built if it is not there yet."""
    target = _target(name)
    if target.exists():
        return target
    if os.name != "posix":
        raise NotCompiled(f"{name} needs a posix system")
    source = Path(__file__).with_name(f"{name}.pyx")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        # A copy, so that the generated C stays out of the source tree.
        copy = Path(folder, source.name)
        copy.write_bytes(source.read_bytes())
        try:
            built = subprocess.run(
                [sys.executable, "-c", _SETUP, name, copy.name],
                check=False,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=BUILD_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise NotCompiled(f"building {name} took over {BUILD_SECONDS} s") from None
        made = list(Path(folder, "out").rglob(f"{name}*{target.suffix}"))
        if built.returncode or not made:
            lines = (built.stderr or built.stdout).strip().splitlines() or ["no output"]
            raise NotCompiled(
                f"{name} could not be built, for which Cython, setuptools and a C compiler are "
                f"needed: {lines[-1]}"
            )
        # Complete before it has its name: another run may be building the same.
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(made[0].read_bytes())
            partial.replace(target)
        except OSError as error:
            raise NotCompiled(f"{name} has no place to be kept: {error}") from error
    return target


@cache
def load(name: str) -> ModuleType:
    """The compiled module `name`; raises `NotCompiled`."""
    path = build(name)
    # The module's own name, without the package: that is how its init function is called.
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise NotCompiled(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise NotCompiled(f"{path} cannot be loaded: {error}") from error
    return module


def why_not(name: str) -> str | None:
    """Why `name` cannot be had here, or None if it can."""
    try:
        load(name)
    except NotCompiled as reason:
        return str(reason)
    return None


if __name__ == "__main__":
    for each in NAMES:
        print(build(each))
