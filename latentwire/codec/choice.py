"""Which anchor names an image, and whether it is refined. The sensor's alone, in float: only integers travel."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentwire.codec.parameters import CodecParameters
from latentwire.codec.runs import choose_run


@dataclass(frozen=True, slots=True)
class Choice:
    """``anchor`` (N,) int32 and ``level`` (N,) int32 of each image of a message, and the message's run mode."""

    anchor: NDArray[np.int32]
    level: NDArray[np.int32]
    run: int = 0


def log_posterior(
    parameters: CodecParameters, latent: NDArray[np.float32], head_logits: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """log p(anchor | image), (N, A), by the encoder's head where it names anchors, else by a Gaussian around each.

    ``head_logits`` is (N, A), one an anchor; the Gaussians have diagonal covariance.
    """
    if len(parameters.anchors) == 1:
        return np.zeros((len(latent), 1))
    if parameters.named_by_head and head_logits is not None:
        score = head_logits.astype(np.float64)
    else:
        precision = parameters.choice_spread**-2.0
        z = latent.astype(np.float64)
        mean = parameters.anchors.astype(np.float64)
        score = -0.5 * (z**2 @ precision.T - 2 * z @ (mean * precision).T + (mean**2 * precision).sum(1))
        score += np.log(parameters.anchor_counts) - np.log(parameters.choice_spread).sum(1)
    score -= score.max(axis=1, keepdims=True)
    posterior: NDArray[np.float64] = score - np.log(np.exp(score).sum(axis=1, keepdims=True))
    return posterior


def doubt(posterior: NDArray[np.float64]) -> NDArray[np.float64]:
    """Doubt of each image (N,), 0..1: one minus the margin between its two likeliest anchors' probabilities."""
    if posterior.shape[1] == 1:
        return np.ones(len(posterior))
    top = np.partition(posterior, -2, axis=1)[:, -2:]
    margin: NDArray[np.float64] = np.exp(top[:, 1]) - np.exp(top[:, 0])
    return 1.0 - margin


def choose(posterior: NDArray[np.float64], anchor_bits: NDArray[np.float64], doubt_threshold: float) -> Choice:
    """The cheapest likely anchors (``runs.choose_run``), and level 1 where doubt reaches the threshold.

    ``posterior`` (N, A) is of one message's images in their order; ``anchor_bits`` (A,) what each anchor costs.
    """
    level = (doubt(posterior) >= doubt_threshold).astype(np.int32)
    if posterior.shape[1] == 1:
        return Choice(np.zeros(len(posterior), np.int32), level)
    anchor, run = choose_run(posterior, anchor_bits)
    return Choice(anchor, level, run)
