"""Which process this is, and which of its threads hears of signals."""

def generation() -> int:
    """How often this process was forked off: what was made before belongs to a parent."""
