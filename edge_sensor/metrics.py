"""A sensor's vitals for Prometheus, on a port of its own."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

from edge_sensor.vitals import Vitals
from latentwire.scraping import serve_scrapes

_PREFIX = "latentwire_sensor"

Gather = Callable[[], Vitals]


async def serve_metrics(listen: str, gather: Gather, ready: Callable[[int], None] = lambda port: None) -> None:
    """Answer Prometheus at ``HOST:PORT`` until cancelled; ``gather`` is called in the event loop.

    ``ready`` is told the port. Raises ListenError.
    """
    await serve_scrapes(listen, lambda: metrics(gather()), ready)


def metrics(vitals: Vitals) -> Iterator[Metric]:
    """Every metric, docs/operations.md has the list."""
    report = vitals.report
    yield _counter("images_captured", "Images the source gave, less those skipped.", vitals.images_captured)
    yield _counter("images_sent", "Images coded for the server.", report.images_sent)
    yield _counter("images_answered", "Images with a result.", report.images_answered)
    yield _counter("reconnects", "Times the link to the server was made again.", report.reconnects)
    yield _counter("duplicates", "Results that came again and were ignored.", report.duplicates)
    yield _counter("source_losses", "Times the camera or stream went away.", vitals.source_losses)
    yield _by("images_dropped", "Images that never get a result.", "reason", dict(report.dropped))
    yield _by("images_skipped", "Images left out on purpose.", "reason", dict(vitals.images_skipped))
    means = {"ideal": report.ideal_bits, "payload": report.payload_bits, "grpc": report.grpc_bits}
    bits = {kind: (mean or 0.0) * report.images_sent for kind, mean in means.items()}
    yield _by("bits", "Bits of all images sent, counted in three ways.", "kind", bits)
    encode = SummaryMetricFamily(f"{_PREFIX}_encode_seconds", "Time in the encoder; counted in images.")
    encode.add_metric([], vitals.encode_images, vitals.encode_seconds)
    yield encode
    yield _gauge("queue_images", "Images captured and not yet coded.", vitals.queue_images)
    yield _gauge("backlog_images", "Images coded and waiting for the link.", vitals.backlog_images)
    yield _gauge("backlog_bytes", "What they take where they wait.", vitals.backlog_bytes)
    yield _gauge("backlog_oldest_seconds", "Age of the oldest of them.", vitals.backlog_oldest_s or 0.0)
    yield _gauge("unanswered_images", "Images sent and not yet answered.", vitals.unanswered_images)
    yield _gauge("connected", "1 while a server answers.", vitals.connected)
    yield _gauge("source_up", "0 while the camera or stream is away.", not vitals.source_lost)
    yield _gauge("rate_scale", "The knob.", vitals.rate_scale)
    if report.share_refined is not None:
        yield _gauge("share_refined", "Share of the images sent above level 0, 0..1.", report.share_refined)
    quantiles = {"0.5": report.latency_p50_ms, "0.95": report.latency_p95_ms, "0.99": report.latency_p99_ms}
    latency = GaugeMetricFamily(f"{_PREFIX}_latency_seconds", "From capture to result.", labels=["quantile"])
    for quantile, value_ms in quantiles.items():
        if value_ms is not None:
            latency.add_metric([quantile], value_ms / 1000)
    yield latency
    tuning = GaugeMetricFamily(
        f"{_PREFIX}_info", "What runs.", labels=["sensor", "version", "model_id", "variant", "model"]
    )
    tuning.add_metric([vitals.sensor, vitals.version, vitals.model_id, vitals.variant, vitals.model], 1)
    yield tuning


def _counter(name: str, says: str, value: float) -> Metric:
    return CounterMetricFamily(f"{_PREFIX}_{name}", says, value=value)


def _gauge(name: str, says: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", says, value=float(value))


def _by(name: str, says: str, label: str, values: dict[str, int] | dict[str, float]) -> Metric:
    family = CounterMetricFamily(f"{_PREFIX}_{name}", says, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
