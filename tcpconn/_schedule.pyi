"""Who cuts the next chunk. Nothing here is visible to Python: see `_schedule.pxd`."""
