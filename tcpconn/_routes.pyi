"""Connection records. Nothing here is visible to Python: see `_routes.pxd`."""
