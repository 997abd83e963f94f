"""training.steps: how wide an entry's bins are."""

import numpy as np
import pytest

from training.steps import (
    MEAN_ENTROPY_BITS,
    STEP_RULES,
    WEIGHT_FLOOR,
    StepRule,
    entropy_weights,
    sensitivity,
    step_weights,
)

SPREAD = np.array([0.5, 1.0, 2.0])


def look(latent: np.ndarray) -> np.ndarray:
    """A decoder of two classes that sees the first entry, half as much the second, and never the third."""
    evidence = latent @ np.array([1.0, 0.5, 0.0], np.float32)
    return np.stack([evidence, -evidence], axis=1).astype(np.float32)


def latents(images: int = 400) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(images, 3)) * SPREAD).astype(np.float32)


def test_entropy_weights_are_the_papers_formula() -> None:
    spread = np.array([1.0, 2.0, 4.0])
    unit = np.sqrt(7.0)
    expected = 0.5 * np.log2(2 * np.pi * np.e * (spread / unit) ** 2) / unit
    np.testing.assert_allclose(entropy_weights(spread), expected, rtol=1e-12)


def test_an_entry_that_hardly_moves_keeps_a_positive_weight() -> None:
    spread = np.array([1e-6, 1.0])
    weights = entropy_weights(spread)
    assert weights[0] == pytest.approx(WEIGHT_FLOOR / np.sqrt(0.5))
    assert weights[1] > weights[0]


@pytest.mark.parametrize("rule", STEP_RULES)
def test_the_rate_scale_means_the_same_for_every_pair(rule: StepRule) -> None:
    """Latents ten times as large get steps ten times as wide."""
    small = step_weights(rule, latents(), SPREAD, look)
    large = step_weights(rule, 10 * latents(), 10 * SPREAD, lambda z: look(z / 10))
    np.testing.assert_allclose(large, small / 10, rtol=1e-4)
    assert small.min() > 0


def test_equal_entries_weigh_alike_by_every_rule() -> None:
    def sum_of(latent: np.ndarray) -> np.ndarray:
        return np.stack([latent.sum(1), -latent.sum(1)], axis=1)

    spread = np.full(3, 2.0)
    latent = (2 * np.random.default_rng(1).normal(size=(4000, 3))).astype(np.float32)
    for rule in STEP_RULES:
        weights = step_weights(rule, latent, spread, sum_of)
        np.testing.assert_allclose(weights, MEAN_ENTROPY_BITS / 2, rtol=0.05)


def test_uniform_steps_are_of_one_width() -> None:
    weights = step_weights("uniform", latents(), SPREAD, look)
    assert np.ptp(weights) == 0


def test_sensitivity_is_what_the_decoder_makes_of_an_entry() -> None:
    moved = sensitivity(latents(4000), SPREAD, look)
    assert moved[0] == moved.max()
    assert moved[1] == pytest.approx(moved[0] / 2, rel=0.2)  # not exactly: a nudge is half a spread long
    assert moved[2] == pytest.approx(0.05 * moved[0])  # never looked at, yet not infinitely coarse


def test_sensitivity_does_not_mind_sure_answers() -> None:
    """Logits so far apart that a probability is zero to the last bit."""
    moved = sensitivity(latents(), SPREAD, lambda z: 1e4 * look(z))
    assert np.isfinite(moved).all()
    assert moved.min() > 0
