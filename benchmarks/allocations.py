"""How much one operation allocates, in the process that is timed, in a pass without a clock.

Every allocation through Python's allocators counts, of any thread of the process, in the steady
state: the loop is under way when counting starts and still under way when it ends. Memory that a
library takes from elsewhere (C++'s `new`, Go's heap) is not seen. A round-trip loop needs no
allocation of its own, so there is nothing to subtract.
"""

from __future__ import annotations

import itertools

from benchmarks import compiled
from benchmarks.subjects.base import Client


def allocations_per_op(client: Client, operations: int) -> tuple[float, float]:
    """(allocations, bytes) for each operation; raises `compiled.NotCompiled`."""
    counter = compiled.load("_allocs")
    unit = client.per_stamp
    warm_up = max(1, operations // unit) * unit
    counted = warm_up
    client.begin(warm_up + counted)

    def run(number: int) -> None:
        if client.compiled:
            client.run_compiled(number, None)
        else:
            client.run(itertools.repeat(None, number // client.per_tick))

    run(warm_up)
    if client.compiled:
        counter.start()
        client.run_compiled(counted, None)
        calls, size = counter.stop()
    else:
        ticks = itertools.repeat(None, counted // client.per_tick)
        counter.start()
        client.run(ticks)
        calls, size = counter.stop()
    client.finish()
    return calls / counted, size / counted
