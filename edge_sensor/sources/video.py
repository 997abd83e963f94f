"""A video file or a camera as a source, through PyAV (FFmpeg)."""

import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from edge_sensor.sources.frames import Dropped, Frame
from edge_sensor.sources.picture import fit_picture
from latentwire.bundle import InputSpec
from latentwire.errors import ImageError, SourceError


class VideoSource:
    """The pictures of a video file, in order; SourceError if it is no video."""

    live = False

    def __init__(self, path: Path, spec: InputSpec) -> None:
        self._path = path
        self._spec = spec
        with _open(str(path)):
            pass  # a file that is no video is told before the sensor connects
        self.description = f"video {path}"

    def __iter__(self) -> Iterator[Frame | Dropped]:
        """Every picture once.

        One that does not decode is dropped as ImageError; a broken tail ends the round.
        """
        with _open(str(self._path)) as container:
            try:
                yield from _frames(container, self._path.name, self._spec)
            except _ffmpeg_error():
                yield Dropped(f"{self._path.name}#tail", ImageError.__name__)


class CameraSource:
    """The pictures of a camera, as they come; SourceError if there is none or it goes away.

    ``device`` is its file, ``container_format`` what FFmpeg calls such devices.
    """

    live = True

    def __init__(self, device: Path, spec: InputSpec, container_format: str = "v4l2") -> None:
        self._device = device
        self._spec = spec
        self._format = container_format
        if not self._device.exists():
            there = ", ".join(sorted(p.name.removeprefix("video") for p in Path("/dev").glob("video*"))) or "none"
            raise SourceError(f"there is no camera {device}; indices of cameras found: {there}")
        _av()
        self.description = f"camera {device}"

    def __iter__(self) -> Iterator[Frame | Dropped]:
        """Pictures until the camera is lost."""
        with _open(str(self._device), self._format) as container:
            try:
                yield from _frames(container, self._device.name, self._spec)
            except _ffmpeg_error() as error:
                raise SourceError(f"the camera {self._device} stopped ({error}); is it plugged in?") from error
        raise SourceError(f"the camera {self._device} gives no more pictures; is it plugged in?")


def _av() -> Any:
    """PyAV, imported only when a video is asked for: it is large, and most sensors need none."""
    try:
        return import_module("av")
    except ImportError:
        raise SourceError("reading videos and cameras needs PyAV: pip install av") from None


def _ffmpeg_error() -> type[Exception]:
    error: type[Exception] = _av().FFmpegError
    return error


def _open(name: str, container_format: str | None = None) -> Any:
    """An open container with a video stream; SourceError if FFmpeg cannot open it."""
    av = _av()
    try:
        container = av.open(name, format=container_format)
    except (av.FFmpegError, OSError) as error:
        raise SourceError(f"{name} cannot be opened as an image or a video ({error})") from error
    if not container.streams.video:
        container.close()
        raise SourceError(f"{name} holds no pictures")
    return container


def _frames(container: Any, name: str, spec: InputSpec) -> Iterator[Frame | Dropped]:
    error = _ffmpeg_error()
    number = 0
    for packet in container.demux(container.streams.video[0]):
        try:
            pictures = packet.decode()
        except error:
            yield Dropped(f"{name}#{number}", ImageError.__name__)
            number += 1
            continue
        for picture in pictures:
            captured_s = time.monotonic()
            yield Frame(f"{name}#{number}", fit_picture(picture.to_image(), spec), None, captured_s)
            number += 1
