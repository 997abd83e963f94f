"""``latentwire bench codec``: what the code costs and keeps, over the whole range of the knob, through the real codec.

A row's ``part`` tells them apart: ``knob`` (accuracy and bits at the frontier's knots and between them), ``message``
(bits in messages of 1 to 256 images), ``other coder``, ``picture`` (files of the same images, classified), and the
speeds of ``codec_speed.py``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.codec_speed import bulk_decoding, portable_coder, sensor_time
from benchmarks.other_coders import load_rans, through_other_coders
from benchmarks.pictures import Images, need_jpeg_xl, pictures, whole_network
from latentwire.bundle import Bundle, load_bundle
from latentwire.codec.choice import log_posterior
from latentwire.codec.latent_codec import EncodedBatch, LatentCodec
from latentwire.codec.parameters import CodecParameters
from latentwire.datasets import Dataset, load_test
from latentwire.errors import DataError
from latentwire.local_run import stream, summarise
from latentwire.messages import LatentBatch
from latentwire.operating_point import OperatingPoint
from latentwire.report import Value
from latentwire.wire import from_sensor_to_proto, grpc_bytes
from training.evaluation import AnyDecoder, Encoded, at_point, decoder, encode_dataset, measure

MESSAGE_SIZES = (1, 4, 16, 64, 256)
IMAGES_PER_MESSAGE = 64
WIRE_IMAGES = 2048

Row = dict[str, Value]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CodecBenchConfig:
    """``bundles`` are folders or names of shipped bundles; ``data`` the test set, by default the one that each
    bundle was trained for; ``speed`` whether times are taken too; ``wire`` whether messages are also sent from a
    sensor's process to a server's; ``compressai`` where that package lies, if it does; ``pictures`` whether the test
    images are sent as picture files too, which ``network``, a checkpoint, classifies, or else the pair itself."""

    bundles: tuple[str, ...]
    data: str | None = None
    data_root: Path | None = None
    speed: bool = True
    wire: bool = False
    compressai: Path | None = None
    pictures: bool = True
    network: Path | None = None

    def __post_init__(self) -> None:
        """ValueError where a network is given for several bundles, or for nothing."""
        if self.network is not None and (len(self.bundles) != 1 or not self.pictures):
            raise ValueError("--network goes with one --bundle, and with pictures")


@dataclass(frozen=True, slots=True)
class Subject:
    """A bundle's default variant with its test set, encoded once."""

    bundle: Bundle
    dataset: Dataset
    encoded: Encoded
    decode: AnyDecoder

    @property
    def variant(self) -> str:
        """The default variant's name."""
        return self.bundle.manifest.default_variant

    @property
    def models(self) -> list[str]:
        """The entropy models, in the order of the manifest."""
        return list(self.bundle.manifest.variant().models)

    def parameters(self, model: str) -> CodecParameters:
        """An entropy model's parameters."""
        return self.bundle.codec_parameters(self.variant, model)

    def codec(self, model: str, rate_scale: float) -> LatentCodec:
        """The codec at an operating point."""
        return OperatingPoint.derive(self.parameters(model), self.variant, model, rate_scale).codec

    def whole_answers(self, encoded: Encoded) -> NDArray[np.int64]:
        """The pair's labels (N,) with nothing quantized in between."""
        model = self.bundle.manifest.variant().default_model
        parameters = self.parameters(model)
        point = OperatingPoint.derive(parameters, self.variant, model, parameters.rate_max)
        anchor = log_posterior(parameters, encoded.latent, encoded.head_logits).argmax(axis=1).astype(np.int32)
        logits = at_point(self.decode, point)(encoded.latent, anchor, np.ones_like(anchor))
        answers: NDArray[np.int64] = logits.argmax(axis=1)
        return answers

    def row(self, part: str) -> Row:
        """What the rows of a part begin with."""
        name = self.bundle.manifest.model_id
        return {"part": part, "bundle": name, "data": self.dataset.name, "variant": self.variant}


def load_subject(name: str, data: str | None = None, data_root: Path | None = None) -> Subject:
    """Load a bundle and encode its test set; DataError if it does not say which that is."""
    bundle = load_bundle(name)
    data = data or str(bundle.manifest.training.get("data", ""))
    if not data:
        raise DataError(f"{name} does not say what it was trained on: give --data")
    dataset = load_test(data, data_root)
    return Subject(bundle, dataset, encode_dataset(bundle, None, dataset), decoder(bundle, None))


def run_codec_bench(config: CodecBenchConfig, progress: Progress = lambda _: None) -> list[Row]:
    """Measure every bundle; the rows of all parts."""
    rows: list[Row] = []
    if config.pictures:
        need_jpeg_xl()  # before minutes have gone by
    ans = None if config.compressai is None else load_rans(config.compressai)
    for name in config.bundles:
        progress(f"{name}: encoding the test set")
        subject = load_subject(name, config.data, config.data_root)
        rows += knob(subject, progress)
        rows += messages(subject, progress)
        if config.wire:
            rows += wire(subject, name, config.data_root, progress)
        rows += other_coders(subject, ans, progress)
        if config.pictures:
            rows += as_pictures(subject, config.network, progress)
        if config.speed:
            progress(f"{name}: the codec's time on the sensor, and bulk decoding")
            spots = {model: _ends_and_default(subject, model) for model in subject.models}
            codecs = [(model, scale, subject.codec(model, scale)) for model in spots for scale in spots[model]]
            images, encoded = subject.dataset.images, subject.encoded
            speeds = sensor_time(subject.bundle, images, encoded, codecs)
            speeds += bulk_decoding(encoded, codecs) + portable_coder(encoded, codecs)
            rows += [subject.row(str(row["part"])) | row for row in speeds]
    return rows


def knob(subject: Subject, progress: Progress) -> list[Row]:
    """Accuracy and bits at every knot of each model's frontier and half-way between knots, and of the bare pair."""
    labels = subject.encoded.labels
    whole = float(np.mean(subject.whole_answers(subject.encoded) == labels))
    rows: list[Row] = [subject.row("pair") | {"images": len(labels), "accuracy": whole}]
    for model in subject.models:
        for scale in _positions(subject.parameters(model)):
            progress(f"{subject.dataset.name}: {model} at {scale:.3g}")
            point = OperatingPoint.derive(subject.parameters(model), subject.variant, model, scale)
            measured = measure(point, subject.encoded, subject.decode, IMAGES_PER_MESSAGE)
            rows.append(subject.row("knob") | asdict(measured.row))
    return rows


def messages(subject: Subject, progress: Progress) -> list[Row]:
    """Ideal, payload and gRPC bits in messages of each size, at both ends of each model's knob and its default."""
    rows: list[Row] = []
    for model in subject.models:
        for scale in _ends_and_default(subject, model):
            codec = subject.codec(model, scale)
            for size in MESSAGE_SIZES:
                progress(f"{subject.dataset.name}: {model} at {scale:g}, {size} images a message")
                bits = _message_bits(codec, subject.encoded, size)
                rows.append(subject.row("message") | {"model": model, "rate_scale": scale} | bits)
    return rows


def wire(subject: Subject, bundle: str, data_root: Path | None, progress: Progress) -> list[Row]:
    """Every byte that a sensor's process writes to its socket, at each model's default, in messages of each size."""
    rows: list[Row] = []
    for model in subject.models:
        for size in MESSAGE_SIZES:
            progress(f"{subject.dataset.name}: {model} over the wire, {size} images a message")
            options = ["--model", model] + (["--data-root", str(data_root)] if data_root else [])
            with stream(bundle, subject.dataset.name, WIRE_IMAGES, size, options) as running:
                results = running.finish()
                (row,) = summarise(results, running.relay)
            rows.append(subject.row("wire") | row)
    return rows


def other_coders(subject: Subject, ans: Any | None, progress: Progress) -> list[Row]:
    """The same symbols through other coders, in messages of 64 images and of the whole test set."""
    rows: list[Row] = []
    for model in subject.models:
        for scale in _ends_and_default(subject, model):
            codec = subject.codec(model, scale)
            for size in (IMAGES_PER_MESSAGE, len(subject.encoded.latent)):
                progress(f"{subject.dataset.name}: {model} at {scale:g} through other coders")
                coded = list(code_messages(codec, subject.encoded, size))
                start = subject.row("other coder") | {"model": model, "rate_scale": scale, "images_per_message": size}
                rows += [start | row for row in through_other_coders(codec, coded, ans)]
    return rows


def as_pictures(subject: Subject, network: Path | None, progress: Progress) -> list[Row]:
    """Accuracy against bytes of the test images as picture files, classified by a network on the server's side."""

    def pair(images: Images) -> NDArray[np.int64]:
        encoded = encode_dataset(subject.bundle, None, replace(subject.dataset, images=images))
        return subject.whole_answers(encoded)

    classify = pair if network is None else whole_network(network, subject.dataset)
    start = subject.row("picture") | {"classifier": "the pair itself" if network is None else str(network)}
    return [start | row for row in pictures(subject.dataset, classify, progress)]


def _message_bits(codec: LatentCodec, encoded: Encoded, size: int) -> Row:
    sequence, sent = 0, 0
    coded: list[EncodedBatch] = []
    for message in code_messages(codec, encoded, size):
        batch = LatentBatch(sequence, message.images, 1, message.payload, message.crc32)
        sent += 8 * grpc_bytes(from_sensor_to_proto(batch))
        sequence += message.images
        coded.append(message)
    ideal = sum(message.ideal_bits for message in coded)
    payload = sum(message.payload_bits for message in coded)
    return {
        "images": sequence,
        "images_per_message": size,
        "share_refined": float(np.mean(np.concatenate([message.level for message in coded]) > 0)),
        "ideal_bits": ideal / sequence,
        "payload_bits": payload / sequence,
        "grpc_bits": sent / sequence,
        "overhead_bits_per_message": (payload - ideal) / len(coded),
        "ideal_bits_per_message": ideal / len(coded),
    }


def code_messages(codec: LatentCodec, encoded: Encoded, size: int) -> Iterator[EncodedBatch]:
    """The test set in messages of ``size`` images, each decoded and compared."""
    for start in range(0, len(encoded.latent), size):
        part = slice(start, start + size)
        head = None if encoded.head_logits is None else encoded.head_logits[part]
        message = codec.encode(encoded.latent[part], codec.choose(encoded.latent[part], head))
        decoded = codec.decode(message.payload, message.images, message.crc32)
        if not np.array_equal(decoded.indices, message.indices):
            raise AssertionError("a message decoded to other symbols than were coded")
        yield message


def _ends_and_default(subject: Subject, model: str) -> Sequence[float]:
    entry = subject.bundle.manifest.variant().model(model)
    return sorted({entry.rate_min, entry.rate_default, entry.rate_max})


def _positions(parameters: CodecParameters) -> list[float]:
    knots = parameters.frontier.rate_scale
    between = np.sqrt(knots[1:] * knots[:-1])
    return [float(scale) for scale in np.sort(np.concatenate([knots, between]))]
