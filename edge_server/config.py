"""Every setting of a server process, checked once."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from edge_server.result_sink_files import check_ending
from latentwire.messages import Limits
from latentwire.tls import is_loopback, pair_of

MESSAGE_OVERHEAD_BYTES = 256 * 1024  # room for what is no payload: a hello that names many operating points


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings of ``latentwire server``; a bad one raises ``ValueError`` that says what to do.

    Attributes:
        bundle: folder of the bundle, or the name of a shipped one.
        listen: ``HOST:PORT``; port 0 takes a free port.
        decoder_threads: threads of ONNX Runtime inside one decoder run; 0 takes one a core.
        backend: where decoders run: ``local`` in this process, ``ray`` in a pool of replicas on Ray Serve.
        max_replicas: of that pool, which grows and shrinks with its queue; each has ``decoder_threads``.
        workers: micro-batches in work at once (with a pool at least two a replica), so that one is entropy-decoded
            while the decoder runs another.
        provider: ONNX Runtime's execution provider, by its own name; of decoders in this process.
        max_batch_images: images of a micro-batch; a single message may hold more. None learns it: ``pace.py``.
        batch_delay_s: how long an image waits for others to share its micro-batch. None: not at all while no worker
            is busy, else ``pace.DELAY_S`` at most.
        max_queued_images: images of all streams that wait for a worker; beyond, streams are not read.
        limits: what one stream may send; told to the sensor in the welcome.
        max_operating_points: operating points one stream may keep announced.
        max_streams: streams, and other calls but health checks, open at once.
        max_streams_a_peer: of those, from one address; of one identity, where peers have them.
        max_sessions: sessions remembered, connected or not; the longest unused are forgotten first.
        hello_timeout_s: how long a new stream may take to say hello.
        command_timeout_s: ceiling on the wait for a sensor to carry a command out.
        grace_s: at the end, how long sensors have to finish and leave by themselves.
        library: a folder of further bundles, which may be pushed to sensors; None for no other than ``bundle``.
        tls_cert: PEM file of the server's certificate; None is plain text.
        tls_key: PEM file of its private key.
        tls_ca: PEM file of the authority that every peer's certificate must come from; None asks for none.
        tokens: file of tokens that peers are known by instead: ``latentwire://ROLE/NAME sha256:HEX`` lines.
        results: file that every answered image is written to; None for none.
        metrics: ``HOST:PORT``, or a port on this machine alone, at which Prometheus may ask; None for nowhere.
        traces: where the spans of messages go: OTLP's ``http://HOST:PORT``, or a file; None for nowhere.
        trace_share: share of the messages that are traced, 0..1; the same as the sensors', to see both ends.
        insecure: listen beyond this machine although the link is plain text, or nobody is asked who they are.
    """

    bundle: str | Path
    listen: str = "127.0.0.1:50051"
    decoder_threads: int = 0
    backend: Literal["local", "ray"] = "local"
    max_replicas: int = 4
    workers: int = 2
    provider: str = "CPUExecutionProvider"
    max_batch_images: int | None = None
    batch_delay_s: float | None = None
    max_queued_images: int = 16384
    limits: Limits = field(default_factory=Limits)
    max_operating_points: int = 256
    max_streams: int = 16384
    max_streams_a_peer: int = 4096
    max_sessions: int = 16384
    hello_timeout_s: float = 10.0
    command_timeout_s: float = 60.0
    grace_s: float = 5.0
    library: str | Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    tokens: Path | None = None
    insecure: bool = False
    results: Path | None = None
    metrics: str | None = None
    traces: str | None = None
    trace_share: float = 1.0

    def __post_init__(self) -> None:
        """Check every setting."""
        parse_address(self.listen)
        if self.metrics is not None:
            parse_metrics(self.metrics)
        if self.results is not None:
            check_ending(self.results)
        if self.backend not in ("local", "ray"):
            raise ValueError(f"backend must be local or ray, not {self.backend!r}")
        if self.backend == "ray" and self.provider != "CPUExecutionProvider":
            raise ValueError(f"replicas run on the processor: leave provider {self.provider!r} out, or backend ray")
        for name in (
            "max_replicas",
            "workers",
            "max_queued_images",
            "max_operating_points",
            "max_streams",
            "max_streams_a_peer",
            "max_sessions",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.decoder_threads < 0:
            raise ValueError(f"decoder_threads must be 0 (one a core) or more, not {self.decoder_threads}")
        if not 0 < self.trace_share <= 1:
            raise ValueError(f"trace_share must be above 0 and at most 1, not {self.trace_share}")
        if self.max_batch_images is not None and self.max_batch_images < 1:
            raise ValueError(f"max_batch_images must be at least 1, or unset, not {self.max_batch_images}")
        for name in ("batch_delay_s", "grace_s"):
            if not 0 <= (getattr(self, name) or 0) <= 3600:
                raise ValueError(f"{name} must be 0 to 3600 seconds, not {getattr(self, name)}")
        for name in ("hello_timeout_s", "command_timeout_s"):
            if not 0 < getattr(self, name) <= 3600:
                raise ValueError(f"{name} must be above 0 and at most 3600 seconds, not {getattr(self, name)}")
        limits = self.limits
        if min(limits.max_images_per_message, limits.max_payload_bytes) < 1:
            raise ValueError("limits must be at least 1: raise max_images_per_message and max_payload_bytes")
        if limits.max_unanswered_images < limits.max_images_per_message:
            raise ValueError("max_unanswered_images must be at least max_images_per_message, or no message fits")
        self._check_identity()

    def _check_identity(self) -> None:
        pair = pair_of(self.tls_cert, self.tls_key)
        if self.tls_ca is not None and pair is None:
            raise ValueError("tls_ca needs tls_cert and tls_key, the server's own")
        if self.tls_ca is not None and self.tokens is not None:  # gRPC for Python asks every peer for one, or none
            raise ValueError("tls_ca has every peer show a certificate, and tokens knows them otherwise: give one")
        if self.insecure or is_loopback(self.listen):
            return
        if pair is None:
            raise ValueError(
                f"plain text on {self.listen} can be read and changed by anyone on the way: give tls_cert and "
                "tls_key (latentwire certs init makes them), or insecure"
            )
        if self.tls_ca is None and self.tokens is None:
            raise ValueError(f"on {self.listen} anyone could control all sensors: give tls_ca or tokens, or insecure")

    @property
    def max_message_bytes(self) -> int:
        """The largest gRPC message taken from a peer."""
        return self.limits.max_payload_bytes + MESSAGE_OVERHEAD_BYTES

    @property
    def batches_in_work(self) -> int:
        """Micro-batches in work at once."""
        return self.workers if self.backend == "local" else max(self.workers, 2 * self.max_replicas)

    def described(self) -> str:
        """All settings in one line, for the log."""
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` (``[::1]:50051`` for IPv6); raises ``ValueError``."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%\w]+\]|[^:\[\]\s/]+):(\d{1,5})", address)
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"listen must be HOST:PORT, for example 127.0.0.1:50051, not {address!r}")
    return match[1], int(match[2])


def parse_metrics(address: str) -> str:
    """``HOST:PORT`` of that, or of a port alone, which is one of 127.0.0.1; raises ``ValueError``."""
    full = f"127.0.0.1:{address}" if address.isdecimal() else address
    try:
        parse_address(full)
    except ValueError:
        example = "9109 or 127.0.0.1:9109"
        raise ValueError(f"metrics must be PORT or HOST:PORT, for example {example}, not {address!r}") from None
    return full
