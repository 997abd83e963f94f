"""What the load is made of, prepared before any clock starts: messages of a test set, and what must come back."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.codec import Subject, code_messages, load_subject
from benchmarks.server.http2 import message
from benchmarks.server.peers import HttpCaller, Sensor, UnaryCaller, after_sequence, http_post
from benchmarks.server.rival_paths import JPEG_PATH, LITSERVE_PATH, UNARY_PATH
from edge_server.answering import answer_jobs
from edge_server.pipeline import Job, Pipeline, ServedPoint
from latentwire import messages as m
from latentwire import wire
from latentwire.errors import LatentwireError
from latentwire.v1 import stream_pb2

MAX_IMAGES = 1024
JPEG_QUALITY = 90
MOST_WRONG = 1e-3  # of the labels: in batches of another size a decoder's last bits may differ

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Messages of ``images_per_message`` images at one rate scale, and the labels of each."""

    served: ServedPoint
    hello: m.Hello
    batches: tuple[m.LatentBatch, ...]
    labels: tuple[tuple[int, ...], ...]
    share_refined: float

    @property
    def jobs(self) -> list[Job]:
        """The messages as a server's workers get them."""
        return [Job(self.served, batch) for batch in self.batches]

    def sensors(self, address: Address, count: int) -> list[Sensor]:
        """Streams to ``latentwire server``."""
        batches = [after_sequence(batch) for batch in self.batches]
        return [Sensor(self.hello, f"load-{n}", batches, _host(address)) for n in range(count)]

    def unary_callers(self, address: Address, count: int) -> list[UnaryCaller]:
        """Clients of the unary gRPC service."""
        bodies = [message(wire.from_sensor_to_proto(batch).batch.SerializeToString()) for batch in self.batches]
        return [UnaryCaller(UNARY_PATH, bodies, _host(address)) for _ in range(count)]

    def litserve_callers(self, address: Address, count: int) -> list[HttpCaller]:
        """Clients of LitServe."""
        requests = []
        for batch in self.batches:
            fields = {"payload": base64.b64encode(batch.payload).decode(), "images": batch.images, "crc32": batch.crc32}
            body = json.dumps(fields).encode()
            requests.append(http_post(LITSERVE_PATH, body, "application/json", _host(address)))
        return [HttpCaller(requests) for _ in range(count)]

    def check(self, answers: dict[int, bytes], labels_of: "LabelsOf") -> None:
        """LatentwireError where the answers to the messages, by their numbers, are not their labels."""
        wrong = sum(np.sum(np.array(labels_of(said)) != self.labels[number]) for number, said in answers.items())
        images = sum(len(self.labels[number]) for number in answers)
        if not images or wrong > max(1.0, MOST_WRONG * images):
            raise LatentwireError(f"{wrong} of {images} images were answered otherwise than without a server")


LabelsOf = Callable[[bytes], Sequence[int]]


def labels_of_proto(said: bytes) -> Sequence[int]:
    """Of a ``ServerMessage``."""
    return stream_pb2.ServerMessage.FromString(said).results.label


def labels_of_json(said: bytes) -> Sequence[int]:
    """Of LitServe's, and the JPEG service's."""
    labels: list[int] = json.loads(said)["labels"]
    return labels


@dataclass(frozen=True, slots=True)
class Pictures:
    """The test images as JPEG files."""

    files: tuple[bytes, ...]

    def callers(self, address: Address, count: int) -> list[HttpCaller]:
        """Clients of the service that takes them."""
        requests = [http_post(JPEG_PATH, file, "image/jpeg", _host(address)) for file in self.files]
        return [HttpCaller(requests) for _ in range(count)]


def load(bundle: str, data_root: Path | None) -> Subject:
    """The bundle with the first of its test images, encoded."""
    subject = load_subject(bundle, None, data_root)
    encoded, kept = subject.encoded, slice(MAX_IMAGES)
    head = None if encoded.head_logits is None else encoded.head_logits[kept]
    encoded = replace(encoded, latent=encoded.latent[kept], head_logits=head, labels=encoded.labels[kept])
    return replace(subject, encoded=encoded)


def prepare(subject: Subject, pipeline: Pipeline, rate_scale: float, size: int) -> Prepared:
    """The test set in whole messages of ``size`` images."""
    manifest, variant = subject.bundle.manifest, subject.variant
    model = manifest.variant().default_model
    served = pipeline.derive(variant, model, rate_scale)
    coded = [one for one in code_messages(served.point.codec, subject.encoded, size) if one.images == size]
    batches = tuple(m.LatentBatch(0, size, 1, one.payload, one.crc32) for one in coded)
    labels = []
    for answered in answer_jobs([Job(served, batch) for batch in batches]):
        if isinstance(answered, LatentwireError):
            raise answered
        labels.append(answered.results.labels)
    point = m.OperatingPointName(1, variant, model, rate_scale, served.point.digest)
    hello = m.Hello(
        sensor="load",
        session="load",
        model_id=manifest.model_id,
        bundle_digest=subject.bundle.digest,
        operating_points=(point,),
        sensor_digest=subject.bundle.sensor_digest,
    )
    refined = float(np.mean(np.concatenate([one.level for one in coded]) > 0))
    return Prepared(served, hello, batches, tuple(labels), refined)


def as_jpeg(subject: Subject) -> Pictures:
    """The test images at a quality that costs no accuracy to speak of."""
    files = []
    for pixels in subject.dataset.images[:MAX_IMAGES]:
        file = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=JPEG_QUALITY)
        files.append(file.getvalue())
    return Pictures(tuple(files))


def _host(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
