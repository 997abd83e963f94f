"""What an image and a message cost: the bundle's table, corrected by what is seen. Pure.

::

    payload bits an image at a rung   the bundle's, until measured; then a moving mean
    link bits of a message            (payload + what goes around it) x (1 + headers' share)
                                      + images x what acknowledging an image's result takes

The bundle's table was measured on shuffled test images. A camera's neighbours are alike, or its scenes are harder, so
the difference at the rung in use corrects those that have not been tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass

SMOOTHING = 0.2  # weight of the latest sample
REMEMBERED_MESSAGES = 200  # what a rung cost longer ago says little: the scene has changed
MIN_BITS = 0.02  # an image never costs nothing: the run's flags alone

# Around a payload: some 17 bytes of protobuf, 5 of gRPC, 9 of HTTP/2, and IP, TCP and its timestamps, 52. The answer is
# acknowledged too, mostly together with the next message; half a bare acknowledgement is counted. A long answer takes
# several segments, and TCP acknowledges every second one.
MESSAGE_BYTES = 31 + 52 + 26
RESULT_BYTES = 5  # of an image: its label and a probability
SEGMENT_HEADER_BYTES = 52
SEGMENT_BYTES = 1448


@dataclass(frozen=True, slots=True)
class Rung:
    """One operating point the controller may choose, and the payload bits an image that its bundle states."""

    variant: str
    rate_scale: float
    bits: float


class Costs:
    """Payload bits an image at each rung, cheapest first, and link bits of a message."""

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self._rungs = tuple(rungs)
        self._seen: dict[int, tuple[float, int]] = {}  # rung -> (bits, the message that said so)
        self._messages = 0
        self._offset = 0.0
        self._around_bits = 8.0 * MESSAGE_BYTES
        self._share = SEGMENT_HEADER_BYTES / SEGMENT_BYTES
        self._answer_bits = 0.0
        self.segments_of(SEGMENT_BYTES, SEGMENT_BYTES)

    @property
    def around_bits(self) -> float:
        """Link bits of a message that are not its payload's, headers of further segments left out."""
        return self._around_bits * (1 + self._share)

    def coded(self, rung: int, images: int, payload_bits: float, weight: float = SMOOTHING) -> None:
        """A message of so many images was coded at a rung; it counts for ``weight`` (0..1) of what is known.

        A rung's first message, of whatever scene it happens to show, only corrects what was expected of the rung.
        """
        self._messages += 1
        before = self._guess(rung)
        bits = before + (weight if rung in self._seen else SMOOTHING) * (payload_bits / images - before)
        self._seen[rung] = (bits, self._messages)
        self._offset = bits - self._rungs[rung].bits

    def crossed(self, messages: int, images: int, payload_bits: float, link_bits: float) -> None:
        """The socket sent so many link bits, headers in, for so many messages of images and their payload."""
        around = ((link_bits - images * self._answer_bits) / (1 + self._share) - payload_bits) / messages
        around = min(max(around, 8.0 * 20), 8.0 * 2000)  # what else crossed meanwhile must not carry it away
        self._around_bits += SMOOTHING * (around - self._around_bits)

    def segments_of(self, sent_bytes: int, received_bytes: int) -> None:
        """TCP sends, and gets, so many bytes at most in one segment."""
        self._share = SEGMENT_HEADER_BYTES / max(64, sent_bytes)
        self._answer_bits = 8.0 * SEGMENT_HEADER_BYTES * RESULT_BYTES / (2 * max(64, received_bytes))

    def image_bits(self, rung: int) -> float:
        """Payload bits an image at a rung; never less than at a cheaper one."""
        return max(self._guess(lower) for lower in range(rung + 1))

    def message_bits(self, images: int, payload_bits: float) -> float:
        """Link bits of a message with that payload, and of its answer."""
        return (payload_bits + self._around_bits) * (1 + self._share) + images * self._answer_bits

    def demand(self, rung: int, images_per_s: float, period_s: float) -> float:
        """Link bits a second of so many images a second, in one message every ``period_s``."""
        image_bits = self.image_bits(rung) * (1 + self._share) + self._answer_bits
        return images_per_s * image_bits + self.around_bits / period_s

    def _guess(self, rung: int) -> float:
        seen = self._remembered(rung)
        return max(MIN_BITS, self._rungs[rung].bits + self._offset) if seen is None else seen

    def _remembered(self, rung: int) -> float | None:
        bits, message = self._seen.get(rung, (0.0, -REMEMBERED_MESSAGES))
        return bits if self._messages - message < REMEMBERED_MESSAGES else None
