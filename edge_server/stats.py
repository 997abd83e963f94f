"""Counts of one sensor: pure, its clock is given."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]
WINDOW_S = 5
MAX_POINTS = 256


@dataclass(slots=True)
class PointCounts:
    """What the images answered at one operating point cost."""

    images: int = 0
    payload_bits: int = 0
    refined: int = 0

    @property
    def payload_bits_per_image(self) -> float:
        """Mean payload bits an image, 0 while there is none."""
        return self.payload_bits / self.images if self.images else 0.0

    @property
    def share_refined(self) -> float:
        """Share of images above level 0, 0..1."""
        return self.refined / self.images if self.images else 0.0


class SensorCounts:
    """Images of one session: answered, refused, and their cost an operating point."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Start at nothing; ``clock`` gives seconds."""
        self.images_answered = 0
        self.images_refused = 0
        self._points: dict[int, PointCounts] = {}
        self._clock = clock
        self._started = clock()
        self._seconds: deque[tuple[int, int]] = deque()  # (whole second, images answered in it)

    def answered(self, point: int, images: int, payload_bits: int, refined: int) -> None:
        """A batch at operating point id ``point`` is answered."""
        self.images_answered += images
        counts = self._points.setdefault(point, PointCounts())
        counts.images += images
        counts.payload_bits += payload_bits
        counts.refined += refined
        while len(self._points) > MAX_POINTS:  # ids only grow, so the first is the oldest
            del self._points[next(iter(self._points))]
        second = int(self._clock())
        if self._seconds and self._seconds[-1][0] == second:
            images += self._seconds.pop()[1]
        self._seconds.append((second, images))
        self._forget(second)

    def refused(self, images: int) -> None:
        """A batch is refused."""
        self.images_refused += images

    def point(self, point: int) -> PointCounts:
        """The counts of operating point id ``point``; zeros when nothing was answered at it."""
        return self._points.get(point, PointCounts())

    def images_per_s(self) -> float:
        """Images answered a second, over the last ``WINDOW_S`` seconds or since the session began."""
        now = self._clock()
        self._forget(int(now))
        span = min(WINDOW_S, max(1.0, now - self._started))
        return sum(images for _, images in self._seconds) / span

    def _forget(self, second: int) -> None:
        while self._seconds and self._seconds[0][0] <= second - WINDOW_S:
            self._seconds.popleft()
