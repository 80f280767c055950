"""Who waits for what, in one session, and how each is woken."""

class Herald:
    """Who tells an event loop that a wait of its is over."""

class Waiting:
    """The waiters of one session, threads and tasks."""

    dormant: bool
    """Whether nobody sees to another link until the session is used."""
