"""Every setting of a sensor process, checked once."""

import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import get_args

from edge_sensor.sources import SourceOptions, without_password
from edge_sensor.spool_file import MIN_SPOOL_BYTES, Sync
from edge_sensor.spool_state import Full
from latentwire.messages import RateControl
from latentwire.tls import Access


@dataclass(frozen=True, slots=True)
class SensorConfig:
    """Settings of ``latentwire sensor``; a bad one raises ``ValueError`` that says what to do.

    Attributes:
        bundle: folder of the bundle, or the name of a shipped one.
        server: ``HOST:PORT`` of the server, or of several that will do, with commas.
        access: how the server is reached, and by what it knows this sensor.
        source: ``digits``, ``cifar10`` or ``cifar100`` (their test splits), an image file, a folder of
            images, a video file, a camera's index or device file, or the URL of an RTSP or HTTP stream.
        source_options: which of its images are taken.
        metrics: ``HOST:PORT`` at which Prometheus may ask; None for nowhere.
        traces: where the spans of messages go: OTLP's ``http://HOST:PORT``, or a file; None for nowhere.
        trace_share: share of the messages that are traced, 0..1; the same as the server's, to see both ends.
        run_dir: folder of the socket that ``latentwire sensor status`` asks; None finds one.
        name: the sensor's name, unique among a server's sensors.
        variant: encoder variant; None takes the bundle's default.
        model: entropy model; None takes the variant's default.
        rate_scale: the knob at start; None takes the model's default.
        limit: stop after so many images, going round a recorded source again; None: one round.
        results: file for one JSON line an image; ``-`` is standard output, None writes none.
        images_per_message: a message is closed when it holds so many images …
        delay_s: … or when its oldest image is so old, whichever comes first.
        encode_batch_images: images the encoder takes in one run, at most.
        threads: threads of ONNX Runtime inside one encoder run.
        max_unanswered_images: images sent ahead of their results; the server may allow fewer.
        data_root: folder of the data sets; None takes the library's own default.
        connect_timeout_s: how long to look for a server that never answered; a lost one is looked for
            forever.
        spool: file that keeps coded messages until they are answered, so that neither a cut link nor a killed sensor
            loses them; None keeps them in memory. With it, ``results`` is appended to, and a server that is not
            there is waited for.
        spool_bytes: how large the spool may grow; a log of up to half a megabyte lies beside it.
        spool_full: what is dropped when it is full, the ``oldest`` waiting messages or the ``newest``. A recorded
            source is not read on instead.
        spool_sync: when SQLite has the disk written for good: ``normal``, at times, which a killed process cannot
            hurt, or ``full``, at every commit, which the machine's power failing cannot hurt either.
        spool_commit_s: the spool is written at most so often; what was coded since is lost with the process, and
            no server has seen it.
        keepalive_s: a silent link is asked for a sign of life so often, and given up after as long again.
        max_backoff_s: longest pause between two attempts to connect.
        grace_s: after SIGTERM or Ctrl-C, how long images in flight may take to be answered.
        rate_control: who turns the knob at start; commands change it.
        max_image_bits: no image is coded in more (ideal) bits: it is coded coarser, and if that is not enough, dropped.
        max_message_bits: no message's payload has more bits: it is split.
        progress: show progress on standard error.
        bundle_store: folder for bundles that come over the air; None takes none.
        bundle_key: PEM file of an Ed25519 public key; only bundles signed by it are then taken over the air.
    """

    bundle: str | Path
    server: str
    source: str
    name: str
    variant: str | None = None
    model: str | None = None
    rate_scale: float | None = None
    limit: int | None = None
    results: str | Path | None = None
    images_per_message: int = 16
    delay_s: float = 0.1
    encode_batch_images: int = 16
    threads: int = 1
    max_unanswered_images: int = 256
    data_root: str | Path | None = None
    connect_timeout_s: float = 10.0
    max_backoff_s: float = 10.0
    spool: str | Path | None = None
    spool_bytes: int = 64 << 20
    spool_full: Full = "oldest"
    spool_sync: Sync = "normal"
    spool_commit_s: float = 0.1
    keepalive_s: float = 20.0
    grace_s: float = 5.0
    rate_control: RateControl = field(default_factory=RateControl)
    max_image_bits: float = math.inf
    max_message_bits: float = math.inf
    progress: bool = True
    bundle_store: str | Path | None = None
    bundle_key: str | Path | None = None
    source_options: SourceOptions = field(default_factory=SourceOptions)
    metrics: str | None = None
    traces: str | None = None
    trace_share: float = 1.0
    run_dir: Path | None = None
    access: Access = field(default_factory=Access)

    def __post_init__(self) -> None:
        """Check every setting."""
        for server in self.servers:
            if _port(server) < 1:
                raise ValueError(f"server must be HOST:PORT, for example 127.0.0.1:50051, not {server!r}")
            self.access.check(server)
        if self.metrics is not None and _port(self.metrics) < 0:
            raise ValueError(f"metrics must be HOST:PORT, for example 127.0.0.1:9108, not {self.metrics!r}")
        if not 0 < self.trace_share <= 1:
            raise ValueError(f"trace_share must be above 0 and at most 1, not {self.trace_share}")
        if not 1 <= len(self.name) <= 128 or not self.name.isprintable():
            raise ValueError("name must be 1 to 128 printable characters")
        if not self.source:
            raise ValueError("source must name a data set, a file, a folder or a camera's index")
        for name in ("images_per_message", "encode_batch_images", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, not {self.limit}; leave it out for one round")
        if self.max_unanswered_images < self.images_per_message:
            raise ValueError("max_unanswered_images must be at least images_per_message, or no message fits")
        self._check_spool()
        self._check_rate_control()
        self._check_times()

    def _check_rate_control(self) -> None:
        if not 0.1 <= self.rate_control.max_age_s <= 3600:
            raise ValueError(f"max_age must be 0.1 to 3600 seconds, not {self.rate_control.max_age_s}")
        budget = self.rate_control.budget_bits_per_s
        if budget is not None and not 0 < budget < math.inf:
            raise ValueError(f"budget must be a positive number of bits a second, not {budget}")
        for name in ("max_image_bits", "max_message_bits"):
            if not getattr(self, name) >= 8:
                raise ValueError(f"{name} must be at least 8, not {getattr(self, name)}; leave it out for no cap")

    def _check_spool(self) -> None:
        if self.spool_bytes < MIN_SPOOL_BYTES:
            raise ValueError(f"spool_bytes must be at least {MIN_SPOOL_BYTES}, not {self.spool_bytes}")
        if self.spool_full not in get_args(Full):
            raise ValueError(f"spool_full must be oldest or newest, not {self.spool_full!r}")
        if self.spool_sync not in get_args(Sync):
            raise ValueError(f"spool_sync must be normal or full, not {self.spool_sync!r}")

    def _check_times(self) -> None:
        if not 1 <= self.keepalive_s <= 3600:
            raise ValueError(f"keepalive_s must be 1 to 3600 seconds, not {self.keepalive_s}")
        for name in ("delay_s", "grace_s", "connect_timeout_s", "spool_commit_s"):
            if not 0 <= getattr(self, name) <= 3600:
                raise ValueError(f"{name} must be 0 to 3600 seconds, not {getattr(self, name)}")
        if not 0 < self.max_backoff_s <= 3600:
            raise ValueError(f"max_backoff_s must be above 0 and at most 3600 seconds, not {self.max_backoff_s}")

    @property
    def servers(self) -> tuple[str, ...]:
        """Each ``HOST:PORT`` of ``server``."""
        return tuple(address.strip() for address in self.server.split(","))

    def described(self) -> str:
        """All settings in one line, for the log."""
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {"source": without_password(self.source)}
        return " ".join(f"{name}={value}" for name, value in values.items())


def _port(address: str) -> int:
    """The port of ``HOST:PORT``; -1 if it is none."""
    match = re.fullmatch(r"(?:\[[0-9a-fA-F:.%\w]+\]|[^:\[\]\s/]+):(\d{1,5})", address)
    return int(match[1]) if match is not None and int(match[1]) <= 65535 else -1
