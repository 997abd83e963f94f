"""The thread that reads the source into the frame queue."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from edge_sensor.frame_queue import FrameQueue
from edge_sensor.sources import Dropped, Frame, Lost, Skipped, Source
from latentwire.errors import LatentwireError, SourceError

BEHIND = "behind"  # why a live source's image is dropped: the sensor could not keep up


class DropCounter(Protocol):
    """Whoever keeps account of images that are not sent."""

    def dropped(self, item: str, reason: str) -> None:
        """``item`` will never be sent."""
        ...


class CaptureCounts:
    """What the capture thread did besides dropping; other threads may read it.

    ``skipped`` maps a reason to images left out on purpose, ``losses`` counts how often a live source went away, and
    ``lost`` says that it is away now.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._skipped: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._seen_s: float | None = None
        self.captured = 0
        self.losses = 0
        self.lost = False

    def saw(self, skipped: str | None = None) -> None:
        """An image was there; ``skipped`` says why it is left out, if it is."""
        with self._lock:
            self._seen_s, self.lost = self._clock(), False
            if skipped is None:
                self.captured += 1
            else:
                self._skipped[skipped] += 1

    def lost_source(self) -> None:
        """The source went away."""
        with self._lock:
            self.losses, self.lost = self.losses + 1, True

    def skipped(self) -> dict[str, int]:
        """Reason -> images."""
        with self._lock:
            return dict(self._skipped)

    def silent_s(self) -> float | None:
        """Seconds since the source last gave an image; None if it never did."""
        return None if self._seen_s is None else self._clock() - self._seen_s


def start_capture(
    source: Source, queue: FrameQueue, drops: DropCounter, *, again: bool, counts: CaptureCounts | None = None
) -> threading.Thread:
    """Read ``source`` in a thread of its own until the queue is ended.

    ``again`` goes round a recorded source. The thread is a daemon: a camera that hangs must not keep the
    process from ending.
    """
    thread = threading.Thread(
        target=_capture,
        args=(source, queue, drops, again, counts or CaptureCounts()),
        name="latentwire-capture",
        daemon=True,
    )
    thread.start()
    return thread


def _capture(source: Source, queue: FrameQueue, drops: DropCounter, again: bool, counts: CaptureCounts) -> None:
    error: LatentwireError | None = None
    try:
        while not queue.ended:
            if not _one_round(source, queue, drops, counts) and not queue.ended:
                raise SourceError(f"not one image of {source.description} could be read; name another source")
            if not again:
                break
    except LatentwireError as raised:
        error = raised
    except Exception as raised:  # whatever it is, the sensor must end with it rather than wait for images
        error = SourceError(f"{source.description} failed: {raised!r}")
    queue.end(error)


def _one_round(source: Source, queue: FrameQueue, drops: DropCounter, counts: CaptureCounts) -> int:
    """Images found in one round, those skipped among them; it is cut short when the queue is ended."""
    images = 0
    for found in source:
        match found:
            case Dropped(item, reason):
                drops.dropped(item, reason)
            case Skipped(reason):
                images += 1
                counts.saw(skipped=reason)
            case Frame():
                images += 1
                counts.saw()
                pushed_out = queue.put(found, source.live)
                if pushed_out is not None:
                    drops.dropped(pushed_out.item, BEHIND)
            case Lost():
                counts.lost_source()
        if queue.ended:
            break
    return images
