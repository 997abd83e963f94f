"""What the server knows of every sensor. One ``Sensor`` is one process of a sensor: a name and a session."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Protocol

from edge_server.commands import CommandBook, Measured
from edge_server.pipeline import ServedPoint
from edge_server.rate_control import ControlBook
from edge_server.sessions import Session
from edge_server.stats import Clock, PointCounts, SensorCounts
from latentwire.errors import LatentwireError, UnknownSensorError
from latentwire.messages import BatchRefused, FromServer, OperatingPointName, Rate, Results, SensorInfo

MAX_SHOWN_CHARACTERS = 128


class Link(Protocol):
    """The live stream of a sensor; ``finished`` is set once all it admitted is answered into the session."""

    finished: asyncio.Event

    def send(self, message: FromServer) -> None:
        """Queue a message to the sensor."""
        ...

    def end(self, error: LatentwireError, *, flush: bool) -> None:
        """End the stream with ``error``; ``flush`` writes what was accepted first."""
        ...


class Sensor:
    """A sensor's session, counts, operating point and commands; ``link`` is None while not connected."""

    def __init__(self, name: str, session_id: str, session: Session, counts: SensorCounts) -> None:
        """A sensor that has announced nothing yet."""
        self.name = name
        self.session_id = session_id
        self.session = session
        self.counts = counts
        self.commands = CommandBook()
        self.rate_control = ControlBook()
        self.command_turn = asyncio.Lock()
        self.link: Link | None = None
        self.peer = ""
        self.dropped: Mapping[str, int] = {}
        self.served: ServedPoint | None = None
        self.current = 0

    def announced(self, name: OperatingPointName, served: ServedPoint) -> None:
        """The sensor knows this operating point; it is at the latest of its session: others are of older messages."""
        if name.id >= self.current:
            self.current = name.id
            self.served = served

    def answered(self, results: Results, measured: Measured, wire: bytes) -> None:
        """The next batch in order is answered by the message ``wire``."""
        self.session.answered(results.first_sequence, measured.images, wire)
        self.counts.answered(measured.point, measured.images, measured.payload_bits, measured.refined)
        self.commands.measured(measured)

    def refused(self, batch: BatchRefused, wire: bytes) -> None:
        """The next batch in order is refused by the message ``wire``."""
        self.session.answered(batch.first_sequence, batch.images, wire)
        self.counts.refused(batch.images)

    def rate(self) -> Rate:
        """The current operating point and what the images answered at it cost."""
        assert self.served is not None, "a sensor is listed once its operating points are verified"
        return replace(rate_of(self.served, self.counts.point(self.current)), control=self.rate_control.control)

    def info(self) -> SensorInfo:
        """The sensor, for the control service."""
        return SensorInfo(
            name=self.name,
            session=self.session_id,
            connected=self.link is not None,
            peer=self.peer,
            rate=self.rate(),
            images_answered=self.counts.images_answered,
            images_refused=self.counts.images_refused,
            images_per_s=self.counts.images_per_s(),
            dropped=self.dropped,
            model_id=self.served.bundle.manifest.model_id if self.served else "",
            bundle_digest=self.served.bundle.digest if self.served else "",
        )


def rate_of(served: ServedPoint, counts: PointCounts) -> Rate:
    """An operating point with what ``counts`` says it cost."""
    point = served.point
    parameters = point.codec.parameters
    return Rate(
        variant=point.variant,
        model=point.model,
        rate_scale=point.rate_scale,
        min_rate_scale=parameters.rate_min,
        max_rate_scale=parameters.rate_max,
        images=counts.images,
        payload_bits_per_image=counts.payload_bits_per_image,
        share_refined=counts.share_refined,
    )


class Registry:
    """All sensors by name and session, of each name the latest; the longest gone are forgotten first."""

    def __init__(self, max_sessions: int, memory_images: int, clock: Clock) -> None:
        """``memory_images`` answers are remembered a session."""
        self._max_sessions = max_sessions
        self._memory_images = memory_images
        self._clock = clock
        self._sensors: OrderedDict[tuple[str, str], Sensor] = OrderedDict()
        self._latest: dict[str, Sensor] = {}

    def claim(self, name: str, session_id: str, next_sequence: int) -> tuple[Sensor, Sensor | None]:
        """The sensor of that name and session, made if unknown, and the one it takes the name from, if any.

        A session that is unknown, because the server restarted or forgot it, starts at ``next_sequence``.
        """
        key = (name, session_id)
        sensor = self._sensors.pop(key, None)
        if sensor is None:
            session = Session(next_sequence, self._memory_images)
            sensor = Sensor(name, session_id, session, SensorCounts(self._clock))
        self._sensors[key] = sensor
        former = self._latest.get(name)
        self._latest[name] = sensor
        self._forget()
        return sensor, former if former is not sensor else None

    def __len__(self) -> int:
        """Sessions remembered."""
        return len(self._sensors)

    def sensors(self) -> list[Sensor]:
        """The latest sensor of every name that has announced an operating point, by name."""
        return [sensor for _, sensor in sorted(self._latest.items()) if sensor.served is not None]

    def find(self, name: str) -> Sensor:
        """The latest sensor of that name; raises UnknownSensorError."""
        sensor = self._latest.get(name)
        if sensor is None or sensor.served is None:
            known = ", ".join(s.name for s in self.sensors()[:10]) or "none"
            shown = name[:MAX_SHOWN_CHARACTERS]
            raise UnknownSensorError(f"no sensor {shown!r} has connected; known are: {known}")
        return sensor

    def _forget(self) -> None:
        if (over := len(self._sensors) - self._max_sessions) <= 0:
            return
        others = islice(self._sensors.items(), len(self._sensors) - 1)  # the last is the one that has just come
        unconnected = (key for key, sensor in others if sensor.link is None)
        for key in list(islice(unconnected, over)):
            sensor = self._sensors.pop(key)
            if self._latest.get(sensor.name) is sensor:
                del self._latest[sensor.name]
