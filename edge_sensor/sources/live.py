"""Cameras and network streams: opened again when they are lost, for as long as it takes."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

from edge_sensor.channel import Backoff
from edge_sensor.sources.av_input import ffmpeg_error, import_av, open_container, pictures, reason_of
from edge_sensor.sources.frames import Dropped, Found, Frame, Idle, Lost, Skipped
from latentwire.bundle import InputSpec
from latentwire.errors import SourceError

BLANK = "blank"  # why an image is skipped: it shows nothing
_BLANK_LEVELS = 2  # a picture whose pixels differ by no more: even darkness has more noise than that
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_TICK_S = 0.5

SCHEMES = ("rtsp", "rtsps", "http", "https")

log = logging.getLogger("latentwire.sensor")


@dataclass(frozen=True, slots=True)
class Place:
    """What FFmpeg opens.

    ``url`` with its ``options``; ``shown`` is what people read, ``name`` begins the images' names.
    """

    url: str
    shown: str
    name: str
    container_format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


def camera(device: Path, container_format: str = "v4l2") -> Place:
    """A camera by its device file; SourceError if there is none."""
    if not device.exists():
        there = ", ".join(sorted(p.name.removeprefix("video") for p in Path("/dev").glob("video*"))) or "none"
        raise SourceError(f"there is no camera {device}; indices of cameras found: {there}")
    return Place(str(device.absolute()), f"camera {device}", device.name, container_format)


def network(url: str) -> Place:
    """An RTSP or HTTP stream."""
    parts = urlsplit(url)
    # UDP, FFmpeg's own choice, tears pictures on a bad link; without probing for long, the first pictures are not old.
    options = {"rtsp_transport": "tcp"} if parts.scheme.startswith("rtsp") else {}
    name = Path(parts.path).name or parts.hostname or parts.scheme
    return Place(url, f"stream {without_password(url)}", name, options=options | {"analyzeduration": "1000000"})


def without_password(source: str) -> str:
    """``source`` as it may be logged: a URL without user, password and query, which may be a key."""
    parts = urlsplit(source) if source.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)) else None
    if parts is None:
        return source
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class LiveSource:
    """Pictures of a camera or a stream as they come, without end.

    When it fails, ends or is silent for ``timeout_s`` it is opened anew after a pause that grows, with jitter, from
    half a second to half a minute. A picture that is all one shade, as from a covered or starting camera, is skipped.
    """

    live = True

    def __init__(
        self,
        place: Place,
        spec: InputSpec,
        timeout_s: float,
        backoff: Backoff | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import_av()
        self.description = place.shown
        self._place = place
        self._spec = spec
        self._timeout_s = timeout_s
        self._backoff = backoff or Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._sleep = sleep
        self._numbers = count()

    def __iter__(self) -> Iterator[Found]:
        """Pictures for ever; ``Lost`` where it went away, ``Idle`` while it is looked for."""
        attempts = 0  # since the last picture
        while True:
            reason = "it ended"
            try:
                for found in self._pictures():
                    if not isinstance(found, Dropped):
                        if attempts:
                            log.warning("%s is there again, attempt %d", self._place.shown, attempts)
                        attempts = 0
                        self._backoff.reset()
                    yield found
            except SourceError as error:
                reason = str(error)
            pause_s = self._backoff.next_s()
            if not attempts:
                log.warning("%s is lost (%s); it is opened again until it is back", self._place.shown, reason)
                yield Lost()
            attempts += 1
            yield from self._pause(pause_s)

    def _pictures(self) -> Iterator[Frame | Dropped | Skipped]:
        """Until it is lost; SourceError that says why."""
        place = self._place
        with open_container(
            place.url, place.shown, place.container_format, place.options, self._timeout_s
        ) as container:
            try:
                for found in pictures(container, place.name, self._spec, self._numbers):
                    yield Skipped(BLANK) if isinstance(found, Frame) and _is_blank(found) else found
            except ffmpeg_error() as error:
                raise SourceError(reason_of(error)) from error

    def _pause(self, pause_s: float) -> Iterator[Idle]:
        """A long pause in small steps, so that whoever reads may stop in between."""
        while pause_s > 0:
            step_s = min(pause_s, _TICK_S)
            self._sleep(step_s)
            pause_s -= step_s
            yield Idle()


def _is_blank(frame: Frame) -> bool:
    return int(frame.image.max()) - int(frame.image.min()) <= _BLANK_LEVELS
