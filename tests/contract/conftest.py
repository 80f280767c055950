"""Every contract test leaves no thread and no descriptor behind."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_leaks(no_leaks: None) -> None:
    """Checks every test."""
