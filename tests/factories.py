"""A bundle made up for tests, quickly made: images of 8 x 8 grey pixels, one class a quadrant.

The encoder gives the mean of each quadrant, scaled to 0..4 (d = 4); the decoder's logits are minus half the
latent's squared distances from four anchors, ``ANCHOR`` times the unit vectors. So an image's class is its
brightest quadrant, and every number can be worked out by hand.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from latentwire.bundle import (
    FORMAT_VERSION,
    Bundle,
    InputSpec,
    Manifest,
    ModelEntry,
    Variant,
    file_entry,
    write_bundle,
)
from latentwire.codec.parameters import SHAPE_LIMIT, CodecParameters, Frontier
from latentwire.model_file import parameters_to_bytes

CLASSES = ("top left", "top right", "bottom left", "bottom right")
SIDE = 8
D = len(CLASSES)
ANCHOR = 4.0
RATE_MIN, RATE_DEFAULT, RATE_MAX = 0.5, 2.0, 8.0
# what each condition (level, log2 of the rate scale, four anchors) adds to each class's logit
TOLD = np.array([[0.5, 0, 0, 0], [0, 0.25, 0, 0], *(0.125 * np.eye(D) + 0.0625)], np.float32)


def make_bundle(
    folder: Path, *, model_id: str = "quadrants", variants: tuple[str, ...] = ("full",), head: bool = False
) -> Bundle:
    """Write the bundle into ``folder``. Variants differ in name alone; models are gaussian and anchored.

    At ``RATE_MIN`` the model ``anchored`` refines no image, at ``RATE_DEFAULT`` the doubtful ones and at
    ``RATE_MAX`` every one; ``gaussian`` always refines all.
    """
    files = {
        "encoder.onnx": encoder_onnx(head),
        "decoder.onnx": decoder_onnx(),
        "gaussian.npz": parameters_to_bytes(gaussian_parameters()),
        "anchored.npz": parameters_to_bytes(anchored_parameters()),
    }
    models = {
        name: ModelEntry(file_entry(f"{name}.npz", files[f"{name}.npz"]), RATE_MIN, RATE_MAX, RATE_DEFAULT)
        for name in ("gaussian", "anchored")
    }
    encoder, decoder = (file_entry(name, files[name]) for name in ("encoder.onnx", "decoder.onnx"))
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model_id=model_id,
        classes=CLASSES,
        input=InputSpec(SIDE, SIDE, 1, "L"),
        default_variant=variants[0],
        variants={name: Variant(D, head, encoder, decoder, models, "gaussian") for name in variants},
    )
    return write_bundle(folder, manifest, files)


def make_images(count: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (count, 8, 8, 1) uint8, noise with one more or less bright quadrant; labels (count,) int64."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, D, count)
    images = random.integers(0, 60, (count, SIDE, SIDE, 1)).astype(np.uint8)
    half = SIDE // 2
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[row * half : (row + 1) * half, column * half : (column + 1) * half] += np.uint8(random.integers(30, 196))
    return images, labels


def make_latents(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the encoder gives, (N, 4) float32, without ONNX Runtime."""
    latent: NDArray[np.float32] = images.reshape(len(images), -1).astype(np.float32) @ _quadrant_means()
    return latent


def gaussian_parameters() -> CodecParameters:
    """One anchor at zero, every image refined: the paper's case."""
    frontier = Frontier(
        rate_scale=np.array([RATE_MIN, RATE_MAX]),
        step_scale=np.array([RATE_MIN, RATE_MAX]),
        share=np.ones(2),
        refine_share=np.ones((2, 1)),
        doubt_threshold=np.zeros(2),
        bits=np.array([4.0, 20.0]),
    )
    return _parameters(np.zeros((1, D), np.float32), 1.5, frontier)


def anchored_parameters() -> CodecParameters:
    """An anchor a class; the rate scale moves through the share refined."""
    frontier = Frontier(
        rate_scale=np.array([RATE_MIN, RATE_DEFAULT, RATE_MAX]),
        step_scale=np.array([1.0, 2.0, 8.0]),
        share=np.array([0.0, 0.5, 1.0]),
        refine_share=np.repeat(np.array([[0.0], [0.5], [1.0]]), D, 1),
        doubt_threshold=np.array([2.0, 0.3, 0.0]),
        bits=np.array([2.0, 8.0, 20.0]),
    )
    return _parameters(ANCHOR * np.eye(D, dtype=np.float32), 0.5, frontier)


def encoder_onnx(head: bool = False) -> bytes:
    """image uint8 (N, 8, 8, 1) -> latent (N, 4), and with a head also head_logits (N, 4)."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "means"], ["latent"]),
    ]
    outputs = [helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["N", D])]
    if head:
        nodes += decoder_nodes("head_logits")
        outputs.append(helper.make_tensor_value_info("head_logits", TensorProto.FLOAT, ["N", D]))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIDE, SIDE, 1])
    weights = {"means": _quadrant_means()} | (_decoder_weights() if head else {})
    return _model(nodes, [image], outputs, weights)


def decoder_onnx() -> bytes:
    """latent (N, 4) -> logits (N, 4)."""
    latent = helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["N", D])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", D])
    return _model(decoder_nodes("logits"), [latent], [logits], _decoder_weights())


def told_decoder_onnx(places: int = D) -> bytes:
    """latent (N, 4), conditions (N, 6) -> logits (N, 4): the plain decoder's, plus the conditions times ``TOLD``.

    ``places`` are those for anchors.
    """
    latent, conditions = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])
        for name, width in (("latent", D), ("conditions", 2 + places))
    )
    told = np.resize(TOLD, (2 + places, D))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", D])
    nodes = [
        *decoder_nodes("untold"),
        helper.make_node("MatMul", ["conditions", "told"], ["shift"]),
        helper.make_node("Add", ["untold", "shift"], ["logits"]),
    ]
    return _model(nodes, [latent, conditions], [logits], _decoder_weights() | {"told": told})


def replace_decoder(bundle: Bundle, folder: Path, decoder: bytes) -> Bundle:
    """``bundle`` as it is after its decoder was replaced, in ``folder``; its sensors are not touched."""
    manifest = bundle.manifest
    entry = file_entry("new-decoder.onnx", decoder)
    variants = {name: replace(variant, decoder=entry) for name, variant in manifest.variants.items()}
    kept = {file.path: (bundle.path / file.path).read_bytes() for file in manifest.files("sensor")}
    return write_bundle(folder, replace(manifest, variants=variants), kept | {entry.path: decoder})


def decoder_nodes(output: str) -> list[onnx.NodeProto]:
    """The decoder's graph, from "latent" to ``output``."""
    return [
        helper.make_node("MatMul", ["latent", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], [output]),
    ]


def _decoder_weights() -> dict[str, NDArray[np.float32]]:
    # -|z - a|**2 / 2 is a.z - |a|**2 / 2 but for a term that all classes share
    return {"weight": ANCHOR * np.eye(D, dtype=np.float32), "bias": np.full(D, -(ANCHOR**2) / 2, np.float32)}


def _quadrant_means() -> NDArray[np.float32]:
    """(64, 4) float32."""
    half = SIDE // 2
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    quadrant = 2 * (rows // half) + columns // half
    scale = ANCHOR / 255 / half**2
    return (scale * (quadrant[:, None] == np.arange(D))).astype(np.float32)


def _parameters(anchors: NDArray[np.float32], spread: float, frontier: Frontier) -> CodecParameters:
    t = np.linspace(-SHAPE_LIMIT, SHAPE_LIMIT, 257)
    cumulative = np.cumsum(np.exp(-(((t[1:] + t[:-1]) / 2) ** 2) / 2))
    shape = np.rint(np.concatenate([[0.0], cumulative / cumulative[-1]]) * 2.0**32).astype(np.int64)
    return CodecParameters(
        anchors=anchors,
        anchor_counts=np.full(len(anchors), 100),
        weights=np.ones(D),
        location=np.zeros((2, *anchors.shape)),
        spread=np.full((2, *anchors.shape), spread),
        shapes=shape[None],
        shape_of=np.zeros(D, np.int64),
        ratios_per_octave=4 if len(anchors) > 1 else 0,
        choice_spread=np.full(anchors.shape, 2 * spread),
        named_by_head=True,
        frontier=frontier,
    )


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, NDArray[np.float32]],
) -> bytes:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
