"""Bundles that can be told apart by what their pair answers, and bundles that are wrong in one way each."""

from dataclasses import replace
from pathlib import Path

import factories
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from latentwire.bundle import Bundle, InputSpec, Manifest, file_entry, write_bundle


def make_turned(folder: Path, turns: int, *, variants: tuple[str, ...] = ("full",), model_id: str = "") -> Bundle:
    """A bundle whose pair calls every image the class ``turns`` after its own: its encoder rolls the latent."""
    made = factories.make_bundle(folder, model_id=model_id or f"turned-{turns}", variants=variants)
    return _with_encoder(made, made.manifest, rolled_encoder(turns))


def make_nan(folder: Path, below: float) -> Bundle:
    """A bundle whose encoder gives no numbers for images whose mean is below ``below``.

    Noise has a mean near 127, ``factories.make_images`` one below 100.
    """
    made = factories.make_bundle(folder, model_id="nan")
    return _with_encoder(made, made.manifest, nan_encoder(below))


def make_of_another_shape(folder: Path, *, told: bool) -> Bundle:
    """A bundle whose encoder takes 9 x 8 images; its manifest says so, or says 8 x 8."""
    made = factories.make_bundle(folder, model_id="another-shape")
    side = factories.SIDE
    spec = InputSpec(side + 1, side, 1, "L") if told else made.manifest.input
    return _with_encoder(made, replace(made.manifest, input=spec), rolled_encoder(0, height=side + 1))


def make_large(folder: Path, padding_bytes: int) -> Bundle:
    """A bundle like ``make_turned(folder, 1)``, its encoder larger by noise that does nothing."""
    made = factories.make_bundle(folder, model_id="large")
    return _with_encoder(made, made.manifest, rolled_encoder(1, padding_bytes=padding_bytes))


def make_with_other_classes(folder: Path) -> Bundle:
    """The plain bundle, one class by another name."""
    made = factories.make_bundle(folder, model_id="other-classes")
    manifest = replace(made.manifest, classes=("elsewhere", *factories.CLASSES[1:]))
    return write_bundle(made.path, manifest, _files(made))


def make_with_a_variant(folder: Path, turns: int, model_id: str = "quadrants") -> Bundle:
    """The plain bundle with a second variant, ``turned``, of an encoder of its own: as truncation adds one.

    Its rate scale ends at 4.
    """
    made = factories.make_bundle(folder, model_id=model_id)
    encoder = rolled_encoder(turns)
    full = made.manifest.variants["full"]
    models = {name: replace(entry, rate_max=4.0) for name, entry in full.models.items()}
    other = replace(full, encoder=file_entry("turned-encoder.onnx", encoder), models=models)
    manifest = replace(made.manifest, variants={"full": full, "turned": other})
    return write_bundle(made.path, manifest, _files(made) | {"turned-encoder.onnx": encoder})


def rolled_encoder(turns: int, height: int = factories.SIDE, padding_bytes: int = 0) -> bytes:
    """The plain encoder, its latent rolled by so many entries; rows below the eighth are not looked at."""
    side = factories.SIDE
    means = np.zeros((height * side, factories.D), np.float32)
    means[: side * side] = np.roll(factories._quadrant_means(), turns, axis=1)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "means"], ["latent"]),
    ]
    weights = {"means": means}
    if padding_bytes:
        nodes.append(helper.make_node("Identity", ["padding"], ["nothing"]))
        weights["padding"] = np.random.default_rng(0).random(padding_bytes // 4, np.float32)
    return _model(nodes, weights, height)


def nan_encoder(below: float) -> bytes:
    """The plain encoder, but NaN for images whose mean is below ``below``."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"], axis=1),
        helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["mean", "least"], ["over"]),
        helper.make_node("Clip", ["over", "low", "high"], ["sign"]),
        helper.make_node("Sqrt", ["sign"], ["nan"]),  # of a negative number it is, else 0
        helper.make_node("MatMul", ["flat", "means"], ["plain"]),
        helper.make_node("Add", ["plain", "nan"], ["latent"]),
    ]
    weights = {
        "means": factories._quadrant_means(),
        "least": np.array([[below]], np.float32),
        "low": np.array(-1.0, np.float32),
        "high": np.array(0.0, np.float32),
    }
    return _model(nodes, weights, factories.SIDE)


def _model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], height: int) -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", height, factories.SIDE, 1])
    latent = helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["N", factories.D])
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "test", [image], [latent], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _with_encoder(made: Bundle, manifest: Manifest, encoder: bytes) -> Bundle:
    entry = file_entry("encoder.onnx", encoder)
    variants = {name: replace(variant, encoder=entry) for name, variant in manifest.variants.items()}
    return write_bundle(made.path, replace(manifest, variants=variants), _files(made) | {"encoder.onnx": encoder})


def _files(made: Bundle) -> dict[str, bytes]:
    return {entry.path: (made.path / entry.path).read_bytes() for entry in made.manifest.files()}
