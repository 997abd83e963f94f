"""A video file as a source, through PyAV (FFmpeg)."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_sensor.sources.av_input import ffmpeg_error, open_container, pictures, reason_of
from edge_sensor.sources.frames import Dropped, Frame
from latentwire.bundle import InputSpec
from latentwire.errors import BrokenTailError

_TAIL_S = 1.0  # a video may end so much before the length it states: of sound and picture the longer counts

log = logging.getLogger("latentwire.sensor")


class VideoSource:
    """The pictures of a video file, in order; SourceError if it is no video."""

    live = False

    def __init__(self, path: Path, spec: InputSpec) -> None:
        self._path = path.absolute()  # or FFmpeg would take what stands before a colon for a protocol
        self._spec = spec
        with open_container(str(self._path), str(path)):
            pass  # a file that is no video is told before the sensor connects
        self.description = f"video {path}"

    def __iter__(self) -> Iterator[Frame | Dropped]:
        """Every picture once.

        One that does not decode is dropped as ImageError. Where the file ends before it should, its tail is
        dropped as BrokenTailError, once, for how many pictures it held is not always known; the log says more.
        """
        name, read, lost = self._path.name, 0, None
        with open_container(str(self._path), name) as container:
            try:
                for found in pictures(container, name, self._spec):
                    read += 1
                    yield found
                lost = _missing(container, read)
            except ffmpeg_error() as error:
                lost = reason_of(error)
        if lost is not None:
            log.warning("video %s is broken after %d pictures: %s; what could be read is sent", name, read, lost)
            yield Dropped(f"{name}#tail", BrokenTailError.__name__)


def _missing(container: Any, read: int) -> str | None:
    """What a video that ended after ``read`` pictures lacks of what it says it holds; None if nothing.

    FFmpeg takes the end of a file that was cut for the end of the video. Some formats state the number of pictures,
    others a length.
    """
    stream = container.streams.video[0]
    if stream.frames:
        return None if read >= stream.frames else f"it states {stream.frames}"
    if container.duration is None or not stream.average_rate:
        return None
    stated_s, there_s = container.duration / 1e6, read / float(stream.average_rate)
    return None if there_s > stated_s - _TAIL_S else f"it states {stated_s:.1f} s and holds {there_s:.1f} s"
