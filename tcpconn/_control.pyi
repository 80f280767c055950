"""What a peer's control frames do. Nothing here is visible to Python: see `_control.pxd`."""
