"""When a micro-batch closes, learned from how long the last ones took; pure, its times are given.

What a decoder gains from more images at once is gained within some tens of them, on a processor at least, and a run
that lasts long keeps others waiting: a micro-batch holds what is answered in about ``RUN_S``. Waiting for others to
share it pays only where there is work enough to keep a worker busy: with none busy, it goes at once.
"""

RUN_S = 0.05
FEWEST_IMAGES, MOST_IMAGES = 64, 1024
START_IMAGES = 256
DELAY_S = 0.002
_WEIGHT = 0.1  # of the latest run


class Pace:
    """The size of micro-batches, and how long their first message may wait."""

    def __init__(self, max_images: int | None, delay_s: float | None) -> None:
        """A number is kept to; None is learned."""
        self._fixed_images = max_images
        self._fixed_delay_s = delay_s
        self._image_s: float | None = None

    @property
    def max_images(self) -> int:
        """Images that a micro-batch closes at."""
        if self._fixed_images is not None:
            return self._fixed_images
        if self._image_s is None:
            return START_IMAGES
        return min(MOST_IMAGES, max(FEWEST_IMAGES, int(RUN_S / self._image_s)))

    def delay_s(self, busy_workers: int) -> float:
        """How long a message may wait for others, from its arrival on."""
        if self._fixed_delay_s is not None:
            return self._fixed_delay_s
        return DELAY_S if busy_workers else 0.0

    def ran(self, images: int, seconds: float) -> None:
        """A micro-batch of so many images was answered."""
        each = max(seconds, 1e-9) / images
        self._image_s = each if self._image_s is None else self._image_s + _WEIGHT * (each - self._image_s)
