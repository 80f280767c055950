"""One subject: `asyncio_streams`, the standard library's streams on its own event loop."""

from __future__ import annotations

import asyncio

from benchmarks.subjects.peers.streams import Streams


class AsyncioStreams(Streams):
    """On asyncio's event loop."""

    name = "asyncio_streams"
    summary = (
        "asyncio's streams: a 4-byte length joined to the payload, `write` and `drain`, "
        "`readexactly` with a buffer that holds a whole message."
    )

    def loop(self) -> asyncio.AbstractEventLoop:
        """asyncio's own."""
        return asyncio.new_event_loop()


SUBJECTS = [AsyncioStreams()]
