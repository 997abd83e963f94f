"""What became of every image: counts, and a line of results for each."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_sensor.latency import LatencyHistogram
from edge_sensor.results import ResultsFile
from edge_sensor.window import CodedMessage, Unanswered

_LATEST = 8


@dataclass(frozen=True, slots=True)
class SensorReport:
    """What a sensor has done so far.

    Bits are means per image coded; None stands for "no image to tell it from".

    Attributes:
        images_sent: images coded and numbered.
        images_answered: of those, with a result.
        images_refused: of those, refused by the server; they are among ``dropped`` too, by the refusal's
            name.
        dropped: reason -> images that never get a result.
        duplicates: results that came again and were ignored.
        reconnects: times the link was made again.
        elapsed_s: seconds since the sensor started.
        images_with_truth: answered images whose class is known; ``accuracy`` (0..1) is over them.
        share_refined: share of images above level 0, 0..1.
        latency_p50_ms: median time from capture to result; p95 and p99 alike.
        latest: the latest classes, newest last.
    """

    images_sent: int
    images_answered: int
    images_refused: int
    dropped: Mapping[str, int]
    duplicates: int
    reconnects: int
    elapsed_s: float
    images_with_truth: int
    accuracy: float | None
    share_refined: float | None
    ideal_bits: float | None
    payload_bits: float | None
    grpc_bits: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    latest: tuple[str, ...]


class Ledger:
    """Keeps account of a session's images. Thread-safe; no method but the writing ones may block."""

    def __init__(
        self,
        classes: tuple[str, ...],
        results: ResultsFile,
        clock: Callable[[], float] = time.monotonic,
        unsent: Mapping[str, int] | None = None,
    ):
        """``unsent`` is what an earlier process of the session counted."""
        self._classes = classes
        self._results = results
        self._clock = clock
        self._started_s = clock()
        self._lock = threading.Lock()
        self._unsent: Counter[str] = Counter(unsent or {})
        self._refused: Counter[str] = Counter()
        self._sums = dict.fromkeys(("images", "refined", "ideal", "payload", "grpc"), 0.0)
        self._answered = self._with_truth = self._correct = 0
        self._latency = LatencyHistogram()
        self._latest: deque[str] = deque(maxlen=_LATEST)
        self.reconnects = 0
        self.duplicates = 0

    def coded(self, message: CodedMessage) -> None:
        """A message was numbered and is to be sent."""
        with self._lock:
            self._sums["images"] += message.batch.images
            self._sums["refined"] += sum(picture.level > 0 for picture in message.pictures)
            self._sums["ideal"] += sum(picture.ideal_bits for picture in message.pictures)
            self._sums["payload"] += 8 * len(message.batch.payload)
            self._sums["grpc"] += message.grpc_bits

    def dropped(self, item: str, reason: str) -> None:
        """An image will never be sent. Writes."""
        with self._lock:
            self._unsent[reason] += 1
        self._results.write_if_room([{"item": item, "dropped": reason}])

    def dropped_messages(self, messages: Sequence[CodedMessage], reason: str) -> None:
        """These were coded and will never be sent. Writes."""
        items = [picture.item for message in messages for picture in message.pictures]
        with self._lock:
            self._unsent[reason] += len(items)
        self._results.write_if_room([{"item": item, "dropped": reason} for item in items])

    def refused(self, images: Sequence[Unanswered], error: str) -> None:
        """The server will not answer these. Writes."""
        with self._lock:
            self._refused[error] += len(images)
        self._lost(images, error)

    def abandoned(self, images: Sequence[Unanswered], reason: str) -> None:
        """The sensor no longer waits for these. Writes."""
        with self._lock:
            self._unsent[reason] += len(images)
        self._lost(images, reason)

    def answered(
        self,
        images: Sequence[Unanswered],
        labels: Sequence[int],
        probabilities: Sequence[float],
        received_s: float,
    ) -> None:
        """These have their results, got at ``received_s`` (monotonic). Writes."""
        rows = [self._row(*found, received_s) for found in zip(images, labels, probabilities, strict=True)]
        with self._lock:
            for image, label, row in zip(images, labels, rows, strict=True):
                self._answered += 1
                self._with_truth += image.picture.truth is not None
                self._correct += image.picture.truth == label
                self._latency.add(row["latency_ms"])
                self._latest.append(self._classes[label])
        self._results.write_in_time(rows)

    def unsent(self) -> dict[str, int]:
        """Reason -> images that were captured but never sent."""
        with self._lock:
            return dict(self._unsent)

    def report(self) -> SensorReport:
        """All counts as they are now."""
        with self._lock:
            images = int(self._sums["images"])
            mean = {name: value / images if images else None for name, value in self._sums.items()}
            return SensorReport(
                images_sent=images,
                images_answered=self._answered,
                images_refused=self._refused.total(),
                dropped=dict(self._unsent + self._refused),
                duplicates=self.duplicates,
                reconnects=self.reconnects,
                elapsed_s=self._clock() - self._started_s,
                images_with_truth=self._with_truth,
                accuracy=self._correct / self._with_truth if self._with_truth else None,
                share_refined=mean["refined"],
                ideal_bits=mean["ideal"],
                payload_bits=mean["payload"],
                grpc_bits=mean["grpc"],
                latency_p50_ms=self._latency.percentile(50),
                latency_p95_ms=self._latency.percentile(95),
                latency_p99_ms=self._latency.percentile(99),
                latest=tuple(self._latest),
            )

    def _lost(self, images: Sequence[Unanswered], reason: str) -> None:
        rows = [
            {
                "sequence": image.sequence,
                "item": image.picture.item,
                "dropped": reason,
                "message": image.message.batch.first_sequence,
                "images_per_message": image.message.batch.images,
            }
            for image in images
        ]
        self._results.write_in_time(rows)

    def _row(self, image: Unanswered, label: int, probability: float, received_s: float) -> dict[str, Any]:
        picture, message = image.picture, image.message
        images = message.batch.images
        return {
            "sequence": image.sequence,
            "item": picture.item,
            "label": self._classes[label],
            "label_index": label,
            "probability": round(probability, 6),
            "truth": None if picture.truth is None else self._classes[picture.truth],
            "payload_bits": 8 * len(message.batch.payload) / images,
            "grpc_bits": message.grpc_bits / images,
            "ideal_bits": picture.ideal_bits,
            "level": picture.level,
            "rate_scale": message.point.rate_scale,
            "variant": message.point.variant,
            "model": message.point.model,
            "message": message.batch.first_sequence,
            "images_per_message": images,
            "captured_s": picture.captured_s,
            "captured_unix_s": round(picture.captured_s + message.clock_offset_s, 3),
            "sent_s": message.sent_s,
            "latency_ms": 1000 * (received_s - picture.captured_s),
        }
