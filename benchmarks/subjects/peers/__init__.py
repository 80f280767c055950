"""Other libraries, timed with `--peers` when they are installed: a module for each.

A module sets `chosen = Chosen.PEERS` in its subject, and says in `missing()` what to install.
"""
