"""Checked traffic: numbered messages with checksums, and a ledger that notices any damage.

Nothing in here does I/O. `Source` makes the messages of one direction of a connection, `Ledger`
takes in what arrived; whoever sends and receives in between (threads here, tasks elsewhere) is not
their business.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import struct
import zlib

HEADER = struct.Struct(">IIII")
"""Stream, number, size and checksum; the beginning of it in a message too short for it all."""

LARGEST = 256 << 10
KINDS_OF_SIZE = 8191
END = 0xFFFFFFFF
"""The number of the message behind the last one: its size says how many there were."""

NEAR = 256
"""How far from the number that is due a message without a whole header is looked for."""

_BODY = random.Random(20260102).randbytes(2 * LARGEST)


@functools.cache
def _sizes(seed: int, largest: int) -> list[int]:
    """Sizes of messages, as many of each order of magnitude, and those around a header's."""
    choice = random.Random(f"{seed} {largest}")
    sizes = [int(largest ** choice.random()) for _ in range(KINDS_OF_SIZE)]
    sizes[:8] = [0, 1, 2, 15, 16, 17, largest - 1, largest]
    choice.shuffle(sizes)
    return sizes


class Source:
    """The messages of one direction of a connection: the same for sender and receiver."""

    def __init__(self, stream: int, seed: int = 0, largest: int = LARGEST) -> None:
        self.stream = stream
        self._sizes = _sizes(seed, largest)
        self._first = stream * 977

    def size(self, number: int) -> int:
        """The size of a message."""
        return self._sizes[(self._first + number) % KINDS_OF_SIZE]

    def message(self, number: int) -> bytes:
        """A message by its number."""
        size = self.size(number)
        start = (number * 131 + self.stream * 7919) % LARGEST
        body = _BODY[start : start + max(0, size - HEADER.size)]
        return self._join(number, size, body)

    def end(self, count: int) -> bytes:
        """What tells the receiver how many messages there were."""
        return self._join(END, count, b"")

    def _join(self, number: int, size: int, body: bytes) -> bytes:
        head = HEADER.pack(self.stream, number, size, zlib.crc32(body, number))
        return (head + body)[:size] if number != END else head


@dataclasses.dataclass
class Tally:
    """What became of messages."""

    messages: int = 0
    """Those that arrived once, whole and in order."""
    size: int = 0
    """Bytes of them."""
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    wrong: int = 0
    """Bytes that are of no message of this stream, or not what the checksum says."""

    def __add__(self, other: Tally) -> Tally:
        mine, others = dataclasses.astuple(self), dataclasses.astuple(other)
        return Tally(*(a + b for a, b in zip(mine, others, strict=True)))

    @property
    def clean(self) -> bool:
        """Whether nothing is amiss."""
        return not (self.lost or self.doubled or self.reordered or self.wrong)


class Ledger:
    """What arrives of one `Source`, message by message."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.tally = Tally()
        self.ended = False
        self.damage: list[str] = []
        """About each message with wrong bytes."""
        self._due = 0
        self._missing: set[int] = set()

    def take(self, message: bytes) -> bool:
        """Takes in the next message. False when that was the end."""
        due = self._due
        size = len(message)
        if size >= HEADER.size:
            stream, number, length, checksum = HEADER.unpack_from(message)
            if stream != self.source.stream or checksum != zlib.crc32(
                memoryview(message)[HEADER.size :], number
            ):
                self._wrong(message)
                return True
            if number == END and size == HEADER.size:
                self.finish(length)
                return False
            if length != size or size != self.source.size(number):
                self._wrong(message)
                return True
        elif message == self.source.message(due):
            number = due
        else:
            number = self._search(message)
            if number < 0:
                self._wrong(message)
                return True
        self._arrived(number, size)
        return True

    def _arrived(self, number: int, size: int) -> None:
        tally = self.tally
        if number == self._due:
            self._due += 1
        elif number > self._due:
            self._missing.update(range(self._due, number))
            tally.lost += number - self._due
            self._due = number + 1
        elif number in self._missing:
            self._missing.discard(number)
            tally.lost -= 1
            tally.reordered += 1
            return
        else:
            tally.doubled += 1
            return
        tally.messages += 1
        tally.size += size

    def _wrong(self, message: bytes) -> None:
        """It stands in the place of the message that was due."""
        self.tally.wrong += 1
        due = self.source.message(self._due)
        differs = [at for at, (a, b) in enumerate(zip(message, due, strict=False)) if a != b]
        where = f"bytes {differs[0]} to {differs[-1]} differ" if differs else "it is cut or longer"
        self.damage.append(
            f"not message {self._due} of {len(due)} bytes, but one of {len(message)}: {where}"
        )
        self._due += 1

    def _search(self, message: bytes) -> int:
        """Which message without a whole header this is: the nearest to the one that is due."""
        for distance in range(1, NEAR):
            for number in (self._due + distance, self._due - distance):
                if number >= 0 and message == self.source.message(number):
                    return number
        return -1

    def finish(self, count: int) -> None:
        """No more will come; there were so many in all."""
        self.ended = True
        self.tally.lost += count - self._due
        self._due = count
