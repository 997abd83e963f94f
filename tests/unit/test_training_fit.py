"""training.fit: shapes, and the two models of the paper's code."""

import numpy as np
import pytest
from scipy.special import ndtr

from latentwire.codec.parameters import SHAPE_LIMIT, SHAPE_TOTAL_BITS, CodecParameters
from latentwire.operating_point import OperatingPoint
from training.fit import CELLS, PAPER_SCALES, fit_gaussian, fit_histogram, gaussian_shape, histogram_shape

FINE = PAPER_SCALES[-1]


def ideal_bits(parameters: CodecParameters, latent: np.ndarray, rate_scale: float = FINE) -> float:
    """Bits an image that ``latent`` (N, d) costs; it must also come back."""
    codec = OperatingPoint.derive(parameters, "full", "test", rate_scale).codec
    coded = codec.encode(latent, codec.choose(latent))
    assert np.array_equal(codec.decode(coded.payload, coded.images, coded.crc32).indices, coded.indices)
    return coded.ideal_bits / len(latent)


def two_peaks(images: int, seed: int) -> np.ndarray:
    """(images, 4) float32: each entry is normal, of spread 0.2, around -2 or 2 and its own place."""
    random = np.random.default_rng(seed)
    peak = random.choice([-2.0, 2.0], (images, 4)) + 0.2 * random.normal(size=(images, 4))
    return np.add(peak, [0.0, 5.0, -1.0, 30.0]).astype(np.float32)


def test_the_gaussian_shape_is_the_normal_distribution() -> None:
    shape = gaussian_shape()
    assert shape.shape == (CELLS + 1,)
    assert (shape[0], shape[-1]) == (0, 1 << SHAPE_TOTAL_BITS)
    expected = ndtr(np.linspace(-SHAPE_LIMIT, SHAPE_LIMIT, CELLS + 1)) * 2.0**SHAPE_TOTAL_BITS
    assert np.abs(shape - expected).max() <= 1


@pytest.mark.parametrize(
    "normalised",
    [
        np.random.default_rng(0).normal(size=5000),
        np.full(50, 0.25),  # an entry that never moves
        np.array([50.0, -50.0, 90.0]),  # all outside what a shape covers
        np.zeros(1),
    ],
)
def test_a_histogram_shape_rises_from_nothing_to_everything(normalised: np.ndarray) -> None:
    shape = histogram_shape(normalised, 64)
    assert shape.shape == (65,)
    assert (shape[0], shape[-1]) == (0, 1 << SHAPE_TOTAL_BITS)
    assert np.diff(shape).min() >= 0
    assert shape[16] > 0 and shape[48] < 1 << SHAPE_TOTAL_BITS  # a thin tail, for what training never showed


def test_a_histogram_shape_is_the_distribution_it_saw() -> None:
    sample = np.random.default_rng(1).normal(size=200_000)
    edges = np.linspace(-SHAPE_LIMIT, SHAPE_LIMIT, 1025)
    assert np.abs(histogram_shape(sample) / 2.0**SHAPE_TOTAL_BITS - ndtr(edges)).max() < 0.01


def test_the_papers_code_has_one_anchor_at_zero_and_refines_every_image() -> None:
    latent = two_peaks(500, 0)
    for parameters in (fit_gaussian(latent), fit_histogram(latent)):
        parameters.check()
        assert not parameters.anchors.any() and parameters.anchors.shape == (1, 4)
        assert not parameters.named_by_head
        assert parameters.frontier.rate_scale.tolist() == list(PAPER_SCALES)
        assert (parameters.frontier.refine_share == 1).all()
        codec = OperatingPoint.derive(parameters, "full", "test", 1.0).codec
        choice = codec.choose(latent)
        assert not choice.anchor.any() and choice.level.all()


def test_the_gaussian_codes_a_gaussian_at_its_entropy() -> None:
    """At fine steps an entry costs its differential entropy less log2 of the step."""
    spread = np.array([0.5, 1.0, 2.0])
    latent = (np.random.default_rng(2).normal(size=(20_000, 3)) * spread + [3.0, 0.0, -7.0]).astype(np.float32)
    parameters = fit_gaussian(latent)
    step = 1 / (FINE * parameters.weights)
    entropy_bits = (0.5 * np.log2(2 * np.pi * np.e * spread**2) - np.log2(step)).sum()
    assert ideal_bits(parameters, latent) == pytest.approx(entropy_bits, rel=0.01)


def test_the_histogram_knows_two_peaks_from_one_on_latents_it_never_saw() -> None:
    train, test = two_peaks(4000, 3), two_peaks(1000, 4)
    parameters = fit_histogram(train)
    step = 1 / (FINE * parameters.weights)
    entropy_bits = (1 + 0.5 * np.log2(2 * np.pi * np.e * 0.2**2) - np.log2(step)).sum()
    assert entropy_bits - 0.2 < ideal_bits(parameters, test) < ideal_bits(fit_gaussian(train), test) - 4 * 1.2


def test_entries_that_never_move_cost_little_and_break_nothing() -> None:
    latent, still = two_peaks(300, 5), np.full((20, 3), 2.0, np.float32)
    latent[:, 2] = 7.5
    alone = np.delete(latent, 2, axis=1)
    for fit in (fit_gaussian, fit_histogram):
        fit(latent).check()
        assert ideal_bits(fit(latent), latent) < ideal_bits(fit(alone), alone) + 1.5
        fit(still).check()
        assert ideal_bits(fit(still), still) < 3 * 6
