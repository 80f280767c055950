"""The send queue. Nothing here is visible to Python: see `_sendqueue.pxd`."""
