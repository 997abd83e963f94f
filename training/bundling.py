"""From an exported pair to a bundle: fit the entropy models, measure the knob, write the folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentwire.bundle import (
    FORMAT_VERSION,
    Bundle,
    InputSpec,
    Manifest,
    ModelEntry,
    TableRow,
    Variant,
    file_entry,
    write_bundle,
)
from latentwire.codec.parameters import CodecParameters, Frontier
from latentwire.datasets import Dataset
from latentwire.model_file import parameters_from_bytes, parameters_to_bytes
from training.evaluation import DecodeLatents, Encoded, sweep
from training.fit import fit_gaussian, fit_histogram
from training.fit_anchored import fit_anchored
from training.inference import OnnxGraph
from training.steps import StepRule

IMAGES_PER_MESSAGE = 64
ACCURACY_LOSS = 0.0025  # that the default rate scale may cost, measured on validation images
DEFAULT_MODEL = "anchored"
DEFAULT_SHARE = 0.1  # refined at the anchored code's default: what new surroundings make doubtful is looked at again


@dataclass(frozen=True, slots=True)
class Splits:
    """The data a bundle is made from: models are fitted on ``train``, the knob is measured on ``validation``
    (images no weight has seen), and the published table on ``test``."""

    train: Dataset
    validation: Dataset
    test: Dataset


def make_bundle(
    path: Path,
    model_id: str,
    encoder: Path,
    decoder: Path,
    splits: Splits,
    training: Mapping[str, str | int | float | bool | None],
    progress: Callable[[str], None] = lambda _: None,
    step_rule: StepRule = "entropy",
    clusters: int | None = None,
) -> Bundle:
    """Write the bundle of one exported pair (variant "full") to ``path``; BundleError if it cannot be written."""
    variant, files = make_variant("full", encoder, decoder, splits, progress, step_rule, clusters)
    images = splits.test.images
    height, width, channels = images.shape[1:]
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model_id=model_id,
        classes=splits.test.classes,
        input=InputSpec(height, width, channels, "L" if channels == 1 else "RGB"),
        default_variant="full",
        variants={"full": variant},
        training=dict(training),
    )
    return write_bundle(path, manifest, files)


def make_variant(
    name: str,
    encoder: Path,
    decoder: Path,
    splits: Splits,
    progress: Callable[[str], None],
    step_rule: StepRule = "entropy",
    clusters: int | None = None,
) -> tuple[Variant, dict[str, bytes]]:
    """Fit and measure one encoder/decoder pair; its manifest entry and the contents of its files."""
    graph, back = OnnxGraph(encoder), OnnxGraph(decoder)

    def encode(dataset: Dataset) -> Encoded:
        progress(f"encoding {len(dataset.images)} images of {dataset.name}")
        outputs = graph.run(dataset.images)
        return Encoded(outputs["latent"], outputs.get("head_logits"), dataset.labels)

    def decode(latent: NDArray[np.float32]) -> NDArray[np.float32]:
        return back.run(latent)["logits"]

    train, validation, test = encode(splits.train), encode(splits.validation), encode(splits.test)
    files = {f"{name}-encoder.onnx": encoder.read_bytes(), f"{name}-decoder.onnx": decoder.read_bytes()}
    models: dict[str, ModelEntry] = {}
    table: list[TableRow] = []
    fits: dict[str, Callable[[], CodecParameters]] = {
        "gaussian": lambda: fit_gaussian(train.latent),
        "histogram": lambda: fit_histogram(train.latent),
        "anchored": lambda: fit_anchored(train, validation, decode, step_rule, clusters),
    }
    for model, fit in fits.items():
        progress(f"{model}: fitting and measuring")
        stored = parameters_from_bytes(parameters_to_bytes(fit()))  # what is measured is what is deployed
        parameters, default = _measure_knob(stored, model, name, validation, decode)
        content = parameters_to_bytes(parameters)
        files[f"{name}-{model}.npz"] = content
        entry = file_entry(f"{name}-{model}.npz", content)
        models[model] = ModelEntry(entry, parameters.rate_min, parameters.rate_max, default)
        knots = parameters.frontier.rate_scale.tolist()
        table += sweep(parameters, model, name, test, decode, knots, IMAGES_PER_MESSAGE)
    variant = Variant(
        d=train.latent.shape[1],
        head=train.head_logits is not None,
        encoder=file_entry(f"{name}-encoder.onnx", files[f"{name}-encoder.onnx"]),
        decoder=file_entry(f"{name}-decoder.onnx", files[f"{name}-decoder.onnx"]),
        models=models,
        default_model=DEFAULT_MODEL,
        table=tuple(table),
    )
    return variant, files


def _measure_knob(
    parameters: CodecParameters, model: str, variant: str, validation: Encoded, decode: DecodeLatents
) -> tuple[CodecParameters, float]:
    """Store the bits measured at each knot, leaving out knots that cost no more than the one before; the default is
    the coarsest knot that keeps the accuracy."""
    knots = parameters.frontier.rate_scale
    rows = sweep(parameters, model, variant, validation, decode, knots.tolist(), IMAGES_PER_MESSAGE)
    bits = np.array([row.ideal_bits for row in rows])
    rising = np.flatnonzero(bits > np.maximum.accumulate(np.append(-1.0, bits[:-1])))
    measured = replace(parameters.frontier, bits=bits)
    path = Frontier(*(getattr(measured, f.name)[rising] for f in fields(Frontier)))
    best = max(rows[i].accuracy for i in rising)
    default = next(rows[i].rate_scale for i in rising if rows[i].accuracy >= best - ACCURACY_LOSS)
    if len(parameters.anchors) > 1:
        default = max(default, DEFAULT_SHARE)
    return replace(parameters, frontier=path), default
