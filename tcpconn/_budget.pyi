class Shares:
    """A budget, and sessions that share it: numbers from 0 to `links` - 1."""

    @property
    def budget(self) -> int: ...
    @property
    def held(self) -> list[int]: ...
    @property
    def used(self) -> int: ...
    def __init__(self, budget: int, links: int) -> None: ...
    def take(
        self, link: int, more: int, missing: int = 0, begun: bool = False, now: int = 0
    ) -> bool:
        """Whether a session gets `more`. One that has `begun` messages, to which `missing` is
        missing beyond that, may be lent it.
        """

    def give(self, link: int, less: int) -> None:
        """A session gives something back."""

    def done(self, link: int) -> None:
        """A session has ended what it had begun."""

    def has_loan(self, link: int) -> bool:
        """Whether a session was lent something."""

    @property
    def lent(self) -> int:
        """What is set aside for loans."""
