"""training.bundling: a bundle's knob as measured, on a pair whose every number is known."""

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import factories
import numpy as np
import pytest

from latentwire.bundle import Bundle, load_bundle
from latentwire.codec.parameters import Frontier
from latentwire.datasets import Dataset
from training.bundling import ACCURACY_LOSS, DEFAULT_SHARE, Splits, _measure_knob, make_bundle
from training.evaluation import Encoded, evaluate_bundle


def dataset(images: int, seed: int) -> Dataset:
    return Dataset("quadrants", *factories.make_images(images, seed), factories.CLASSES)


def make(folder: Path, splits: Splits, head: bool = True) -> Bundle:
    (folder / "encoder.onnx").write_bytes(factories.encoder_onnx(head))
    (folder / "decoder.onnx").write_bytes(factories.decoder_onnx())
    training = {"method": "by hand", "epochs": 0, "clusters": None}
    return make_bundle(folder / "b", "quads", folder / "encoder.onnx", folder / "decoder.onnx", splits, training)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Splits(dataset(1200, 0), dataset(600, 1), dataset(300, 2))


@pytest.fixture(scope="module", params=[True, False], ids=["head", "no head"])
def bundle(request: pytest.FixtureRequest, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make(tmp_path_factory.mktemp("bundling"), splits, request.param)


def test_it_says_what_it_holds(bundle: Bundle) -> None:
    manifest = load_bundle(bundle.path).manifest
    assert manifest.model_id == "quads"
    assert manifest.classes == factories.CLASSES
    assert (manifest.input.height, manifest.input.width, manifest.input.channel_order) == (8, 8, "L")
    assert manifest.training == {"method": "by hand", "epochs": 0, "clusters": None}
    variant = manifest.variant()
    assert variant.d == factories.D
    assert sorted(variant.models) == ["anchored", "gaussian", "histogram"]
    assert variant.default_model == "anchored"
    assert bundle.codec_parameters("full", "anchored").named_by_head == variant.head


def test_bits_rise_from_knot_to_knot(bundle: Bundle) -> None:
    for model in bundle.manifest.variant().models:
        frontier = bundle.codec_parameters("full", model).frontier
        assert len(frontier.rate_scale) >= 2
        assert (np.diff(frontier.rate_scale) > 0).all()
        assert (np.diff(frontier.bits) > 0).all()


def test_a_knots_bits_are_those_of_validation(bundle: Bundle, splits: Splits) -> None:
    rows = evaluate_bundle(bundle, "full", splits.validation)
    for model, of_model in groupby(rows, key=lambda row: row.model):
        frontier = bundle.codec_parameters("full", model).frontier
        np.testing.assert_allclose([row.ideal_bits for row in of_model], frontier.bits, rtol=1e-9)


def test_the_table_is_what_evaluate_measures_on_the_test_set(bundle: Bundle, splits: Splits) -> None:
    table = {(row.model, row.rate_scale): row for row in bundle.manifest.variant().table}
    measured = evaluate_bundle(bundle, "full", splits.test)
    assert {(row.model, row.rate_scale) for row in measured} == set(table)
    for row in measured:
        assert row == table[row.model, row.rate_scale]


def test_the_default_is_the_coarsest_knot_that_keeps_the_accuracy(bundle: Bundle, splits: Splits) -> None:
    rows = evaluate_bundle(bundle, "full", splits.validation)
    for model, of_model in groupby(rows, key=lambda row: row.model):
        known = list(of_model)
        best = max(row.accuracy for row in known)
        coarsest = next(row.rate_scale for row in known if row.accuracy >= best - ACCURACY_LOSS)
        entry = bundle.manifest.variant().model(model)
        assert entry.rate_default == (max(coarsest, DEFAULT_SHARE) if model == "anchored" else coarsest)
        assert entry.rate_min <= entry.rate_default <= entry.rate_max
        assert (entry.rate_min, entry.rate_max) == (known[0].rate_scale, known[-1].rate_scale)


def test_knots_that_cost_no_more_than_the_one_before_are_left_out() -> None:
    """The third knot is coarser than the second; it goes, and the bits measured are stored."""
    images, labels = factories.make_images(300)
    encoded = Encoded(factories.make_latents(images), None, labels)
    start = factories.gaussian_parameters()
    steps = np.array([0.5, 2.0, 1.0, 2.0, 8.0])
    ones = np.ones(5)
    bent = Frontier(np.arange(1.0, 6.0), steps, ones, ones[:, None], 0 * ones, 0 * ones)

    def decode(latent: np.ndarray) -> np.ndarray:
        return factories.ANCHOR * latent

    measured, default = _measure_knob(replace(start, frontier=bent), "gaussian", "full", encoded, decode)
    assert measured.frontier.rate_scale.tolist() == [1.0, 2.0, 5.0]
    assert measured.frontier.step_scale.tolist() == [0.5, 2.0, 8.0]
    assert measured.frontier.refine_share.shape == (3, 1)
    assert (np.diff(measured.frontier.bits) > 0).all()
    assert default in measured.frontier.rate_scale
    measured.check()


def test_the_same_pair_and_data_make_the_same_bundle(splits: Splits, tmp_path: Path) -> None:
    bundles = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        bundles.append(make(tmp_path / name, splits))
    assert bundles[0].digest == bundles[1].digest
