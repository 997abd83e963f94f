"""Accuracy and rate of a deployed pair, through the real codec and the exported graphs: no torch, no training pass."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentwire.bundle import Bundle, TableRow
from latentwire.codec.parameters import CodecParameters
from latentwire.datasets import Dataset
from latentwire.errors import DataError
from latentwire.operating_point import OperatingPoint
from training.inference import OnnxGraph

DecodeLatents = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # latents (N, d) -> logits (N, C)
# latents (N, d), anchors (N,) and levels (N,) -> logits (N, C)
DecodeImages = Callable[[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ToldDecoder:
    """A decoder that is told of the message: ``run`` takes latents (N, d) and conditions (N, ``width``), and gives
    logits (N, C)."""

    run: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
    width: int


AnyDecoder = DecodeLatents | ToldDecoder


def at_point(decode: AnyDecoder, point: OperatingPoint) -> DecodeImages:
    """``decode`` as the server runs it at an operating point."""
    if not isinstance(decode, ToldDecoder):
        return lambda latent, anchor, level: decode(latent)
    return lambda latent, anchor, level: decode.run(latent, point.conditions(anchor, level, decode.width))


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a bundle's encoder makes of a data set: ``latent`` (N, d) float32, ``head_logits`` (N, C) float32 or
    None, and the ``labels`` (N,) int64."""

    latent: NDArray[np.float32]
    head_logits: NDArray[np.float32] | None
    labels: NDArray[np.int64]


def encode_dataset(bundle: Bundle, variant: str | None, dataset: Dataset, batch: int = 256) -> Encoded:
    """Run the encoder over a data set."""
    graph = OnnxGraph(bundle.encoder_path(variant))
    outputs = graph.run(dataset.images, batch)
    return Encoded(outputs["latent"], outputs.get("head_logits"), dataset.labels)


def decoder(bundle: Bundle, variant: str | None, batch: int = 256) -> AnyDecoder:
    """The bundle's decoder."""
    graph = OnnxGraph(bundle.decoder_path(variant))
    if graph.conditions:
        return ToldDecoder(lambda latent, told: graph.run(latent, batch, told)["logits"], graph.conditions)
    return lambda latent: graph.run(latent, batch)["logits"]


def total_entropy_bits(indices: NDArray[np.int32], anchor: NDArray[np.int32], level: NDArray[np.int32]) -> float:
    """The paper's rate, in bits an image: the sum over entries of the entropy of a Normal with the variance of the
    refined images' ``indices`` (R, d), 1/2 log2(2 pi e var) (paper, section 4.1); none below zero, for the formula
    goes to minus infinity as an entry stops moving. For the anchored code it is weighed by the share refined, and
    the entropies of ``anchor`` (N,) and ``level`` (N,) are added; for the paper's own code both are zero.
    """
    variance = indices.astype(np.float64).var(axis=0) if len(indices) else np.zeros(1)
    entropy = np.maximum(0.5 * np.log2(2 * np.pi * np.e * np.maximum(variance, 1e-12)), 0.0)
    return float(np.mean(level > 0) * entropy.sum()) + _entropy(anchor) + _entropy(level)


def _entropy(symbols: NDArray[np.int32]) -> float:
    share = np.bincount(symbols) / len(symbols)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


@dataclass(frozen=True, slots=True)
class Measurement:
    """One operating point over a data set; ``answers`` (N,) are the decoder's labels, ``image_bits`` (N,) the ideal
    bits of each image."""

    row: TableRow
    answers: NDArray[np.int64]
    image_bits: NDArray[np.float64]


def measure(point: OperatingPoint, encoded: Encoded, decode: AnyDecoder, images_per_message: int = 64) -> Measurement:
    """Code every image in messages of ``images_per_message``, decode them, and count.

    Raises AssertionError if a message does not decode to the very symbols that were coded.
    """
    codec = point.codec
    coded, latents = [], []
    for start in range(0, len(encoded.latent), images_per_message):
        part = slice(start, start + images_per_message)
        head = None if encoded.head_logits is None else encoded.head_logits[part]
        message = codec.encode(encoded.latent[part], codec.choose(encoded.latent[part], head))
        decoded = codec.decode(message.payload, message.images, message.crc32)
        symbols = ("anchor", "level", "indices")
        if not all(np.array_equal(getattr(decoded, name), getattr(message, name)) for name in symbols):
            raise AssertionError("a message decoded to other symbols than were coded")
        coded.append(message)
        latents.append(decoded.latent)
    anchor, level, indices, image_bits = (
        np.concatenate([getattr(message, name) for message in coded])
        for name in ("anchor", "level", "indices", "image_bits")
    )
    answers = answer(np.concatenate(latents), level, anchor, codec.anchors, at_point(decode, point))
    images = len(answers)
    row = TableRow(
        model=point.model,
        rate_scale=point.rate_scale,
        images=images,
        images_per_message=images_per_message,
        accuracy=float(np.mean(answers == encoded.labels)),
        share_refined=float(np.mean(level > 0)),
        total_entropy_bits=total_entropy_bits(indices, anchor, level),
        ideal_bits=float(image_bits.mean()),
        payload_bits=sum(message.payload_bits for message in coded) / images,
    )
    return Measurement(row, answers, image_bits)


def answer(
    latent: NDArray[np.float32],
    level: NDArray[np.int32],
    anchor: NDArray[np.int32],
    anchors: NDArray[np.float32],
    decode: DecodeImages,
) -> NDArray[np.int64]:
    """The server's labels (N,): the decoder's for refined images, its answer to the bare anchor for the others."""
    every = np.arange(len(anchors), dtype=np.int32)
    of_anchor = decode(anchors, every, np.zeros_like(every)).argmax(axis=1)
    answers: NDArray[np.int64] = of_anchor[anchor].astype(np.int64)
    refined = level > 0
    if refined.any():
        answers[refined] = decode(latent[refined], anchor[refined], level[refined]).argmax(axis=1)
    return answers


def sweep(
    parameters: CodecParameters,
    model: str,
    variant: str,
    encoded: Encoded,
    decode: AnyDecoder,
    rate_scales: Iterable[float],
    images_per_message: int = 64,
) -> list[TableRow]:
    """Measure a model at each rate scale."""
    points: Sequence[OperatingPoint] = [
        OperatingPoint.derive(parameters, variant, model, scale) for scale in rate_scales
    ]
    return [measure(point, encoded, decode, images_per_message).row for point in points]


def evaluate_bundle(
    bundle: Bundle,
    variant: str,
    dataset: Dataset,
    models: Sequence[str] | None = None,
    rate_scales: Sequence[float] | None = None,
    images_per_message: int = 64,
) -> list[TableRow]:
    """Measure a variant's entropy models (all by default) at each rate scale (by default the knots of their
    frontier) on a data set; RateScaleError, UnknownVariantError, or DataError for images of another shape."""
    spec = bundle.manifest.input
    if dataset.images.shape[1:] != (spec.height, spec.width, spec.channels):
        wanted = f"{spec.height}x{spec.width}x{spec.channels}"
        raise DataError(f"{dataset.name}: {bundle.manifest.model_id} takes {wanted} images")
    encoded, decode = encode_dataset(bundle, variant, dataset), decoder(bundle, variant)
    rows: list[TableRow] = []
    for model in models or list(bundle.manifest.variant(variant).models):
        parameters = bundle.codec_parameters(variant, model)
        scales = rate_scales or parameters.frontier.rate_scale.tolist()
        rows += sweep(parameters, model, variant, encoded, decode, scales, images_per_message)
    return rows
