"""The sending half of a session. Nothing here is visible to Python: see `_send.pxd`."""
