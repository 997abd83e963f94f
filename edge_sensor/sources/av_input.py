"""PyAV (FFmpeg), for the sources that need it: opening, and pictures one by one."""

import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import count
from typing import Any, cast

from PIL import Image

from edge_sensor.sources.frames import Dropped, Frame
from edge_sensor.sources.picture import DRAFT_FACTOR, fit_picture, picture_from_bytes
from latentwire.bundle import InputSpec
from latentwire.errors import ImageError, SourceError


def import_av() -> Any:
    """PyAV, imported only when it is asked for: it is large, and most sensors need none."""
    try:
        av = import_module("av")
    except ImportError:
        raise SourceError("reading videos and cameras needs PyAV: pip install av") from None
    av.logging.set_level(av.logging.PANIC)  # what is wrong comes as an error, which is told once
    return av


def ffmpeg_error() -> type[Exception]:
    """What PyAV raises."""
    error: type[Exception] = import_av().FFmpegError
    return error


def open_container(
    place: str,
    shown: str,
    container_format: str | None = None,
    options: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Any:
    """An open container with a video stream; SourceError, which calls it ``shown``, if FFmpeg cannot open it."""
    av = import_av()
    try:
        container = av.open(place, format=container_format, options=dict(options or {}), timeout=timeout_s)
    except (av.FFmpegError, OSError) as error:
        raise SourceError(f"{shown} cannot be opened as an image or a video ({reason_of(error)})") from error
    if not container.streams.video:
        container.close()
        raise SourceError(f"{shown} holds no pictures")
    return container


def pictures(
    container: Any, name: str, spec: InputSpec, numbers: Iterator[int] | None = None
) -> Iterator[Frame | Dropped]:
    """Every picture of the container's first video stream, called ``name#number``; FFmpeg's error where it ends badly.

    A torn one is dropped as ImageError.
    """
    numbers = count() if numbers is None else numbers
    stream = container.streams.video[0]
    of_packet = _jpegs if stream.codec_context.name == "mjpeg" else _decoded
    for packet in container.demux(stream):
        yield from of_packet(packet, name, spec, numbers)


def _decoded(packet: Any, name: str, spec: InputSpec, numbers: Iterator[int]) -> Iterator[Frame | Dropped]:
    try:
        found = packet.decode()
    except ffmpeg_error():
        yield Dropped(f"{name}#{next(numbers)}", ImageError.__name__)
        return
    for picture in found:
        captured_s = time.monotonic()
        item = f"{name}#{next(numbers)}"
        if picture.is_corrupt:  # the decoder made something up where data were missing
            yield Dropped(item, ImageError.__name__)
        else:
            yield Frame(item, fit_picture(_draft(picture, spec), spec), None, captured_s)


def _draft(picture: Any, spec: InputSpec) -> Image.Image:
    """A decoded picture in RGB; a large one is scaled while it is converted, which takes a tenth of the time."""
    shrink = min(picture.width / spec.width, picture.height / spec.height) / DRAFT_FACTOR
    if shrink <= 1:
        return cast(Image.Image, picture.to_image())
    width, height = round(picture.width / shrink), round(picture.height / shrink)
    return cast(Image.Image, picture.reformat(width, height, "rgb24", interpolation="AREA").to_image())


def _jpegs(packet: Any, name: str, spec: InputSpec, numbers: Iterator[int]) -> Iterator[Frame | Dropped]:
    """Motion JPEG through Pillow.

    FFmpeg gives a JPEG that was cut short as a whole picture without a word, and Pillow decodes it at about the
    size that is needed.
    """
    if not packet.size:
        return  # the one that flushes a decoder
    captured_s = time.monotonic()
    item = f"{name}#{next(numbers)}"
    try:
        yield Frame(item, picture_from_bytes(bytes(packet), item, spec), None, captured_s)
    except ImageError as error:
        yield Dropped(item, error.error_name)


def reason_of(error: Exception) -> str:
    """Why FFmpeg failed, without the address, which may hold a password."""
    return getattr(error, "strerror", None) or type(error).__name__
