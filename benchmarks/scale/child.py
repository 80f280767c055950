"""What runs in the two processes of a step.

    python -m benchmarks.scale.child server SUBJECT WORKLOAD
    python -m benchmarks.scale.child client SUBJECT WORKLOAD PORT

As `benchmarks.child`, they speak JSON lines and end with their standard input.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import sys
import threading

from benchmarks.child import end_with_input, say
from benchmarks.scale.definitions import SCALES


def main(role: str, subject: str, workload: str, port: str = "0") -> None:
    """Runs the role."""
    faulthandler.enable()
    module = importlib.import_module(f"benchmarks.scale.{SCALES[workload].name}")
    if role == "server":
        threading.Thread(target=end_with_input, daemon=True).start()
        module.serve(subject, lambda chosen: say(port=chosen))
        return
    say(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        say(values=module.measure(subject, int(port), command["at"], command["budget"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
