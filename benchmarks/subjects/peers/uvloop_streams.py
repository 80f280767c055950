"""One subject: `uvloop_streams`, the standard library's streams on uvloop."""

from __future__ import annotations

import asyncio

from benchmarks.subjects.peers.streams import Streams


class UvloopStreams(Streams):
    """On uvloop."""

    name = "uvloop_streams"
    summary = "The same streams on uvloop, which joins what is written within one turn of its loop."
    needs = ("uvloop",)

    def loop(self) -> asyncio.AbstractEventLoop:
        """uvloop's."""
        import uvloop

        return uvloop.new_event_loop()


SUBJECTS = [UvloopStreams()]
