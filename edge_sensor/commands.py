"""Carries out what the server commands: find the operating point off the event loop, then turn the knob."""

import asyncio
import logging
from dataclasses import dataclass

from edge_sensor.encoder import Encoder, OnnxEncoder
from edge_sensor.frame_queue import FrameQueue
from edge_sensor.session import Session
from latentwire.bundle import Bundle
from latentwire.errors import CommandRefusedError, LatentwireError
from latentwire.messages import SetOperatingPoint
from latentwire.operating_point import OperatingPoint, OperatingPoints

_MAX_WAITING = 64

log = logging.getLogger("latentwire.sensor")


@dataclass(frozen=True, slots=True)
class Tuner:
    """Makes operating points and encoders of a bundle.

    Its methods take milliseconds to seconds: not for the loop.
    """

    bundle: Bundle
    points: OperatingPoints
    threads: int
    batch_images: int

    def point(self, variant: str | None, model: str | None, rate_scale: float | None) -> OperatingPoint:
        """The operating point of that name, None meaning the bundle's default.

        Raises UnknownVariantError or RateScaleError.
        """
        manifest = self.bundle.manifest
        variant = variant or manifest.default_variant
        spec = manifest.variant(variant)
        model = model or spec.default_model
        default = spec.model(model).rate_default
        return self.points.get(variant, model, default if rate_scale is None else rate_scale)

    def encoder(self, variant: str) -> Encoder:
        """The variant's encoder, loaded; InferenceError if it cannot be."""
        manifest = self.bundle.manifest
        path = self.bundle.encoder_path(variant)
        d = manifest.variant(variant).d
        return OnnxEncoder(path, manifest.input, d, threads=self.threads, batch_images=self.batch_images)

    def changed(self, now: OperatingPoint, command: SetOperatingPoint) -> OperatingPoint:
        """The operating point that ``command`` asks for: what it leaves open stays as it is ``now``.

        An entropy model that a new variant lacks gives way to that variant's default.
        """
        variant = command.variant or now.variant
        model = command.model
        if model is None and now.model in self.bundle.manifest.variant(variant).models:
            model = now.model
        rate_scale = now.rate_scale if command.rate_scale is None else command.rate_scale
        return self.point(variant, model, rate_scale)


class Commands:
    """Commands in the order they came, one at a time.

    Those that cannot be carried out are refused by name.
    """

    def __init__(self, session: Session, tuner: Tuner, queue: FrameQueue) -> None:
        self._session = session
        self._tuner = tuner
        self._queue = queue
        self._waiting: asyncio.Queue[SetOperatingPoint] = asyncio.Queue(_MAX_WAITING)

    def put(self, command: SetOperatingPoint) -> None:
        """Take a command from the stream."""
        try:
            self._waiting.put_nowait(command)
        except asyncio.QueueFull:
            self._session.refuse(command.command_id, CommandRefusedError("too many commands are waiting"))

    async def run(self) -> None:
        """Carry commands out until cancelled."""
        while True:
            command = await self._waiting.get()
            try:
                await self._carry_out(command)
            except LatentwireError as error:
                log.warning("a command is refused: %s", error)
                self._session.refuse(command.command_id, error)

    async def _carry_out(self, command: SetOperatingPoint) -> None:
        session = self._session
        now, encoder = session.target, session.target_encoder
        point = await asyncio.to_thread(self._tuner.changed, now, command)
        if point.variant != now.variant:
            encoder = await asyncio.to_thread(self._tuner.encoder, point.variant)
        if session.coded_all:
            raise CommandRefusedError("the sensor has coded its last image")
        session.turn(point, encoder, command.command_id)
        self._queue.hurry()
