"""Micro-benchmarks of the block pool: memory lent and given back."""

import pytest

from tcpconn._buffer import BlockPool


@pytest.mark.parametrize("size", [1024, 65536, 1 << 20])
def test_acquire_and_release(benchmark, size):
    pool = BlockPool()

    def lend():
        pool.acquire(size).release()

    benchmark(lend)
    numbers = pool.stats()
    # In a steady state every block is one that was given back.
    assert numbers["reused"] >= numbers["acquired"] - 1
    assert numbers["allocated_bytes"] == numbers["free_bytes"]


def test_view_on_a_lease(benchmark):
    lease = BlockPool().acquire(1024)

    def view():
        with memoryview(lease) as seen:
            return len(seen)

    assert benchmark(view) == 1024
