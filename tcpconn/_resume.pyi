"""A session without a link; nothing of it is seen from Python."""
