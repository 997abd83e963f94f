"""Images that are coded but not yet answered: pure bookkeeping, no I/O.

::

    0 ... answered | first_sequence .. unanswered .. | next_sequence: to be coded

Messages are kept whole, and in order, until they and all before them are answered, so that after a cut link
they can be sent again exactly as they were. Only the event loop's thread may use a window.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from edge_sensor.sources import Frame
from latentwire.errors import SequenceError
from latentwire.messages import LatentBatch, OperatingPointName
from latentwire.wire import from_sensor_to_proto, grpc_bytes


@dataclass(frozen=True, slots=True)
class Picture:
    """What is kept of an image once it is coded. ``ideal_bits`` is its own share of its message."""

    item: str
    truth: int | None
    captured_s: float
    level: int
    ideal_bits: float

    @classmethod
    def of(cls, frame: Frame, level: int, ideal_bits: float) -> "Picture":
        """A frame, less its pixels."""
        return cls(frame.item, frame.truth, frame.captured_s, level, ideal_bits)


@dataclass(slots=True)
class CodedMessage:
    """A message, what it holds, and its size in ``grpc_bits``.

    ``sent_s`` is when gRPC first got it (monotonic), ``clock_offset_s`` the wall clock less the monotonic one
    when it was coded, ``place`` how much of its source had been read with its last image.
    """

    batch: LatentBatch
    point: OperatingPointName
    pictures: tuple[Picture, ...]
    grpc_bits: int
    sent_s: float | None = None
    clock_offset_s: float = field(default_factory=lambda: time.time() - time.monotonic())
    place: int = 0

    @property
    def end(self) -> int:
        """The sequence after its last image."""
        return self.batch.first_sequence + self.batch.images

    def numbered(self, first_sequence: int) -> "CodedMessage":
        """The same message, its images numbered from ``first_sequence`` on."""
        if first_sequence == self.batch.first_sequence:
            return self
        batch = replace(self.batch, first_sequence=first_sequence)
        return replace(self, batch=batch, grpc_bits=8 * grpc_bytes(from_sensor_to_proto(batch)))


@dataclass(frozen=True, slots=True)
class Unanswered:
    """One image of a message."""

    sequence: int
    picture: Picture
    message: CodedMessage


class Window:
    """The unanswered messages of a session. ``duplicates`` counts images that were answered again."""

    def __init__(self, next_sequence: int = 0) -> None:
        self.next_sequence = next_sequence
        self.duplicates = 0
        self._messages: dict[int, CodedMessage] = {}
        self._images: dict[int, Unanswered] = {}

    @property
    def first_sequence(self) -> int:
        """First image of the oldest message kept; ``next_sequence`` when there is none."""
        return next(iter(self._messages), self.next_sequence)

    @property
    def images(self) -> int:
        """Images that a server may still have to answer."""
        return self.next_sequence - self.first_sequence

    def add(self, message: CodedMessage) -> None:
        """Keep a message that is to be sent."""
        first = message.batch.first_sequence
        assert first == self.next_sequence, "messages are numbered in order"
        assert message.batch.images == len(message.pictures), "every image of a message has its picture"
        self._messages[first] = message
        for sequence, picture in enumerate(message.pictures, first):
            self._images[sequence] = Unanswered(sequence, picture, message)
        self.next_sequence = message.end

    def at(self, sequence: int) -> CodedMessage | None:
        """The message that begins at ``sequence``; None when it is not coded yet."""
        return self._messages.get(sequence)

    def resume_at(self, server_next: int) -> int:
        """Where to send from when the server has answered all before ``server_next``.

        That is the start of the first message it has not answered whole. SequenceError if it never got that
        far.
        """
        if server_next > self.next_sequence:
            raise SequenceError(
                f"the server says that {server_next} images are answered, but only {self.next_sequence} were "
                "sent; restart the sensor to begin a new session"
            )
        later = (first for first, message in self._messages.items() if message.end > server_next)
        return next(later, self.next_sequence)

    def resolve(self, first: int, images: int) -> list[Unanswered]:
        """Images ``first`` to ``first + images - 1`` are answered, or refused: each is returned once, ever.

        SequenceError if one was never sent.
        """
        if first + images > self.next_sequence:
            raise SequenceError(f"the server answers image {first + images - 1}, which was never sent")
        kept = range(max(first, self.first_sequence), first + images)
        found = [self._images.pop(sequence) for sequence in kept if sequence in self._images]
        self.duplicates += images - len(found)
        while self._messages and not self._waits(next(iter(self._messages.values()))):
            del self._messages[self.first_sequence]
        return found

    def abandon(self) -> list[Unanswered]:
        """Give all unanswered images up."""
        left = list(self._images.values())
        self._images.clear()
        self._messages.clear()
        return left

    def operating_points(self) -> Iterator[OperatingPointName]:
        """The operating points of the messages kept, each once, oldest first."""
        seen: set[int] = set()
        for message in self._messages.values():
            if message.point.id not in seen:
                seen.add(message.point.id)
                yield message.point

    def _waits(self, message: CodedMessage) -> bool:
        return any(s in self._images for s in range(message.batch.first_sequence, message.end))
