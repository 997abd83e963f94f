"""training.evaluation: what it counts is what one counts by hand, and what it cannot measure it names."""

from dataclasses import replace

import factories
import numpy as np
import pytest

from latentwire.bundle import Bundle
from latentwire.codec.latent_codec import LatentCodec
from latentwire.datasets import Dataset
from latentwire.errors import DataError, RateScaleError, UnknownVariantError
from latentwire.operating_point import OperatingPoint
from training.evaluation import Encoded, answer, evaluate_bundle, measure, sweep, total_entropy_bits


def decode(latent: np.ndarray) -> np.ndarray:
    """The factories' decoder without ONNX Runtime."""
    return factories.ANCHOR * latent - factories.ANCHOR**2 / 2


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    images, labels = factories.make_images(200)
    return Encoded(factories.make_latents(images), None, labels)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    images, labels = factories.make_images(150, seed=1)
    return Dataset("quadrants", images, labels, factories.CLASSES)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return factories.make_bundle(tmp_path_factory.mktemp("evaluation") / "bundle")


def point_of(model: str, rate_scale: float) -> OperatingPoint:
    parameters = {"gaussian": factories.gaussian_parameters, "anchored": factories.anchored_parameters}[model]()
    return OperatingPoint.derive(parameters, "full", model, rate_scale)


def test_the_papers_code_counted_by_hand(encoded: Encoded) -> None:
    point = point_of("gaussian", 2.0)
    tables = point.codec.tables
    step = 1 / 2.0  # all weights are 1
    indices = np.rint(encoded.latent.astype(np.float64) / step).astype(int)
    bits = np.zeros(indices.shape)
    for entry in range(factories.D):
        table = tables.index[tables.table_of[0, entry]]
        symbol = indices[:, entry] - tables.shift[0, entry] - table.first
        bits[:, entry] = 24 - np.log2(table.frequencies[symbol])
    level_bits = 24 - np.log2(tables.level[0].frequencies[1])

    measured = measure(point, encoded, decode, 64)
    row = measured.row
    np.testing.assert_allclose(measured.image_bits, bits.sum(axis=1) + level_bits, rtol=1e-12)
    assert row.ideal_bits == pytest.approx(bits.sum() / 200 + level_bits)
    assert row.ideal_bits < row.payload_bits < row.ideal_bits + 4 * 8 / 200
    assert row.payload_bits * 200 % 8 == 0
    assert (row.images, row.images_per_message, row.share_refined) == (200, 64, 1.0)
    assert (row.model, row.rate_scale) == ("gaussian", 2.0)
    # the brightest quadrant, to within a bin
    sure = np.diff(np.sort(encoded.latent, axis=1)[:, -2:]).ravel() > 1.01 * step
    assert sure.mean() > 0.5
    assert (measured.answers[sure] == encoded.latent.argmax(axis=1)[sure]).all()
    assert row.accuracy == np.mean(measured.answers == encoded.labels)


def test_labels_alone_counted_by_hand(encoded: Encoded) -> None:
    """One image a message, none refined: two bits for one of four anchors, and a byte carries them."""
    row = measure(point_of("anchored", factories.RATE_MIN), encoded, decode, 1).row
    assert row.share_refined == 0.0
    assert row.ideal_bits == pytest.approx(2.0, abs=1e-4)
    assert 0 < row.payload_bits <= 8.0
    assert row.total_entropy_bits == pytest.approx(2.0, abs=0.05)


def test_the_last_message_may_be_short(encoded: Encoded) -> None:
    whole = measure(point_of("anchored", 4.0), encoded, decode, 200)
    parts = measure(point_of("anchored", 4.0), encoded, decode, 77)
    assert np.array_equal(whole.answers, parts.answers)
    assert whole.row.accuracy == parts.row.accuracy
    assert whole.row.ideal_bits < parts.row.ideal_bits  # each message says anew how its anchors are coded
    assert whole.row.payload_bits <= parts.row.payload_bits


def test_a_codec_that_lies_is_caught(encoded: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LatentCodec.decode
    monkeypatch.setattr(LatentCodec, "decode", lambda *a: replace(d := plain(*a), indices=d.indices + 1))
    with pytest.raises(AssertionError, match="other symbols"):
        measure(point_of("gaussian", 2.0), encoded, decode)


def test_total_entropy_by_hand() -> None:
    """The paper's formula for entries of variance 1 and 4; one that stands still counts nothing, not minus infinity."""
    indices = np.array([[-1, -2, 5], [1, 2, 5]] * 50, np.int32)
    everyone = np.ones(100, np.int32)
    normal = 0.5 * np.log2(2 * np.pi * np.e)
    assert total_entropy_bits(indices, 0 * everyone, everyone) == pytest.approx(2 * normal + 1.0)
    # a quarter refined, four anchors alike: two bits, a quarter of the sum, and the flag's own entropy
    anchor, level = np.arange(400, dtype=np.int32) % 4, (np.arange(400) < 100).astype(np.int32)
    flag = 0.25 * 2 + 0.75 * np.log2(4 / 3)
    assert total_entropy_bits(indices, anchor, level) == pytest.approx(2 + (2 * normal + 1) / 4 + flag)
    nobody = np.zeros(100, np.int32)
    assert total_entropy_bits(np.zeros((0, 3), np.int32), nobody, nobody) == 0.0


def test_level_0_is_answered_as_the_bare_anchor_is() -> None:
    anchors = np.array([[1, 0], [0, 1]], np.float32)
    latent = np.array([[0, 9], [9, 0], [0, 9]], np.float32)
    asked: list[int] = []

    def watched(latent: np.ndarray, anchor: np.ndarray, level: np.ndarray) -> np.ndarray:
        asked.append(len(latent))
        assert len(anchor) == len(level) == len(latent)
        return latent

    level = np.array([0, 1, 1], np.int32)
    assert answer(latent, level, np.zeros(3, np.int32), anchors, watched).tolist() == [0, 0, 1]
    assert asked == [2, 2]
    assert answer(latent, 0 * level, np.ones(3, np.int32), anchors, watched).tolist() == [1, 1, 1]
    assert asked == [2, 2, 2]  # the anchors once more, and no image


def test_a_sweep_has_a_row_a_rate_scale_and_bits_rise(encoded: Encoded) -> None:
    scales = [0.5, 1.0, 3.0, 8.0]
    rows = sweep(factories.gaussian_parameters(), "gaussian", "full", encoded, decode, scales)
    assert [row.rate_scale for row in rows] == scales
    assert all(np.diff([row.ideal_bits for row in rows]) > 0)
    assert all(np.diff([row.total_entropy_bits for row in rows]) > 0)


def test_a_bundle_is_measured_at_its_knots_with_every_model(bundle: Bundle, dataset: Dataset) -> None:
    rows = evaluate_bundle(bundle, "full", dataset)
    assert [(row.model, row.rate_scale) for row in rows] == [
        ("anchored", 0.5),
        ("anchored", 2.0),
        ("anchored", 8.0),
        ("gaussian", 0.5),
        ("gaussian", 8.0),
    ]
    assert all(row.images == 150 for row in rows)
    (one,) = evaluate_bundle(bundle, "full", dataset, ["anchored"], [8.0], images_per_message=10)
    assert one.share_refined == 1.0
    assert one.accuracy == 1.0
    assert one.images_per_message == 10


@pytest.mark.parametrize(
    ("variant", "models", "scales", "error", "says"),
    [
        ("half", None, None, UnknownVariantError, "there are full"),
        ("full", ["none"], None, UnknownVariantError, "gaussian"),
        ("full", ["anchored"], [0.1], RateScaleError, r"give 0\.5 to 8"),
        ("full", None, [float("nan")], RateScaleError, "nan"),
    ],
)
def test_what_a_bundle_has_not_is_named(
    bundle: Bundle, dataset: Dataset, variant: str, models: list[str], scales: list[float], error: type, says: str
) -> None:
    with pytest.raises(error, match=says):
        evaluate_bundle(bundle, variant, dataset, models, scales)


@pytest.mark.parametrize("shape", [(5, 8, 8, 3), (5, 8, 9, 1), (5, 16, 16, 1)])
def test_images_of_another_shape_are_refused(bundle: Bundle, shape: tuple[int, ...]) -> None:
    other = Dataset("other", np.zeros(shape, np.uint8), np.zeros(5, np.int64), factories.CLASSES)
    with pytest.raises(DataError, match="other: quadrants takes 8x8x1 images"):
        evaluate_bundle(bundle, "full", other)
