"""What is done to a session. Nothing here is visible to Python: see `_lifecycle.pxd`."""
