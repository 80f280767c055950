"""The functions that take and give back all memory of the core."""

from typing import Any

allocator: Any
"""A capsule named `tcpconn._memory.allocator`: the table of the functions in use, laid out like
those that CPython's `PyMem_SetAllocator` takes, for what measures allocations.
"""
