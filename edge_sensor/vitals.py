"""How a sensor is doing: what its metrics, its status and its log are made of."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edge_sensor.capture import CaptureCounts
from edge_sensor.config import SensorConfig
from edge_sensor.encoder import EncodeMeter
from edge_sensor.frame_queue import FrameQueue
from edge_sensor.ledger import Ledger, SensorReport
from edge_sensor.session import Session
from edge_sensor.window import CodedMessage, Unanswered
from latentwire import __version__


@dataclass(frozen=True, slots=True)
class Vitals:
    """A sensor at one moment. Times are ages in seconds; None stands for "never".

    Attributes:
        sensor: its name; ``server``, ``source`` and ``pid`` alike.
        connected: a server has said welcome and the stream is not over; ``connected_s`` for how long.
        model_id: of the bundle in use; ``variant``, ``model`` and ``rate_scale`` are what images are coded with.
        images_captured: images that the source gave and no gate held back.
        images_skipped: reason -> images that were held back.
        source_lost: the camera or stream is away now; ``source_losses`` how often it went, ``source_silent_s`` how
            long ago it last gave an image.
        queue_images: captured and not yet coded.
        backlog_images: coded and waiting for a link, with their ``backlog_bytes``; ``backlog_oldest_s`` is the age of
            the oldest.
        unanswered_images: sent and not yet answered.
        encode_images: images the encoder took, in ``encode_seconds`` of the wall's clock.
        report: what became of every image.
    """

    sensor: str
    server: str
    source: str
    pid: int
    version: str
    connected: bool
    connected_s: float | None
    model_id: str
    variant: str
    model: str
    rate_scale: float
    images_captured: int
    images_skipped: Mapping[str, int]
    source_lost: bool
    source_losses: int
    source_silent_s: float | None
    queue_images: int
    backlog_images: int
    backlog_bytes: int
    backlog_oldest_s: float | None
    unanswered_images: int
    encode_images: int
    encode_seconds: float
    report: SensorReport


class Monitor:
    """Watches a run, the link among it; only the event loop's thread may use it."""

    def __init__(
        self,
        config: SensorConfig,
        source: str,
        session: Session,
        queue: FrameQueue,
        ledger: Ledger,
        capture: CaptureCounts,
        encode: EncodeMeter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``source`` is the source in words."""
        self._config = config
        self._source = source
        self._session = session
        self._queue = queue
        self._ledger = ledger
        self._capture = capture
        self._encode = encode
        self._clock = clock
        self._since_s: float | None = None

    def connected(self, now_s: float) -> None:
        """The server has said welcome."""
        self._since_s = now_s

    def lost(self, now_s: float) -> None:
        """The stream is over."""
        self._since_s = None

    def sent(self, message: CodedMessage, now_s: float) -> None:
        """Nothing to note: the ledger counts."""

    def answered(self, images: Sequence[Unanswered], now_s: float) -> None:
        """As above."""

    def vitals(self) -> Vitals:
        """The sensor as it is now."""
        session, capture, waiting = self._session, self._capture, self._session.backlog.waiting
        point, now_s, since_s = session.tuning.name, self._clock(), self._since_s
        encode_images, encode_seconds = self._encode.read()
        return Vitals(
            sensor=self._config.name,
            server=self._config.server,
            source=self._source,
            pid=os.getpid(),
            version=__version__,
            connected=since_s is not None,
            connected_s=None if since_s is None else now_s - since_s,
            model_id=session.bundle.manifest.model_id,
            variant=point.variant,
            model=point.model,
            rate_scale=point.rate_scale,
            images_captured=capture.captured,
            images_skipped=capture.skipped(),
            source_lost=capture.lost,
            source_losses=capture.losses,
            source_silent_s=capture.silent_s(),
            queue_images=self._queue.images,
            backlog_images=waiting.images,
            backlog_bytes=waiting.bytes,
            backlog_oldest_s=None if waiting.oldest_s is None else now_s - waiting.oldest_s,
            unanswered_images=session.window.images,
            encode_images=encode_images,
            encode_seconds=encode_seconds,
            report=self._ledger.report(),
        )
