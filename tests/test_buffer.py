"""Blocks, the pool they come from, and leases on them."""

import gc
import io
import random
import sys
import threading

import pytest

from pair import Pair, payload
from tcpconn._buffer import BlockPool, Lease, block_pool

KIB = 1024
MIB = 1024 * KIB


class TestPool:
    def test_counts_what_it_gives(self):
        pool = BlockPool()
        assert pool.stats() == {
            "max_bytes": (1 << 62) - 1,
            "allocated_bytes": 0,
            "counted_bytes": 0,
            "free_bytes": 0,
            "acquired": 0,
            "reused": 0,
            "refused": 0,
        }
        lease = pool.acquire(100)
        stats = pool.stats()
        assert (stats["allocated_bytes"], stats["free_bytes"]) == (16 * KIB, 0)
        assert (stats["acquired"], stats["reused"]) == (1, 0)
        lease.release()
        stats = pool.stats()
        assert (stats["allocated_bytes"], stats["free_bytes"]) == (16 * KIB, 16 * KIB)

    @pytest.mark.parametrize(
        ("size", "block"),
        [
            (0, 16 * KIB),
            (1, 16 * KIB),
            (16 * KIB, 16 * KIB),
            (16 * KIB + 1, 32 * KIB),
            (64 * KIB, 64 * KIB),
            (100_000, 128 * KIB),
            (512 * KIB + 1, MIB),
            (MIB, MIB),
            (MIB + 1, MIB + 1),
            (5 * MIB, 5 * MIB),
        ],
    )
    def test_has_classes_of_powers_of_two_up_to_a_mebibyte(self, size, block):
        pool = BlockPool()
        lease = pool.acquire(size)
        assert len(lease) == size
        assert pool.stats()["allocated_bytes"] == block
        lease.release()
        kept = block if block <= MIB else 0
        assert pool.stats()["allocated_bytes"] == kept
        assert pool.stats()["free_bytes"] == kept

    def test_reuses_blocks_of_the_same_class(self):
        pool = BlockPool()
        for _ in range(10):
            pool.acquire(20_000).release()
        pool.acquire(40_000).release()
        stats = pool.stats()
        assert (stats["acquired"], stats["reused"]) == (11, 9)
        assert stats["allocated_bytes"] == stats["free_bytes"] == 96 * KIB

    def test_never_passes_its_bound(self):
        pool = BlockPool(max_bytes=64 * KIB)
        leases = [pool.acquire(16 * KIB) for _ in range(4)]
        with pytest.raises(MemoryError, match=r"bound of 65536 bytes \(65536 are allocated\)"):
            pool.acquire(1)
        assert pool.stats()["refused"] == 1
        leases.pop().release()
        pool.acquire(1)

    def test_gives_up_what_it_keeps_before_it_refuses(self):
        pool = BlockPool(max_bytes=64 * KIB)
        for lease in [pool.acquire(16 * KIB) for _ in range(4)]:
            lease.release()
        assert pool.stats()["free_bytes"] == 64 * KIB
        lease = pool.acquire(64 * KIB)
        assert pool.stats()["allocated_bytes"] == 64 * KIB
        lease.release()

    def test_keeps_no_more_than_it_may(self):
        pool = BlockPool(max_free_bytes=32 * KIB)
        for lease in [pool.acquire(16 * KIB) for _ in range(5)]:
            lease.release()
        stats = pool.stats()
        assert stats["free_bytes"] == stats["allocated_bytes"] == 32 * KIB

    @pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
    def test_refuses_sizes_that_no_memory_has(self, size):
        for pool in (BlockPool(), BlockPool(max_bytes=(1 << 64) - 1)):
            with pytest.raises(MemoryError):
                pool.acquire(size)
            assert pool.stats()["allocated_bytes"] == 0

    def test_lives_as_long_as_its_blocks(self):
        lease = BlockPool().acquire(100)
        view = memoryview(lease)
        gc.collect()
        assert len(bytes(view)) == 100
        lease.release()
        view.release()

    def test_says_in_its_repr_how_full_it_is(self):
        pool = BlockPool(max_bytes=MIB)
        lease = pool.acquire(1)
        pool.acquire(1).release()
        assert repr(pool) == "<BlockPool 16384 bytes in use, 16384 free, at most 1048576>"
        lease.release()

    def test_there_is_one_for_the_process(self):
        assert block_pool() is block_pool()

    def test_stands_threads(self):
        pool = BlockPool(max_bytes=8 * MIB, max_free_bytes=MIB)
        faults = []

        def hammer(seed):
            chance = random.Random(seed)
            held = []
            try:
                for _ in range(3000):
                    if held and chance.random() < 0.5:
                        lease, view = held.pop(chance.randrange(len(held)))
                        lease.release()
                        del view
                    else:
                        try:
                            lease = pool.acquire(chance.choice((1, 16_384, 16_385, 70_000)))
                        except MemoryError:
                            continue
                        held.append((lease, memoryview(lease)))
                    stats = pool.stats()
                    if stats["allocated_bytes"] > 8 * MIB or stats["free_bytes"] > MIB:
                        faults.append(stats)
                for lease, _ in held:
                    lease.release()
            except BaseException as error:  # noqa: BLE001
                faults.append(error)

        threads = [threading.Thread(target=hammer, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults
        stats = pool.stats()
        assert stats["allocated_bytes"] == stats["free_bytes"] <= MIB


class TestLease:
    def test_cannot_be_made_by_hand(self):
        with pytest.raises(TypeError, match="receive_view"):
            Lease()

    def test_is_a_buffer_that_cannot_be_written(self):
        lease = BlockPool().acquire(1000)
        view = memoryview(lease)
        assert view.readonly
        assert view.format == "B"
        assert view.nbytes == len(lease) == 1000
        assert bytes(lease) == bytes(view)
        with pytest.raises(TypeError):
            view[0] = 1

    def test_can_be_indexed_and_sliced(self):
        lease = BlockPool().acquire(1000)
        assert lease[0] == bytes(lease)[0]
        assert bytes(lease[10:20]) == bytes(lease)[10:20]
        with pytest.raises(IndexError):
            lease[1000]

    def test_releases_at_the_end_of_its_context(self):
        pool = BlockPool()
        with pool.acquire(10) as lease:
            assert not lease.released
            assert repr(lease) == "<Lease 10 bytes>"
        assert lease.released
        assert repr(lease) == "<Lease released>"
        assert pool.stats()["free_bytes"] == 16 * KIB

    def test_releases_once(self):
        pool = BlockPool()
        lease = pool.acquire(10)
        other = pool.acquire(10)
        for _ in range(5):
            lease.release()
        assert pool.stats()["free_bytes"] == 16 * KIB
        other.release()

    def test_releases_when_it_is_forgotten(self):
        pool = BlockPool()
        pool.acquire(10)
        gc.collect()
        assert pool.stats()["free_bytes"] == 16 * KIB

    def test_takes_no_views_after_its_release(self):
        lease = BlockPool().acquire(10)
        lease.release()
        for use in (memoryview, bytes, lambda lease: lease[0]):
            with pytest.raises(ValueError, match="released"):
                use(lease)

    def test_may_be_empty(self):
        with BlockPool().acquire(0) as lease:
            assert bytes(lease) == b""
            assert len(memoryview(lease)) == 0

    def test_views_outlive_the_release(self):
        pool = BlockPool()
        lease = pool.acquire(16 * KIB)
        first, second = memoryview(lease), memoryview(lease)[100:200]
        content = bytes(first)
        lease.release()
        others = [pool.acquire(16 * KIB) for _ in range(5)]
        assert pool.stats()["reused"] == 0
        assert bytes(first) == content
        first.release()
        assert bytes(second) == content[100:200]
        assert pool.stats()["free_bytes"] == 0
        second.release()
        # The slice above held the lease's buffer through a view of its own.
        gc.collect()
        assert pool.stats()["free_bytes"] == 16 * KIB
        for other in others:
            other.release()

    def test_release_and_views_from_many_threads(self):
        """Each time the memory goes back exactly once, whoever is last."""
        pool = BlockPool()
        for _ in range(200):
            lease = pool.acquire(100)
            start = threading.Barrier(3)

            def use(lease=lease, start=start):
                start.wait()
                try:
                    view = memoryview(lease)
                except ValueError:
                    pass
                else:
                    assert len(bytes(view)) == 100
                    view.release()
                lease.release()

            threads = [threading.Thread(target=use) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            stats = pool.stats()
            assert stats["allocated_bytes"] == stats["free_bytes"] == 16 * KIB

    def test_has_no_reference_too_many(self):
        lease = BlockPool().acquire(10)
        before = sys.getrefcount(lease)
        for _ in range(10):
            with pytest.raises(TypeError, match="read-write"):
                io.BytesIO(b"x" * 10).readinto(lease)
            with memoryview(lease):
                pass
        assert sys.getrefcount(lease) == before


class TestBlocksOfSessions:
    def test_are_not_reused_under_unread_messages(self):
        pair = Pair()
        name = pair.open()
        messages = [payload(9000, n) for n in range(25)]
        for message in messages:
            assert pair.client.send(name, message) is True
            pair.carry()
        for message in messages:
            assert pair.server.receive(name) == message

    def test_all_go_back(self):
        pool = BlockPool()
        pair = Pair(blocks=pool)
        name = pair.open()
        for size in (10, 10_000, 70_000, 2 * MIB):
            assert pair.client.send(name, payload(size)) is True
            pair.carry()
            assert pair.server.receive(name) == payload(size)
        del pair
        stats = pool.stats()
        assert stats["allocated_bytes"] == stats["free_bytes"]
