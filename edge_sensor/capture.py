"""The thread that reads the source into the frame queue."""

import threading
from typing import Protocol

from edge_sensor.frame_queue import FrameQueue
from edge_sensor.sources import Dropped, Source
from latentwire.errors import LatentwireError, SourceError

BEHIND = "behind"  # why a live source's image is dropped: the sensor could not keep up


class DropCounter(Protocol):
    """Whoever keeps account of images that are not sent."""

    def dropped(self, item: str, reason: str) -> None:
        """``item`` will never be sent."""
        ...


def start_capture(source: Source, queue: FrameQueue, drops: DropCounter, *, again: bool) -> threading.Thread:
    """Read ``source`` in a thread of its own until the queue is ended.

    ``again`` goes round a recorded source. The thread is a daemon: a camera that hangs must not keep the
    process from ending.
    """
    thread = threading.Thread(
        target=_capture, args=(source, queue, drops, again), name="latentwire-capture", daemon=True
    )
    thread.start()
    return thread


def _capture(source: Source, queue: FrameQueue, drops: DropCounter, again: bool) -> None:
    error: LatentwireError | None = None
    try:
        while not queue.ended:
            if not _one_round(source, queue, drops) and not queue.ended:
                raise SourceError(f"not one image of {source.description} could be read; name another source")
            if not again:
                break
    except LatentwireError as raised:
        error = raised
    except Exception as raised:  # whatever it is, the sensor must end with it rather than wait for images
        error = SourceError(f"{source.description} failed: {raised!r}")
    queue.end(error)


def _one_round(source: Source, queue: FrameQueue, drops: DropCounter) -> int:
    """Images read in one round; it is cut short when the queue is ended."""
    images = 0
    for found in source:
        if isinstance(found, Dropped):
            drops.dropped(found.item, found.reason)
        else:
            images += 1
            pushed_out = queue.put(found, source.live)
            if pushed_out is not None:
                drops.dropped(pushed_out.item, BEHIND)
        if queue.ended:
            break
    return images
