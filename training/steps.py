"""How wide an entry's bins are: three rules for the step weights, step = 1 / (step scale x weight)."""

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from training.evaluation import DecodeLatents

StepRule = Literal["entropy", "uniform", "sensitivity"]
STEP_RULES: tuple[str, ...] = get_args(StepRule)
WEIGHT_FLOOR = 0.25  # of the paper's entropy weights, in bits
NUDGE = 0.5  # standard deviations by which an entry is moved to see what the decoder makes of it
MEAN_ENTROPY_BITS = 0.5 * math.log2(2 * math.pi * math.e)  # of a standard normal: what equal spreads weigh

Reals = NDArray[np.float64]


def step_weights(rule: StepRule, latent: NDArray[np.float32], spread: Reals, decode: DecodeLatents) -> Reals:
    """The weights (d,) by ``rule``, all of the same mean as the paper's for equal spreads.

    ``latent`` (n, d) is what sensitivity is measured on, ``spread`` (d,) each entry's standard deviation.
    """
    if rule == "entropy":
        return entropy_weights(spread)
    unit = math.sqrt(float(np.mean(spread**2)))
    relative = np.ones(len(spread)) if rule == "uniform" else sensitivity(latent, spread, decode)
    weights: Reals = MEAN_ENTROPY_BITS * relative / relative.mean() / unit
    return weights


def entropy_weights(spread: Reals) -> Reals:
    """The paper's step weights (d,): each entry's Gaussian entropy, 1/2 log2(2 pi e sigma^2), per unit of latent.

    ``spread`` (d,) is each entry's standard deviation. The formula (paper.md, entropy-based quantization) turns
    negative below sigma 0.242, so latents are taken relative to their root mean square spread, which makes the rate
    scale mean the same for every pair, and the entropy is floored at 0.25 bit (docs/decisions/0003).
    """
    unit = math.sqrt(float(np.mean(spread**2)))
    entropy = 0.5 * np.log2(2 * math.pi * math.e * (spread / unit) ** 2)
    weights: Reals = np.maximum(entropy, WEIGHT_FLOOR) / unit
    return weights


def sensitivity(latent: NDArray[np.float32], spread: Reals, decode: DecodeLatents) -> Reals:
    """How far the decoder's log-probabilities move with each entry (d,), per unit of latent; at least 5 % of the most.

    Where noise of variance step_i**2 / 12 on entry i costs sensitivity_i**2 times it, bits are spent best when
    step_i is proportional to 1 / sensitivity_i (high-resolution theory: Gersho and Gray, Vector Quantization, 1992).
    """

    def log_probabilities(z: NDArray[np.float32]) -> Reals:
        logits = decode(z).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))

    still = log_probabilities(latent)
    weight = np.exp(still)  # what a class that is out of the question makes of it does not matter
    moved = np.empty(latent.shape[1])
    for i in range(latent.shape[1]):
        nudged = latent.copy()
        nudged[:, i] += NUDGE * spread[i]
        change = (log_probabilities(nudged) - still) ** 2
        moved[i] = math.sqrt(float((weight * change).sum(axis=1).mean())) / (NUDGE * spread[i])
    floored: Reals = np.maximum(moved, 0.05 * moved.max())
    return floored
