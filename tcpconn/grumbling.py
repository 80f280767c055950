"""Warnings about what a peer may do as often as it likes."""

from __future__ import annotations

import logging
import time

QUIET_SECONDS = 10.0
"""Between two warnings of one kind: a peer that floods a listener shall not flood its log."""


class Warnings:
    """A warning that is logged now and then, and says how often it would have been. Thread-safe:
    it may be one too many or miscounted when two threads warn at once, and nobody waits.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._quiet_until = 0.0
        self._unsaid = 0

    def warn(self, text: str, *arguments: object) -> None:
        """Logs it, unless another was logged a moment ago."""
        now = time.monotonic()
        if now < self._quiet_until:
            self._unsaid += 1
            return
        self._quiet_until = now + QUIET_SECONDS
        unsaid, self._unsaid = self._unsaid, 0
        if unsaid:
            text = f"{text} (and {unsaid} times since the last such warning)"
        self._logger.warning(text, *arguments)
