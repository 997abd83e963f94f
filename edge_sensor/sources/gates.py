"""Which of a source's images are taken: every Nth, so many a second, only those that have changed."""

import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from edge_sensor.sources.frames import Found, Frame, Skipped, Source, SourceOptions

EVERY, FPS, UNCHANGED = "every", "fps", "unchanged"  # why an image is skipped
MOTION_CELLS = 8  # an image is compared in so many by so many cells


class GatedSource:
    """``source`` with the options applied, in this order: every Nth, then the rate, then motion.

    What a gate holds back comes out as ``Skipped``. ``sleep`` and ``clock`` are in seconds.
    """

    def __init__(
        self,
        source: Source,
        options: SourceOptions,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.live = source.live
        self.description = source.description
        self._source = source
        self._every = options.every
        self._period_s = 0.0 if options.fps is None else 1 / options.fps
        self._motion = None if options.motion is None else MotionGate(options.motion)
        self._clock = clock
        self._sleep = sleep
        self._due_s = -np.inf  # when the next image may be taken; kept from round to round
        self._number = 0
        self.unpaced = 0  # so many images are passed over: a recorded source is not held to the rate for them

    def __iter__(self) -> Iterator[Found]:
        """One round of the source."""
        for found in self._source:
            reason = self._held_back(found) if isinstance(found, Frame) else None
            yield found if reason is None else Skipped(reason)
            if not self.live and reason is None and isinstance(found, Frame) and self._number >= self.unpaced:
                # Before the next is read, not after: its age counts from then.
                self._sleep(max(0.0, self._due_s - self._clock()))

    def _held_back(self, frame: Frame) -> str | None:
        number, self._number = self._number, self._number + 1
        if number % self._every:
            return EVERY
        if self.live and frame.captured_s < self._due_s:
            return FPS
        if number >= self.unpaced:
            # On from when it was due, so that the mean rate is the one asked for; from now after a gap.
            late_s = frame.captured_s - self._due_s
            self._due_s = (self._due_s if late_s < self._period_s else frame.captured_s) + self._period_s
        if self._motion is not None and not self._motion.changed(frame.image):
            return UNCHANGED
        return None


class MotionGate:
    """Tells images that have changed from those that have not, for some 50 µs each at 32 x 32 pixels.

    An image is compared with the last one that had changed, so that a slow change is seen in the end. Both are
    cut into cells, and of each cell only the mean counts: noise averages out, and a small thing that moves
    still changes the mean of its own cells.
    """

    def __init__(self, threshold: float) -> None:
        """``threshold`` is how far one cell's mean must be from what it was, in levels of 0..255."""
        self._threshold = threshold
        self._before: NDArray[np.float64] | None = None

    def changed(self, image: NDArray[np.uint8]) -> bool:
        """Whether ``image`` (H, W, C) uint8 is to be taken; the first always is."""
        now = _cells(image)
        if self._before is not None and np.abs(now - self._before).max() < self._threshold:
            return False
        self._before = now
        return True


def _cells(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean lightness of an image's cells, (cells, cells) float64; fewer cells where it has fewer pixels."""
    height, width, channels = image.shape
    rows = np.linspace(0, height, min(MOTION_CELLS, height), endpoint=False).astype(np.intp)
    columns = np.linspace(0, width, min(MOTION_CELLS, width), endpoint=False).astype(np.intp)
    light = image.sum(axis=2, dtype=np.float64)
    sums = np.add.reduceat(np.add.reduceat(light, rows, axis=0), columns, axis=1)
    areas = np.diff(rows, append=height)[:, None] * np.diff(columns, append=width)
    means: NDArray[np.float64] = sums / (channels * areas)
    return means
