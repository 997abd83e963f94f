"""training.quantization: the shipped digits' encoder in 8 bits, beside the one in floats."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_sensor.encoder import OnnxEncoder
from latentwire.bundle import Bundle, load_bundle
from latentwire.datasets import load_test
from latentwire.errors import TrainingError
from training import quantization
from training.bundling import Splits
from training.data import digits_split, split_validation
from training.evaluation import evaluate_bundle
from training.quantization import add_int8


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Splits(*split_validation(digits_split("train"), 0.1, 0), load_test("digits"))


@pytest.fixture(scope="module")
def bundle(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("int8") / "digits"
    shutil.copytree(load_bundle("digits").path, path)
    return add_int8(load_bundle(path), splits)


def test_the_variant_has_its_own_encoder_and_models_and_the_same_decoder(bundle: Bundle) -> None:
    before, after = load_bundle("digits").manifest, bundle.manifest
    full, int8 = after.variant("full"), after.variant("int8")
    assert list(after.variants) == ["full", "int8"]
    assert (after.default_variant, full) == (before.default_variant, before.variant("full"))
    assert int8.decoder == full.decoder
    assert int8.encoder.sha256 != full.encoder.sha256
    assert (int8.d, int8.head, sorted(int8.models)) == (full.d, full.head, sorted(full.models))
    assert all(model.file.path == f"int8-{name}.npz" for name, model in int8.models.items())
    for name, model in int8.models.items():
        assert model.rate_default == full.models[name].rate_default
    assert not (bundle.path / "int8-decoder.onnx").exists()


def test_it_is_as_right_at_about_the_same_bits(bundle: Bundle) -> None:
    test = load_test("digits")
    for rate_scale in (0.1, 1.0):
        full, int8 = (
            evaluate_bundle(bundle, variant, test, ["anchored"], [rate_scale])[0] for variant in ("full", "int8")
        )
        assert int8.accuracy >= full.accuracy - 0.012
        assert int8.ideal_bits == pytest.approx(full.ideal_bits, rel=0.25)


def test_what_the_sensor_loads_is_quantized_but_for_its_ends(bundle: Bundle) -> None:
    graph = onnx.load(bundle.encoder_path("int8")).graph
    made_by = {output: node for node in graph.node for output in node.output}
    users = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    quantized = [made_by[node.input[0]].op_type == "DequantizeLinear" for node in users]
    assert quantized == [False, *[True] * (len(users) - 4), False, False, False]
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    bytes_ = [values for values in weights.values() if values.dtype == np.int8 and values.ndim > 1]
    assert len(bytes_) == sum(quantized)
    assert max(int(np.abs(values.astype(int)).max()) for values in bytes_) <= 64, "7 bits"


def test_the_sensors_encoder_takes_it(bundle: Bundle, splits: Splits) -> None:
    images = splits.test.images[:50]
    spec, d = bundle.manifest.input, bundle.manifest.variant().d
    full, int8 = (
        OnnxEncoder(bundle.encoder_path(variant), spec, d, threads=1, batch_images=16).encode(images)
        for variant in ("full", "int8")
    )
    assert int8.latent.shape == full.latent.shape
    assert int8.head_logits is not None
    error = np.sqrt(((int8.latent - full.latent) ** 2).mean() / full.latent.var())
    assert 0 < error < 0.05


def test_a_second_time_gives_the_same_bundle(bundle: Bundle, splits: Splits) -> None:
    digest = bundle.digest
    assert add_int8(bundle, splits).digest == digest


def test_an_encoder_that_does_not_bear_it_is_refused(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(load_bundle("digits").path, tmp_path / "digits")
    before = load_bundle(tmp_path / "digits")
    monkeypatch.setattr(quantization, "LEAST_AGREEMENT", 1.01)
    with pytest.raises(TrainingError, match="without --int8"):
        add_int8(before, splits)
    assert load_bundle(tmp_path / "digits").digest == before.digest
