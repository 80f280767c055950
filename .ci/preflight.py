"""Say in plain words what is missing to build tcpconn with this Python.

Keeps to what any Python 3.6 can run: one that is too old shall be told so, not fail on syntax.
"""

import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path


def problems():
    python = sys.executable
    if sys.version_info < (3, 11):  # noqa: UP036
        version = ".".join(map(str, sys.version_info[:3]))
        yield f"tcpconn needs Python 3.11 or newer, {python} is {version}: try PYTHON=python3.13"
        return
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        yield f"{python} cannot make environments (Debian, Ubuntu: apt install python3-venv)"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if not shutil.which(compiler):
        yield f"there is no C compiler {compiler} (Debian, Ubuntu: apt install gcc; or set CC)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        yield f"{python} lacks its C headers (Debian, Ubuntu: apt install python3-dev)"


found = list(problems())
for problem in found:
    sys.stderr.write(f"error: {problem}\n")
sys.exit(bool(found))
