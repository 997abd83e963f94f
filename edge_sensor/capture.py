"""The thread that reads the source into the frame queue."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from edge_sensor.frame_queue import FrameQueue
from edge_sensor.sources import Dropped, Frame, Lost, Skipped, Source
from edge_sensor.sources.frames import Found, Idle
from edge_sensor.sources.gates import GatedSource
from latentwire.errors import LatentwireError, SourceError

BEHIND = "behind"  # why a live source's image is dropped: the sensor could not keep up
LINK = "link"  # ... or, by rate control: the link cannot carry all images even at the lowest rate


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
    source: Source,
    queue: FrameQueue,
    drops: DropCounter,
    *,
    again: bool,
    counts: CaptureCounts | None = None,
    done: int = 0,
) -> threading.Thread:
    """Read ``source`` in a thread of its own until the queue is ended.

    ``again`` goes round a recorded source, ``done`` says how much of it an earlier process is done with. The thread
    is a daemon: a camera that hangs must not keep the process from ending.
    """
    if isinstance(source, GatedSource):
        source.unpaced = done
    thread = threading.Thread(
        target=_capture,
        args=(source, queue, drops, again, counts or CaptureCounts(), _Places(done)),
        name="latentwire-capture",
        daemon=True,
    )
    thread.start()
    return thread


class _Places:
    """Counts what a recorded source gives, over all rounds, and passes over what is ``done`` with."""

    def __init__(self, done: int) -> None:
        self._done = done
        self._given = 0

    def of(self, source: Source) -> Iterator[Found | None]:
        """One round; None for what is passed over."""
        for found in source:
            if source.live or isinstance(found, Idle):
                yield found
                continue
            self._given += 1
            if self._given <= self._done:
                yield None
            else:
                yield replace(found, place=self._given) if isinstance(found, Frame) else found


def _capture(
    source: Source, queue: FrameQueue, drops: DropCounter, again: bool, counts: CaptureCounts, places: _Places
) -> None:
    error: LatentwireError | None = None
    try:
        while not queue.ended:
            if not _one_round(source, queue, drops, counts, places) and not queue.ended:
                raise SourceError(f"not one image of {source.description} could be read; name another source")
            if not again:
                break
    except LatentwireError as raised:
        error = raised
    except Exception as raised:  # whatever it is, the sensor must end with it rather than wait for images
        error = SourceError(f"{source.description} failed: {raised!r}")
    queue.end(error)


def _one_round(source: Source, queue: FrameQueue, drops: DropCounter, counts: CaptureCounts, places: _Places) -> int:
    """Images found in one round, those skipped among them; it is cut short when the queue is ended."""
    images = 0
    for found in places.of(source):
        match found:
            case None:
                images += 1
            case Dropped(item, reason):
                drops.dropped(item, reason)
            case Skipped(reason):
                images += 1
                counts.saw(skipped=reason)
            case Frame():
                images += 1
                counts.saw()
                if source.live and not queue.admits():
                    drops.dropped(found.item, LINK)
                elif (pushed_out := queue.put(found, source.live)) is not None:
                    drops.dropped(pushed_out.item, BEHIND)
            case Lost():
                counts.lost_source()
        if queue.ended:
            break
    return images
