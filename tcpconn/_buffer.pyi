"""The block pool and its leases."""

from types import TracebackType
from typing import Self, TypedDict, overload

DEFAULT_MAX_BYTES: int
"""Bytes that the process's pool may have allocated at once: the receive memory of one process."""

DEFAULT_MAX_FREE_BYTES: int
"""Bytes kept for reuse."""

class _PoolStats(TypedDict):
    max_bytes: int
    allocated_bytes: int
    counted_bytes: int
    free_bytes: int
    acquired: int
    reused: int
    refused: int

class BlockPool:
    """A pool of memory blocks, bounded in bytes. Thread-safe.

    `max_bytes`: most that may be allocated at once, in use and kept together; `max_free_bytes`:
    most that is kept for reuse. `acquire` raises `MemoryError` past the first, and never waits.
    """

    def __new__(cls, max_bytes: int = ..., max_free_bytes: int = ...) -> Self: ...
    def acquire(self, size: int) -> Lease:
        """A `Lease` on `size` bytes of a block, uninitialised. `MemoryError` past the bound."""

    def stats(self) -> _PoolStats:
        """Bytes allocated, free, allowed, counted by budgets; blocks acquired, reused, refused."""

def block_pool() -> BlockPool:
    """The process's block pool, from which all sessions take their memory."""

class Lease:
    """A message in pooled memory, lent until `release` and the end of every view on it.

    Exports a read-only buffer: `memoryview(lease)`, `bytes(lease)`, `file.write(lease)`,
    `numpy.frombuffer(lease)`, `struct.unpack_from(format, lease)` work on the memory itself,
    without a copy. As a context manager it gives itself and releases at the end. Views taken from
    it stay valid after `release`: the memory goes back to the pool with the last of them.
    Thread-safe.
    """

    @property
    def released(self) -> bool:
        """Whether `release` was called."""

    def release(self) -> None:
        """Gives the memory back, now or with the last view on it. A second call does nothing."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, key: int, /) -> int: ...
    @overload
    def __getitem__(self, key: slice, /) -> memoryview: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __release_buffer__(self, buffer: memoryview, /) -> None: ...
