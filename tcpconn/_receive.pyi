"""The receiving half of a session. Nothing here is visible to Python: see `_receive.pxd`."""
