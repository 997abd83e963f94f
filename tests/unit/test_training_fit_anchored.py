"""training.fit_anchored: anchors, residuals and the knob's path, on latents whose source is known."""

import numpy as np
import pytest

from latentwire.codec.choice import doubt, log_posterior
from latentwire.codec.parameters import CodecParameters
from latentwire.model_file import parameters_from_bytes, parameters_to_bytes
from latentwire.operating_point import OperatingPoint
from training.evaluation import Encoded, measure
from training.fit_anchored import LOWEST, SHARES, STEP_SCALES, fit_anchored, group_means, path
from training.steps import STEP_RULES, StepRule

CLASSES, D = 4, 5
SPREAD = np.array([0.4, 0.6, 0.8, 1.0, 1.2])
MEANS = 2.5 * np.eye(CLASSES, D)


def decode(latent: np.ndarray) -> np.ndarray:
    """Logits (N, 4): the log-likelihood of each class, but for what they share."""
    precision = SPREAD**-2.0
    logits = latent @ (MEANS * precision).T - 0.5 * (MEANS**2 * precision).sum(1)
    return logits.astype(np.float32)


def source(images: int, seed: int, head: bool = False) -> Encoded:
    """Latents normal around their class's mean; the head, if any, is as good as the decoder."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, images)
    latent = (MEANS[labels] + SPREAD * random.normal(size=(images, D))).astype(np.float32)
    return Encoded(latent, decode(latent) if head else None, labels)


@pytest.fixture(scope="module")
def fitted() -> CodecParameters:
    return fit_anchored(source(4000, 0), source(1000, 1), decode)


def test_means_of_groups_by_hand() -> None:
    latent = np.array([[0, 1], [2, 3], [10, 10], [4, 5]], np.float32)
    means = group_means(latent, np.array([0, 0, 1, 0]), 2)
    assert means.dtype == np.float32
    assert means.tolist() == [[2, 3], [10, 10]]


def test_a_class_without_an_image_is_named() -> None:
    with pytest.raises(ValueError, match="class 1 has no training image"):
        group_means(np.zeros((3, 2), np.float32), np.array([0, 2, 2]), 3)


def test_the_source_is_found_again(fitted: CodecParameters) -> None:
    fitted.check()
    assert not fitted.named_by_head
    np.testing.assert_allclose(fitted.anchors, MEANS, atol=0.15)
    np.testing.assert_allclose(fitted.choice_spread, np.broadcast_to(SPREAD, (CLASSES, D)), rtol=0.1)
    assert fitted.anchor_counts.sum() == 4000 + CLASSES
    # of all images: around the anchor, a little narrower than the source, for far ones are named otherwise
    np.testing.assert_allclose(fitted.spread[1], np.broadcast_to(SPREAD, (CLASSES, D)), rtol=0.2)
    # of the doubted: towards the other classes, so off the anchor where classes differ
    assert (np.diagonal(fitted.location[0]) < np.diagonal(fitted.location[1]) - 0.2).all()


def test_the_path_refines_the_share_it_says(fitted: CodecParameters) -> None:
    validation, unseen = source(1000, 1), source(4000, 2)
    knots = fitted.frontier
    assert knots.rate_scale.tolist() == [LOWEST, *SHARES[1:], 2.0, 4.0]
    assert (np.diff(knots.doubt_threshold) <= 0).all()
    assert (np.diff(knots.share) >= 0).all()
    assert (np.diff(knots.step_scale) >= 0).all()
    for scale, share in zip(knots.rate_scale.tolist(), knots.share.tolist(), strict=True):
        codec = OperatingPoint.derive(fitted, "full", "anchored", scale).codec
        for images, near in ((validation, 0.005), (unseen, 0.05)):
            level = codec.choose(images.latent).level
            assert np.mean(level > 0) == pytest.approx(share, abs=near)


def test_each_anchors_share_is_drawn_towards_the_knots(fitted: CodecParameters) -> None:
    """An anchor that validation never named gets the knot's own share."""
    validation = source(300, 3)
    posterior = log_posterior(fitted, validation.latent, None)
    kept = posterior.argmax(axis=1) != 2
    frontier = path(fitted, Encoded(validation.latent[kept], None, validation.labels[kept]), 1.0)
    np.testing.assert_allclose(frontier.refine_share[: len(SHARES), 2], SHARES)
    assert (frontier.refine_share[0] == 0).all()
    assert (frontier.refine_share[-3:] == 1).all()
    assert np.ptp(frontier.refine_share[4]) > 0


def test_bits_are_those_of_the_source(fitted: CodecParameters) -> None:
    """At the lowest position an image costs a label; at the finest, the quantized source's entropy."""
    test = source(4000, 4)
    rows = {}
    for scale in (LOWEST, 4.0):
        point = OperatingPoint.derive(fitted, "full", "anchored", scale)
        rows[scale] = measure(point, test, decode, 4000).row
    assert rows[LOWEST].ideal_bits == pytest.approx(2.0, abs=0.02)
    step = 1 / (fitted.frontier.step_scale[-1] * fitted.weights)
    entropy_bits = 2 + (0.5 * np.log2(2 * np.pi * np.e * SPREAD**2) - np.log2(step)).sum()
    assert rows[4.0].ideal_bits == pytest.approx(entropy_bits, abs=0.2)
    assert rows[4.0].accuracy > rows[LOWEST].accuracy - 0.01


def test_a_head_names_the_anchors() -> None:
    train = source(2000, 5, head=True)
    fitted = fit_anchored(train, source(500, 6, head=True), decode)
    assert fitted.named_by_head
    assert train.head_logits is not None
    assert fitted.anchor_counts.tolist() == (np.bincount(train.head_logits.argmax(axis=1)) + 1).tolist()


def test_clusters_are_named_by_their_gaussians_even_with_a_head() -> None:
    train = source(2000, 7, head=True)
    fitted = fit_anchored(train, source(500, 8, head=True), decode, clusters=7)
    fitted.check()
    assert fitted.anchors.shape == (7, D)
    assert not fitted.named_by_head
    assert fitted.frontier.refine_share.shape[1] == 7
    row = measure(OperatingPoint.derive(fitted, "full", "anchored", 1.0), train, decode).row
    assert row.share_refined == 1.0


@pytest.mark.parametrize(("sharpness", "expected"), [(0.0, STEP_SCALES[0]), (200.0, STEP_SCALES[-1])])
def test_steps_are_as_coarse_as_the_decoder_allows(sharpness: float, expected: float) -> None:
    """A decoder that answers anything alike needs none; one that sees every digit needs the finest."""

    def digits(latent: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(sharpness * latent.sum(1) * np.arange(1, 5)[i] + i) for i in range(4)], axis=1)

    fitted = fit_anchored(source(500, 9), source(300, 10), digits)
    assert fitted.frontier.step_scale[0] == expected


def test_what_is_stored_is_what_was_fitted(fitted: CodecParameters) -> None:
    stored = parameters_from_bytes(parameters_to_bytes(fitted))
    again = parameters_from_bytes(parameters_to_bytes(stored))
    for scale in (LOWEST, 0.07, 1.0, 3.3):
        first, second = (OperatingPoint.derive(p, "full", "anchored", scale).digest for p in (stored, again))
        assert first == second
    latent = source(200, 11).latent
    np.testing.assert_allclose(
        doubt(log_posterior(stored, latent, None)), doubt(log_posterior(fitted, latent, None)), atol=1e-5
    )


@pytest.mark.parametrize("rule", STEP_RULES)
def test_one_image_a_class_is_enough_and_an_entry_may_stand_still(rule: StepRule) -> None:
    latent = (MEANS + 0.1).astype(np.float32)
    few = Encoded(latent, None, np.arange(CLASSES))
    fitted = fit_anchored(few, few, decode, rule)
    fitted.check()
    assert measure(OperatingPoint.derive(fitted, "full", "anchored", 4.0), few, decode).row.accuracy == 1.0
