"""Python objects as messages to be sent. Nothing here is visible to Python: see `_holding.pxd`."""
