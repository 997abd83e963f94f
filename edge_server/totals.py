"""What a server counts over all its streams, since it started: plain numbers, which ``metrics.py`` exports.

Counted by stream class, never by a sensor's name: a class is the bundle, variant and entropy model that messages are
coded with, which the operator's own bundles name, so that there are few however many sensors come.
"""

import bisect
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from edge_server.pipeline import Job, ServedPoint

MAX_CLASSES = 64
BATCH_IMAGES = tuple(2.0**n for n in range(13))  # 1 to 4,096 images
SECONDS = tuple(0.0005 * 2**n for n in range(16))  # half a millisecond to 16 seconds

Answers = TypeVar("Answers")


class StreamClass(NamedTuple):
    """What a stream's messages are coded with."""

    bundle: str  # its model id
    variant: str
    model: str


OTHER = StreamClass("other", "other", "other")  # for those beyond MAX_CLASSES


@dataclass(slots=True)
class ClassTotals:
    """Messages answered of one class, and what was in them."""

    messages: int = 0
    images: int = 0
    refined: int = 0
    payload_bytes: int = 0


class Histogram:
    """Counts of numbers by their size. Thread-safe."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds`` rise; a number belongs to the first that it is not above, or to none."""
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, number: float) -> None:
        """Count one."""
        place = bisect.bisect_left(self.bounds, number)
        with self._lock:
            self._counts[place] += 1
            self._sum += number

    def read(self) -> tuple[list[int], float]:
        """How many there were up to each bound, and in all; and their sum."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        for place in range(1, len(counts)):
            counts[place] += counts[place - 1]
        return counts, total


class Totals:
    """Use it from the event loop; histograms and ``timed`` from any thread."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.by_class: dict[StreamClass, ClassTotals] = {}
        self.images_refused: Counter[str] = Counter()  # by the refusal's name
        self.images_known = 0  # came again, after a cut link
        self.streams_opened = 0
        self.streams_ended: Counter[str] = Counter()  # by why: closed, cut, or the refusal's name
        self.calls_refused: Counter[tuple[str, str]] = Counter()  # by service and refusal's name
        self.control_actions: Counter[tuple[str, str]] = Counter()  # by action, and done or the refusal's name
        self.batch_images = Histogram(BATCH_IMAGES)
        self.decode_seconds = Histogram(SECONDS)
        self.message_seconds = Histogram(SECONDS)
        self.failing = False  # the last micro-batch was not answered at all

    def class_of(self, served: "ServedPoint") -> StreamClass:
        """The class of what is coded at an operating point."""
        point = served.point
        found = StreamClass(served.bundle.manifest.model_id, point.variant, point.model)
        return found if found in self.by_class or len(self.by_class) < MAX_CLASSES else OTHER

    def answered(self, served: "ServedPoint", images: int, refined: int, payload_bytes: int) -> None:
        """A message has its results."""
        found = self.class_of(served)
        counts = self.by_class.get(found)
        if counts is None:
            counts = self.by_class[found] = ClassTotals()
        counts.messages += 1
        counts.images += images
        counts.refined += refined
        counts.payload_bytes += payload_bytes

    def timed(self, work: "Callable[[Sequence[Job]], Answers]") -> "Callable[[Sequence[Job]], Answers]":
        """``work``, which answers a micro-batch in a worker thread, with each of its runs counted."""

        def run(jobs: "Sequence[Job]") -> Answers:
            started_s = time.monotonic()
            failed = True
            try:
                answers = work(jobs)
                failed = False
                return answers
            finally:
                self.failing = failed
                self.decode_seconds.observe(time.monotonic() - started_s)
                self.batch_images.observe(sum(job.batch.images for job in jobs))

        return run
