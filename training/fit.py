"""Fit a bundle's entropy models to training latents: the paper's Gaussian, and a histogram an entry.

Shapes are made here, once, with erf and logs; afterwards they are integers that both sides read from the bundle.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.special import ndtr

from latentwire.codec.parameters import SHAPE_LIMIT, SHAPE_TOTAL_BITS, CodecParameters, Frontier
from training.steps import entropy_weights

CELLS = 4096  # of a shape, over -8..8 spreads: 256 a spread
HISTOGRAM_CELLS = 1024  # as finely as training sets of some thousand images can fill
TAIL_SHARE = 0.01  # of a fitted shape is a Gaussian of twice the spread, for what training never showed
PAPER_SCALES = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

Latents = NDArray[np.float32]
Reals = NDArray[np.float64]


def gaussian_shape() -> NDArray[np.int64]:
    """The standard normal's cumulative count, (CELLS + 1,)."""
    return _counts(ndtr(np.linspace(-SHAPE_LIMIT, SHAPE_LIMIT, CELLS + 1)))


def histogram_shape(normalised: Reals, cells: int = HISTOGRAM_CELLS) -> NDArray[np.int64]:
    """The cumulative count of normalised residuals (n,), smoothed, with a thin Gaussian tail; (cells + 1,).

    Smoothed by a Gaussian kernel of Silverman's width (B. W. Silverman, Density Estimation, 1986, eq. 3.31).
    """
    edges = np.linspace(-SHAPE_LIMIT, SHAPE_LIMIT, cells + 1)
    counts, _ = np.histogram(normalised, edges)
    quartiles = np.quantile(normalised, [0.25, 0.75])
    width = 0.9 * min(float(normalised.std()), float(quartiles[1] - quartiles[0]) / 1.34 or 1.0)
    width = max(width * len(normalised) ** -0.2, 1e-3)
    cell = float(edges[1] - edges[0])
    density: Reals = gaussian_filter1d(counts.astype(np.float64), width / cell, mode="constant")
    seen = np.concatenate([[0.0], np.cumsum(density)]) / max(float(density.sum()), 1e-12)
    tail = ndtr(edges / 2)
    return _counts((1 - TAIL_SHARE) * seen + TAIL_SHARE * tail)


def fit_gaussian(latent: Latents) -> CodecParameters:
    """The paper's model: one anchor at zero, every image refined, each entry Normal. ``latent`` (n, d)."""
    return _one_anchor(latent, gaussian_shape()[None], np.zeros(latent.shape[1], np.int64))


def fit_histogram(latent: Latents) -> CodecParameters:
    """The paper's quantizer with each entry's own histogram. ``latent`` (n, d)."""
    normalised = (latent - latent.mean(0)) / entry_spread(latent)
    shapes = np.stack([histogram_shape(normalised[:, i]) for i in range(latent.shape[1])])
    return _one_anchor(latent, shapes, np.arange(latent.shape[1]))


def entry_spread(latent: Latents) -> Reals:
    """Standard deviation of each entry (d,), kept above zero for entries that never move."""
    spread = latent.std(0, dtype=np.float64)
    floor: Reals = np.maximum(spread, 1e-3 * max(float(spread.max()), 1e-3))
    return floor


def paper_frontier() -> Frontier:
    """The paper's knob: its scalar is the rate scale, and every image is refined; bits are measured later."""
    scales = np.array(PAPER_SCALES)
    ones, zeros = np.ones(len(scales)), np.zeros(len(scales))
    return Frontier(scales, scales, ones, ones[:, None], zeros, zeros)


def _one_anchor(latent: Latents, shapes: NDArray[np.int64], shape_of: NDArray[np.int64]) -> CodecParameters:
    spread = entry_spread(latent)
    return CodecParameters(
        anchors=np.zeros((1, latent.shape[1]), np.float32),
        anchor_counts=np.array([1]),
        weights=entropy_weights(spread),
        location=np.stack(2 * [latent.mean(0, dtype=np.float64)[None]]),
        spread=np.stack(2 * [spread[None]]),
        shapes=shapes,
        shape_of=shape_of,
        ratios_per_octave=0,
        choice_spread=spread[None],
        named_by_head=False,
        frontier=paper_frontier(),
    )


def _counts(cumulative: Reals) -> NDArray[np.int64]:
    counts = np.rint(np.clip(cumulative, 0, 1) * 2.0**SHAPE_TOTAL_BITS).astype(np.int64)
    counts[0], counts[-1] = 0, 1 << SHAPE_TOTAL_BITS
    return np.maximum.accumulate(counts)
