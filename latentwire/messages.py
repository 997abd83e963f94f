"""What crosses the wire between a sensor and a server, as plain data; ``wire.py`` turns it into protobuf and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

PROTOCOL_VERSION = 1


@dataclass(frozen=True, slots=True)
class OperatingPointName:
    """What a sensor announces before its first batch at an operating point.

    ``id`` is the sensor's own number for it within the session (1 and up); ``digest`` (8 bytes) is that of the
    integer tables; ``command_id`` names the command that is carried out, 0 when the sensor chose by itself;
    ``sensor_digest`` is the bundle's (``Bundle.sensor_digest``), empty for the one that the hello names.
    """

    id: int
    variant: str
    model: str
    rate_scale: float
    digest: bytes
    command_id: int = 0
    sensor_digest: str = ""


@dataclass(frozen=True, slots=True)
class Hello:
    """A sensor's first message. ``next_sequence`` is the first image it has no answer for; ``sensor_digest`` is of the
    bundle's part that both sides must hold alike (``Bundle.sensor_digest``), empty from sensors that do not say it."""

    sensor: str
    session: str
    model_id: str
    bundle_digest: str
    operating_points: tuple[OperatingPointName, ...]
    next_sequence: int = 0
    protocol_version: int = PROTOCOL_VERSION
    software: str = ""
    sensor_digest: str = ""


@dataclass(frozen=True, slots=True)
class LatentBatch:
    """Images ``first_sequence`` to ``first_sequence + images - 1``, coded at one operating point."""

    first_sequence: int
    images: int
    operating_point: int
    payload: bytes
    crc32: int


@dataclass(frozen=True, slots=True)
class CommandRefused:
    """The sensor will not carry a command out; ``error`` is a name from ``errors.py``."""

    command_id: int
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class DropReport:
    """Images captured but never to be sent: reason -> running total since the session began."""

    dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server accepts from one stream; it says so in its welcome, and the sensor keeps to it."""

    max_images_per_message: int = 1024
    max_payload_bytes: int = 1 << 20
    max_unanswered_images: int = 4096


@dataclass(frozen=True, slots=True)
class Welcome:
    """The server's answer to Hello: every image before ``next_sequence`` is answered."""

    next_sequence: int
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Results:
    """One label (index into the bundle's classes) and its probability (0..1) an image, in sequence order."""

    first_sequence: int
    labels: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BatchRefused:
    """A batch that will not be answered; its images count as dropped for the reason ``error``."""

    first_sequence: int
    images: int
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class SetOperatingPoint:
    """A command to a sensor. None keeps what is; ``bundle_digest`` names the bundle to run (``Bundle.digest``)."""

    command_id: int
    variant: str | None = None
    model: str | None = None
    rate_scale: float | None = None
    bundle_digest: str | None = None


@dataclass(frozen=True, slots=True)
class RateControl:
    """Who turns a sensor's knob.

    ``automatic``: the sensor, so that images' age stays under ``max_age_s``; with a budget too, so that it sends no
    more than that, framing in. Else people do.
    """

    automatic: bool = False
    max_age_s: float = 2.0
    budget_bits_per_s: float | None = None

    @property
    def by_itself(self) -> bool:
        """The sensor turns its knob."""
        return self.automatic or self.budget_bits_per_s is not None

    def described(self) -> str:
        """In a few words, for people."""
        words = [f"automatic, images at most {self.max_age_s:g} s old"] if self.automatic else []
        if self.budget_bits_per_s is not None:
            words.append(f"budget {self.budget_bits_per_s:g} bit/s")
        return ", ".join(words) or "by hand"


@dataclass(frozen=True, slots=True)
class SetRateControl:
    """A command to a sensor. None keeps what is; a budget of 0 lifts it."""

    command_id: int
    automatic: bool | None = None
    max_age_s: float | None = None
    budget_bits_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class RateControlState:
    """Who turns a sensor's knob now; ``command_id`` names the command it answers, 0 when none asked."""

    command_id: int
    control: RateControl


@dataclass(frozen=True, slots=True)
class Drain:
    """The server is going away: finish what is in flight, then reconnect."""

    reason: str


FromSensor = Hello | OperatingPointName | LatentBatch | CommandRefused | DropReport | RateControlState
FromServer = Welcome | Results | BatchRefused | SetOperatingPoint | SetRateControl | Drain


@dataclass(frozen=True, slots=True)
class Rate:
    """A sensor's operating point and what it costs, measured on the ``images`` answered at it."""

    variant: str
    model: str
    rate_scale: float
    min_rate_scale: float
    max_rate_scale: float
    images: int = 0
    payload_bits_per_image: float = 0.0
    share_refined: float = 0.0
    control: RateControl = RateControl()


@dataclass(frozen=True, slots=True)
class SensorInfo:
    """What a server knows of a sensor; ``dropped`` is the sensor's own report, reason -> images.

    ``model_id`` and ``bundle_digest`` are of the bundle it runs.
    """

    name: str
    session: str
    connected: bool
    peer: str
    rate: Rate
    images_answered: int
    images_refused: int
    images_per_s: float
    dropped: Mapping[str, int] = field(default_factory=dict)
    model_id: str = ""
    bundle_digest: str = ""


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """A bundle that a server holds; of ``variants`` the default is first, ``sensor_bytes`` is what sensors need."""

    model_id: str
    bundle_digest: str
    variants: tuple[str, ...]
    signed: bool
    sensor_bytes: int
