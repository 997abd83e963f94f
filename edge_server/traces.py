"""The server's spans of a message: from its arrival to its reply, and within that the micro-batch that decoded it."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from edge_server.pipeline import Job, ServedPoint
from latentwire.messages import LatentBatch
from latentwire.tracing import Traced, Tracing

Answers = TypeVar("Answers")


def begin(
    tracing: Tracing, sensor: str, session: str, served: ServedPoint, batch: LatentBatch, received_s: float
) -> Traced | None:
    """The span of a batch that came at ``received_s`` (monotonic); None if it is not traced."""
    trace = tracing.of(sensor, session, batch.first_sequence)
    if trace is None:
        return None
    point = served.point
    return tracing.below(
        trace,
        "latentwire.answer",
        received_s,
        sensor=sensor,
        session=session,
        first_sequence=batch.first_sequence,
        images=batch.images,
        payload_bytes=len(batch.payload),
        bundle=served.bundle.manifest.model_id,
        variant=point.variant,
        model=point.model,
        rate_scale=point.rate_scale,
    )


def with_spans(work: Callable[[Sequence[Job]], Answers]) -> Callable[[Sequence[Job]], Answers]:
    """``work``, which answers a micro-batch in a worker thread; each of its batches gets a span of that."""

    def run(jobs: Sequence[Job]) -> Answers:
        begin_s = time.monotonic()
        try:
            return work(jobs)
        finally:
            end_s, images = time.monotonic(), sum(job.batch.images for job in jobs)
            for job in jobs:
                if job.traced is not None:
                    job.traced.child("latentwire.decode", begin_s, end_s, messages=len(jobs), images=images)

    return run
