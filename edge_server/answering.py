"""A micro-batch -> results: one entropy decoding an operating point, one decoder run a variant, whatever the streams.

::

    messages --by operating point--> anchors, levels, latents --level 0--> the anchors' known answers
                                                              --level 1--> decoder, with those of all other messages
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_server.decoder import Decoder
from edge_server.pipeline import Answered, Job, ServedPoint
from latentwire.codec.bulk import Coded
from latentwire.codec.latent_codec import DecodedBatch
from latentwire.errors import CodecError, CorruptPayloadError, LatentwireError
from latentwire.messages import Results

log = logging.getLogger("latentwire.server")


@dataclass(slots=True)
class _Part:
    """Messages of one operating point, by their numbers in the micro-batch, decoded end to end; ``label`` and
    ``probability`` (N,) are the anchors' until the refined images have the decoder's."""

    served: ServedPoint
    numbers: list[int]
    decoded: DecodedBatch
    errors: Sequence[CodecError | None]
    refined: NDArray[np.intp] = field(init=False)
    label: NDArray[np.int64] = field(init=False)
    probability: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        self.refined = np.flatnonzero(self.decoded.level)
        self.label = self.served.anchors.label[self.decoded.anchor]
        self.probability = self.served.anchors.probability[self.decoded.anchor]


def answer_jobs(jobs: Sequence[Job]) -> list[Answered | LatentwireError]:
    """Each job's results, or the CodecError that its payload is refused with; raises InferenceError.

    The jobs may be of several bundles.
    """
    answers: list[Answered | LatentwireError] = [CorruptPayloadError("the payload cannot be decoded")] * len(jobs)
    parts = list(_decode(jobs))
    _classify(parts)
    for part in parts:
        for number, answered in zip(part.numbers, _results(part, jobs), strict=True):
            answers[number] = answered
    return answers


def _decode(jobs: Sequence[Job]) -> Iterator[_Part]:
    by_point: dict[tuple[int, int], list[int]] = {}
    for number, job in enumerate(jobs):
        by_point.setdefault((id(job.served.point), id(job.served.decoder)), []).append(number)
    for numbers in by_point.values():
        yield from _decode_at_one_point(jobs, numbers)


def _decode_at_one_point(jobs: Sequence[Job], numbers: list[int]) -> Iterator[_Part]:
    served = jobs[numbers[0]].served
    batches = [jobs[number].batch for number in numbers]
    coded = [Coded(batch.payload, batch.images, batch.crc32) for batch in batches]
    try:
        decoded, errors = served.point.codec.decode_many(coded)
    except Exception:  # a hostile payload must not take the other streams' messages with it
        if len(numbers) == 1:
            log.exception("unforeseen error while decoding %d bytes", len(batches[0].payload))
            return
        for number in numbers:
            yield from _decode_at_one_point(jobs, [number])
    else:
        yield _Part(served, numbers, decoded, errors)


def _classify(parts: Sequence[_Part]) -> None:
    """Put the decoder's answers in place of the anchors', where images are refined."""
    by_decoder: dict[Decoder, list[_Part]] = {}
    for part in parts:
        if len(part.refined):
            by_decoder.setdefault(part.served.decoder, []).append(part)
    for decoder, members in by_decoder.items():
        latent = np.concatenate([part.decoded.latent[part.refined] for part in members])
        told = [part.served.conditions(part.decoded, part.refined) for part in members]
        conditions = [rows for rows in told if rows is not None]  # all or none: they are of one decoder
        label, probability = decoder.run(latent, np.concatenate(conditions) if conditions else None)
        start = 0
        for part in members:
            end = start + len(part.refined)
            part.label[part.refined] = label[start:end]
            part.probability[part.refined] = probability[start:end]
            start = end


def _results(part: _Part, jobs: Sequence[Job]) -> Iterator[Answered | LatentwireError]:
    batches = [jobs[number].batch for number in part.numbers]
    starts = np.cumsum([0] + [batch.images for batch in batches[:-1]])
    refined = np.add.reduceat(part.decoded.level, starts).tolist()  # a level is 0 or 1
    labels, probabilities = part.label.tolist(), part.probability.tolist()
    start = 0
    for batch, count, error in zip(batches, refined, part.errors, strict=True):
        end = start + batch.images
        if error is not None:
            yield error
        else:
            results = Results(batch.first_sequence, tuple(labels[start:end]), tuple(probabilities[start:end]))
            yield Answered(results, count)
        start = end
