"""The command line: ``tcpconn serve``, ``ping``, ``receive`` and ``send``.

It needs the extra ``cli`` (click and rich), which nothing else in the package does. So nothing here
imports either of them before :func:`main` has looked whether they are there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_EXTRA = ("click", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with `arguments` (`sys.argv[1:]` if none) and return its exit code."""
    try:
        try:
            import rich  # noqa: F401  needed later; told missing now, before anything has begun

            from tcpconn.cli.app import run
        except ModuleNotFoundError as missing:
            if missing.name is None or missing.name.partition(".")[0] not in _EXTRA:
                raise
            print(
                f"tcpconn: the command line needs {missing.name}: pip install 'tcpconn[cli]'",
                file=sys.stderr,
            )
            return 2
        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # before run() has put its own handling in place
        return 130
