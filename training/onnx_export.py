"""A checkpoint's two halves as ONNX files, checked against torch on real images.

::

    encoder.onnx   image uint8 (N, H, W, C) -> latent float32 (N, d) [, head_logits float32 (N, K)]
    decoder.onnx   latent float32 (N, d)    -> logits float32 (N, K)

Each is one file without external data, N is free, and nothing in it tells where it was made.
"""

import logging
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from latentwire.errors import CheckpointError, TrainingError
from training.checkpoint import Checkpoint, load_checkpoint
from training.inference import OnnxGraph
from training.models import Pair, PairConfig, make_pair

OPSET = 18
UPGRADE = "upgrade"  # the method of checkpoints whose decoder is not the pair's (training.upgrade)
HALF_FROM = 256  # numbers in a tensor from which it is stored in 16 bits
CHECK_IMAGES = 512
# largest difference from torch allowed, as a share of the largest torch value; the share of equal answers
FULL_TOLERANCE, FULL_AGREEMENT = 1e-3, 0.998
HALF_TOLERANCE, HALF_AGREEMENT = 2e-2, 0.995


@dataclass(frozen=True, slots=True)
class ExportedPair:
    """An exported pair: its two files, what the pair is, its classes, and the checkpoint's ``training``
    configuration. ``difference`` is the largest seen from torch, as a share of torch's largest value, and
    ``agreement`` the share of images with the same answer (0..1).
    """

    encoder: Path
    decoder: Path
    pair: PairConfig
    classes: tuple[str, ...]
    training: dict[str, Any]
    difference: float
    agreement: float


class _EncoderGraph(nn.Module):
    """The encoder as the exporter wants it: a tuple of tensors, without None."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.encoder = pair.encoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        latent, head_logits = self.encoder(image)
        return (latent,) if head_logits is None else (latent, head_logits)


def export_onnx(
    checkpoint: Path, out: Path, images: NDArray[np.uint8] | None = None, half: bool = True
) -> ExportedPair:
    """Write ``out``/encoder.onnx and ``out``/decoder.onnx from a checkpoint.

    ``images`` (N, H, W, C) uint8 are real images to check on, the first 512 of them; None checks on noise, which
    says less. ``half`` stores weights as float16 and computes in float32 all the same: half the size for a
    difference below 1 %.

    Raises CheckpointError for a file that is no checkpoint or cannot be written, TrainingError when the graphs do not
    give what torch gives; then nothing is left in ``out``.
    """
    saved = load_checkpoint(checkpoint)
    pair = load_pair(saved)
    examples = _examples(pair, images)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from error
    names = ["latent", "head_logits"] if pair.config.head else ["latent"]
    latent = torch.zeros(2, pair.config.d)
    contents = {
        "encoder.onnx": graph_bytes(_EncoderGraph(pair), {"image": torch.from_numpy(examples[:2])}, names, half),
        "decoder.onnx": graph_bytes(pair.decoder, {"latent": latent}, ["logits"], half),
    }
    try:
        with tempfile.TemporaryDirectory(prefix=".export.", dir=out) as folder:
            for name, content in contents.items():
                (Path(folder) / name).write_bytes(content)
            difference, agreement = _check(pair, Path(folder), examples, half)
            for name in contents:
                os.replace(Path(folder) / name, out / name)
    except OSError as error:
        raise _unwritable(out, error) from error
    encoder, decoder = (out / name for name in contents)
    return ExportedPair(encoder, decoder, pair.config, saved.classes, saved.config, difference, agreement)


def _unwritable(out: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"the graphs cannot be written to {out} ({error.strerror}): free some space or give another path"
    )


def load_pair(checkpoint: Checkpoint) -> Pair:
    """The pair of a checkpoint, on the CPU and ready to answer; CheckpointError if its weights fit no such pair, or are
    those of a decoder upgrade."""
    if checkpoint.method == UPGRADE:
        raise CheckpointError("that checkpoint is a decoder upgrade's: give the one of the pair it was made for")
    try:
        pair = make_pair(PairConfig.from_dict(checkpoint.pair))
        pair.load_state_dict(checkpoint.state["pair"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the checkpoint's weights fit no pair of this program ({reason}): train it again"
        ) from None
    return pair.eval()


def _examples(pair: Pair, images: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    shape = pair.config.image
    if images is None:
        return np.random.default_rng(0).integers(0, 256, (64, *shape), np.uint8)
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise ValueError(f"images to check on must be uint8 (N, {', '.join(map(str, shape))}), not {images.shape}")
    return images[:CHECK_IMAGES]


def graph_bytes(module: nn.Module, examples: dict[str, Tensor], outputs: list[str], half: bool) -> bytes:
    """One module as the bytes of an ONNX file; ``examples`` are its inputs by name, each (2, ...)."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own inside; the check below judges what it made
            program = torch.onnx.export(
                module.eval(),
                tuple(examples.values()),
                input_names=[*examples],
                output_names=outputs,
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},) * len(examples),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None, "the exporter returns a program when it is given no file"
    model = program.model_proto
    _strip(model)
    if half:
        _store_halves(model)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _strip(model: onnx.ModelProto) -> None:
    """Take out stack traces and whatever else tells of the machine that exported."""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    model.doc_string = model.graph.doc_string = ""
    graph = model.graph
    every: list[Any] = [*graph.node, *graph.initializer, *graph.input, *graph.output, *model.functions]
    for item in [*every, *(node for function in model.functions for node in function.node)]:
        item.doc_string = ""
        del item.metadata_props[:]


def _store_halves(model: onnx.ModelProto) -> None:
    """Keep large float32 tensors as float16 and cast them back at load time: runtimes fold the cast away."""
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < HALF_FROM or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], f"cast.{name}", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _check(pair: Pair, folder: Path, examples: NDArray[np.uint8], half: bool) -> tuple[float, float]:
    """The largest difference from torch and the share of equal answers; TrainingError beyond the tolerance.

    The decoder is fed the exported encoder's latents, as it will be.
    """
    with torch.inference_mode():
        logits, encoded = pair(torch.from_numpy(examples))
    wanted = {"latent": encoded.latent, "head_logits": encoded.head_logits, "logits": logits}
    got = OnnxGraph(folder / "encoder.onnx").run(examples)
    got |= OnnxGraph(folder / "decoder.onnx").run(got["latent"])
    tolerance, least = (HALF_TOLERANCE, HALF_AGREEMENT) if half else (FULL_TOLERANCE, FULL_AGREEMENT)
    references = {name: tensor.numpy() for name, tensor in wanted.items() if tensor is not None}
    # numpy's maximum keeps a NaN, where Python's max may drop it
    shares = [np.abs(got[name] - values).max() / max(np.abs(values).max(), 1e-6) for name, values in references.items()]
    difference = float(np.max(shares))
    answers = [name for name in references if name != "latent"]
    agreement = min(float(np.mean(got[name].argmax(1) == references[name].argmax(1))) for name in answers)
    if not (difference <= tolerance and agreement >= least):
        raise TrainingError(
            f"the exported graphs differ from torch by {difference:.2g} of the largest value (at most {tolerance}) "
            f"and agree on {agreement:.2%} of {len(examples)} answers (at least {least:.1%}): "
            f"{'export without half precision' if half else 'the checkpoint may hold NaN; train it again'}"
        )
    return difference, agreement
