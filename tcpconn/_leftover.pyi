"""What a lost session had still to send, as messages."""

class Leftover:
    """Made before a session is lost, then filled. Whoever asks meanwhile waits."""

    @property
    def reason(self) -> str: ...
    def __init__(self, reason: str) -> None: ...
    def add(self, route: int, begun: bool, data: bytes) -> None: ...
    def take(self, route: int) -> tuple[list[bytes], list[bytes]]:
        """The messages of one route, once: those in doubt, and those not sent, in order."""
