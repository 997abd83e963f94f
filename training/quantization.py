"""Encoders in 8-bit integers: a further variant of a bundle, with entropy models of its own and the same decoder.

Statically quantized by ONNX Runtime's own tools: weights to signed 7 bits a channel, activations to unsigned 8 bits
over the range they have on training images. Weights have 7 bits because CPUs without dot products of bytes (x86-64
before VNNI) add two products in 16 bits, where 8 would saturate; it costs no time where they have them. The first
convolution, the layer that makes the latent and the head stay in float32: they are small, and what they lose is lost.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (  # type: ignore[import-untyped]
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]

from latentwire.bundle import Bundle, ModelEntry, write_bundle
from latentwire.errors import TrainingError
from training.bundling import Splits, make_variant
from training.inference import OnnxGraph
from training.steps import StepRule

INT8 = "int8"  # the variant's name
CALIBRATION_IMAGES = 512
LEAST_AGREEMENT = 0.95  # with the answers of the float encoder, over the validation images
_OPERATORS = ["Conv", "Gemm", "MatMul", "Add", "AveragePool"]
_BATCH = 64


def quantize_encoder(encoder: Path, out: Path, images: NDArray[np.uint8]) -> None:
    """Write the encoder in ``encoder`` to ``out``, quantized; ``images`` (N, H, W, C) uint8 show its usual range."""
    with tempfile.TemporaryDirectory(prefix="latentwire-int8-") as folder:
        whole = Path(folder) / "whole.onnx"
        quant_pre_process(str(encoder), str(whole), skip_symbolic_shape=True)  # folds the 16-bit weights' casts
        quantize_static(
            str(whole),
            str(out),
            _Images(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            nodes_to_exclude=_kept(onnx.load(whole).graph),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )


def add_int8(
    bundle: Bundle,
    splits: Splits,
    progress: Callable[[str], None] = lambda _: None,
    step_rule: StepRule = "entropy",
    clusters: int | None = None,
) -> Bundle:
    """``bundle``, written anew, with its default variant's encoder in 8 bits as variant ``int8``.

    ``splits`` are those that it was made from. TrainingError if the encoder does not bear it; the bundle is as it was.
    """
    default = bundle.manifest.variant()
    decoder = bundle.decoder_path()
    with tempfile.TemporaryDirectory(prefix="latentwire-int8-") as folder:
        progress("quantizing the encoder")
        encoder = Path(folder) / "encoder.onnx"
        chosen = np.random.default_rng(0).permutation(len(splits.train))[:CALIBRATION_IMAGES]
        quantize_encoder(bundle.encoder_path(), encoder, splits.train.images[chosen])
        _check(bundle.encoder_path(), encoder, decoder, splits.validation.images)
        variant, files = make_variant(INT8, encoder, decoder, splits, progress, step_rule, clusters)
    del files[variant.decoder.path]
    # One decoder serves both, and so does one default: where along the knob it lies is decided by a few images.
    models = {name: _with_default(model, default.models[name].rate_default) for name, model in variant.models.items()}
    variant = replace(variant, decoder=default.decoder, models=models)
    kept = {name: other for name, other in bundle.manifest.variants.items() if name != INT8}
    present = replace(bundle.manifest, variants=kept)
    files |= {entry.path: (bundle.path / entry.path).read_bytes() for entry in present.files()}
    return write_bundle(bundle.path, replace(present, variants={**kept, INT8: variant}), files)


def _with_default(model: ModelEntry, rate_scale: float) -> ModelEntry:
    return replace(model, rate_default=min(max(rate_scale, model.rate_min), model.rate_max))


class _Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands images to the calibration."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._parts: Iterator[NDArray[np.uint8]] = iter(images[i : i + _BATCH] for i in range(0, len(images), _BATCH))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next batch; None after the last."""
        part = next(self._parts, None)
        return None if part is None else {"image": part}


def _kept(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes that stay in float: the first convolution, what makes the latent, and all after it."""
    kept, after = [], {"latent"}
    first = next((node.name for node in graph.node if node.op_type == "Conv"), None)
    for node in graph.node:
        if node.name == first or "latent" in node.output or after.intersection(node.input):
            kept.append(node.name)
        if after.intersection(node.input):
            after.update(node.output)
    return kept


def _check(before: Path, after: Path, decoder: Path, images: NDArray[np.uint8]) -> None:
    back = OnnxGraph(decoder)
    answers = [back.run(OnnxGraph(each).run(images)["latent"])["logits"].argmax(1) for each in (before, after)]
    agreement = float(np.mean(answers[0] == answers[1]))
    if agreement < LEAST_AGREEMENT:
        raise TrainingError(
            f"in 8 bits the encoder gives the same answer for {agreement:.1%} of {len(images)} validation images, "
            f"less than {LEAST_AGREEMENT:.0%}: the bundle is written without; export it without --int8"
        )
