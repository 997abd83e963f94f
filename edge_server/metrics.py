"""A server's totals for Prometheus; docs/operations.md has the list."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from edge_server.totals import Histogram, StreamClass, Totals
from latentwire import __version__

_PREFIX = "latentwire_server"
_CLASS = StreamClass._fields

_Key = TypeVar("_Key", bound=str | tuple[str, ...])


@dataclass(frozen=True, slots=True)
class Present:
    """What is the case now.

    Attributes:
        streams: open streams by the class of what they are coded with now.
        sessions: sessions remembered, connected or not.
        queued_images: images that wait for a worker.
        results_images: images that wait for the file of results, None where there is none.
        results_stuck: the file cannot be written.
        ready: health says SERVING.
    """

    streams: Mapping[StreamClass, int]
    sessions: int
    queued_images: int
    results_images: int | None
    results_stuck: bool
    ready: bool


def metrics(totals: Totals, present: Present) -> Iterator[Metric]:
    """Every metric."""
    yield from _classes(totals)
    yield _by("images_refused", "Images that are refused for what came.", ("reason",), totals.images_refused)
    yield _counter("images_known", "Images that came again after a cut link.", totals.images_known)
    yield _counter("streams_opened", "Streams that said hello.", totals.streams_opened)
    yield _by("streams_ended", "Streams that are over, and why.", ("reason",), totals.streams_ended)
    yield _by("calls_refused", "Calls of peers that may not.", ("service", "reason"), totals.calls_refused)
    yield _by("control_actions", "Control calls that change something.", ("action", "result"), totals.control_actions)
    yield _histogram("batch_images", "Images of a micro-batch.", totals.batch_images)
    yield _histogram("decode_seconds", "Time a micro-batch is in work.", totals.decode_seconds)
    yield _histogram("message_seconds", "From a message's arrival to its answer.", totals.message_seconds)
    streams = GaugeMetricFamily(f"{_PREFIX}_streams", "Streams open now.", labels=_CLASS)
    for kind, number in present.streams.items():
        streams.add_metric(kind, number)
    yield streams
    yield _gauge("sessions", "Sessions remembered, connected or not.", present.sessions)
    yield _gauge("queued_images", "Images that wait for a worker.", present.queued_images)
    if present.results_images is not None:
        yield _gauge("results_backlog_images", "Answers that wait for the file.", present.results_images)
        yield _gauge("results_stuck", "1 while the file of results cannot be written.", present.results_stuck)
    yield _gauge("ready", "1 while health says SERVING.", present.ready)
    info = GaugeMetricFamily(f"{_PREFIX}_info", "What runs.", labels=["version"])
    info.add_metric([__version__], 1)
    yield info


def _classes(totals: Totals) -> Iterator[Metric]:
    by = totals.by_class
    yield _by("messages_answered", "Messages with results.", _CLASS, {k: t.messages for k, t in by.items()})
    yield _by("images_answered", "Images with a result.", _CLASS, {k: t.images for k, t in by.items()})
    yield _by("images_refined", "Of those, above level 0.", _CLASS, {k: t.refined for k, t in by.items()})
    yield _by("payload_bytes", "Payloads of those messages.", _CLASS, {k: t.payload_bytes for k, t in by.items()})


def _counter(name: str, says: str, value: float) -> Metric:
    return CounterMetricFamily(f"{_PREFIX}_{name}", says, value=value)


def _gauge(name: str, says: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", says, value=float(value))


def _by(name: str, says: str, labels: tuple[str, ...], values: Mapping[_Key, int]) -> Metric:
    family = CounterMetricFamily(f"{_PREFIX}_{name}", says, labels=labels)
    for key, value in values.items():
        family.add_metric([key] if isinstance(key, str) else key, value)
    return family


def _histogram(name: str, says: str, histogram: Histogram) -> Metric:
    counts, total = histogram.read()
    names = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    buckets = list(zip(names, counts, strict=True))
    return HistogramMetricFamily(f"{_PREFIX}_{name}", says, buckets=buckets, sum_value=total)
