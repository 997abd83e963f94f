"""What a server remembers of one sensor's sequence: pure bookkeeping, no I/O.

::

    0 ........ forgotten ... | remembered ......... | in work ......... | to come
                             first remembered       next_sequence       expected

Images below ``next_sequence`` are answered (or refused, which accounts for them too). Their last
``memory_images`` answers, and a few more, are kept as the bytes that were sent: a sensor whose link was cut
may lack them.
"""

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from latentwire.errors import SequenceError

STRETCHES = 16  # that a session's memory is forgotten in


@dataclass(frozen=True, slots=True)
class Remembered:
    """An answer to images ``first`` to ``first + images - 1``: the serialized ``ServerMessage``."""

    first: int
    images: int
    wire: bytes

    @property
    def end(self) -> int:
        """The sequence after the last one answered here."""
        return self.first + self.images


class _Stretch:
    """Answers to neighbouring images, end to end in one string of bytes: a few objects a session, not one an answer,
    which would take ten times the room and have the garbage collector look at millions."""

    __slots__ = ("_answers", "end", "first")

    _HEAD = struct.Struct("<II")  # images, bytes

    def __init__(self, first: int) -> None:
        self.first = first
        self.end = first
        self._answers = bytearray()

    @property
    def images(self) -> int:
        return self.end - self.first

    def add(self, images: int, wire: bytes) -> None:
        self._answers += self._HEAD.pack(images, len(wire))
        self._answers += wire
        self.end += images

    def __iter__(self) -> Iterator[Remembered]:
        first, place = self.first, 0
        while place < len(self._answers):
            images, size = self._HEAD.unpack_from(self._answers, place)
            place += self._HEAD.size + size
            yield Remembered(first, images, bytes(self._answers[place - size : place]))
            first += images


class Session:
    """The sequence of one sensor process, across any number of connections."""

    __slots__ = ("_images", "_memory", "_memory_images", "_stretch_images", "expected", "next_sequence")

    def __init__(self, next_sequence: int, memory_images: int) -> None:
        """Start at the first image that the sensor lacks; ``memory_images`` is what it may lack at once."""
        self.next_sequence = next_sequence
        self.expected = next_sequence
        self._memory_images = memory_images
        self._memory: deque[_Stretch] = deque()
        self._stretch_images = memory_images // STRETCHES
        self._images = 0

    def resume(self, sensor_lacks_from: int) -> list[Remembered]:
        """The sensor is back and lacks every image from ``sensor_lacks_from`` on.

        Returns the remembered answers to send again. Call it only when nothing of an older connection is in
        work: what was received and not answered is to come again.
        """
        lost = self._known(sensor_lacks_from, self.next_sequence)
        # A sensor that has answers we never gave got them from another server: it knows better than we do.
        self.next_sequence = max(self.next_sequence, sensor_lacks_from)
        self.expected = self.next_sequence
        return lost

    def admit(self, first: int, images: int) -> list[Remembered] | None:
        """Take a batch in. None: it is new and must be answered; a list: a duplicate, to send these again.

        A duplicate may be forgotten or still in work; then the list is empty. Raises SequenceError on a hole,
        and on a batch that is partly known: it cannot be answered without classifying an image twice.
        """
        if first == self.expected:
            self.expected += images
            return None
        if first > self.expected:
            raise SequenceError(f"a batch begins at image {first}, but {self.expected} is next: send that one")
        if first + images > self.expected:
            raise SequenceError(
                f"a batch holds images {first} to {first + images - 1}, but those before {self.expected} are "
                "known: resend batches as they were"
            )
        return self._known(first, first + images)

    def answered(self, first: int, images: int, wire: bytes) -> None:
        """Images ``first`` to ``first + images - 1``, the next in order, are answered by ``wire``."""
        assert first == self.next_sequence, "answers are recorded in order"
        self.next_sequence += images
        if not self._memory or self._memory[-1].images >= self._stretch_images or self._memory[-1].end != first:
            self._memory.append(_Stretch(first))
        self._memory[-1].add(images, wire)
        self._images += images
        while self._images - self._memory[0].images >= self._memory_images:
            self._images -= self._memory.popleft().images

    def _known(self, first: int, end: int) -> list[Remembered]:
        """The answers to images ``first`` to ``end`` - 1, as far as they are remembered."""
        near = (stretch for stretch in self._memory if stretch.first < end and stretch.end > first)
        return [known for stretch in near for known in stretch if known.first < end and known.end > first]
