"""Fit the anchored code: classes' means as anchors, the residuals around them, and the knob's path.

Who is doubted decides what the residuals look like, so location and spread are fitted to the images that the sensor
doubts most among the training set, and shares and thresholds to validation images, which no weight has seen.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from latentwire.codec.choice import Choice, doubt, log_posterior
from latentwire.codec.parameters import CodecParameters, Frontier
from latentwire.operating_point import OperatingPoint
from training.evaluation import DecodeLatents, Encoded
from training.fit import CELLS, Latents, Reals, entry_spread, histogram_shape
from training.steps import StepRule, step_weights

RATIOS_PER_OCTAVE = 4
DOUBTED_SHARE = 0.25  # of the training images, the most doubted: residuals are fitted to these
PRIOR_IMAGES = 20.0  # by which an anchor's own figures are drawn towards all anchors'
SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
LOWEST = 0.01  # the rate scale at which nothing is refined
STEP_SCALES = (0.7, 1.0, 1.4, 2.0)  # coarser, and what a refined image adds is hardly its flag's worth
AGREEMENT = 0.95  # of the decoder's answers to the doubted images, quantized and not


def fit_anchored(
    train: Encoded,
    validation: Encoded,
    decode: DecodeLatents,
    step_rule: StepRule = "entropy",
    clusters: int | None = None,
) -> CodecParameters:
    """The anchored code's parameters: an anchor a class, or so many ``clusters`` of the latents.

    The encoder's head, if it has one, names classes; clusters are named by their Gaussians. ValueError for a class
    without a training image.
    """
    groups, count = train.labels, int(train.labels.max()) + 1
    if clusters is not None:
        groups, count = KMeans(clusters, n_init=4, random_state=0).fit_predict(train.latent), clusters
    anchors = group_means(train.latent, groups, count)
    spread = np.sqrt(_pooled_variance(train.latent - anchors[groups], groups, count))
    start = CodecParameters(
        anchors=anchors,
        anchor_counts=np.bincount(groups, minlength=count),
        weights=step_weights(step_rule, validation.latent, entry_spread(train.latent), decode),
        location=np.zeros((2, *spread.shape)),
        spread=np.stack(2 * [spread]),
        shapes=np.zeros((1, 2), np.int64),
        shape_of=np.zeros(anchors.shape[1], np.int64),
        ratios_per_octave=RATIOS_PER_OCTAVE,
        choice_spread=spread,
        named_by_head=clusters is None and train.head_logits is not None,
        frontier=Frontier(*(np.zeros(0) for _ in range(6))),
    )
    fitted = _fit_residuals(start, train, count)
    return replace(fitted, frontier=path(fitted, validation, _step_scale(fitted, validation, decode)))


def group_means(latent: Latents, groups: NDArray[np.int64], count: int) -> Latents:
    """Mean latent of each group, (count, d) float32; ``groups`` (n,) says which a latent (n, d) is of."""
    counts = np.bincount(groups, minlength=count)
    if counts.min() == 0:
        raise ValueError(f"class {int(counts.argmin())} has no training image; give it some, or leave it out")
    sums = np.zeros((count, latent.shape[1]))
    np.add.at(sums, groups, latent)
    means: Latents = (sums / counts[:, None]).astype(np.float32)
    return means


def _fit_residuals(start: CodecParameters, train: Encoded, classes: int) -> CodecParameters:
    posterior = log_posterior(start, train.latent, train.head_logits)
    named = posterior.argmax(axis=1)
    doubts = doubt(posterior)
    doubted = doubts >= np.quantile(doubts, 1 - DOUBTED_SHARE)
    location, spread, normalised = [], [], []
    for images in (doubted, np.ones_like(doubted)):
        anchor = named[images]
        residual = (train.latent[images] - start.anchors[anchor]).astype(np.float64)
        location.append(_pooled_mean(residual, anchor, classes))
        residual = residual - location[-1][anchor]
        spread.append(np.sqrt(_pooled_variance(residual, anchor, classes)))
        normalised.append((residual / spread[-1][anchor]).ravel())
    return replace(
        start,
        anchor_counts=np.bincount(named, minlength=classes) + 1,
        location=np.stack(location),
        spread=np.stack(spread),
        shapes=histogram_shape(np.concatenate(normalised), cells=CELLS)[None],
    )


def _step_scale(parameters: CodecParameters, validation: Encoded, decode: DecodeLatents) -> float:
    """The coarsest step scale at which quantizing hardly changes the decoder's answers to the doubted images.

    Agreement needs no labels and is far less noisy than accuracy on few images.
    """
    posterior = log_posterior(parameters, validation.latent, validation.head_logits)
    doubts = doubt(posterior)
    doubted = doubts >= np.quantile(doubts, 1 - DOUBTED_SHARE)
    latent, anchor = validation.latent[doubted], posterior[doubted].argmax(axis=1).astype(np.int32)
    whole = decode(latent).argmax(axis=1)
    for scale in STEP_SCALES:
        tried = replace(parameters, frontier=path(parameters, validation, scale))
        codec = OperatingPoint.derive(tried, "", "", DOUBTED_SHARE).codec
        coded = codec.encode(latent, Choice(anchor, np.ones_like(anchor)))
        quantized = codec.decode(coded.payload, coded.images, coded.crc32).latent
        if np.mean(decode(quantized).argmax(axis=1) == whole) >= AGREEMENT:
            return scale
    return STEP_SCALES[-1]


def path(parameters: CodecParameters, validation: Encoded, step_scale: float) -> Frontier:
    """The knob's path: below 1 the rate scale is the share refined, at ``step_scale``; above, steps get finer."""
    posterior = log_posterior(parameters, validation.latent, validation.head_logits)
    named, doubts = posterior.argmax(axis=1), doubt(posterior)
    shares = np.array(SHARES)
    thresholds = np.array([np.inf if s == 0 else np.quantile(doubts, 1 - s) for s in shares])
    thresholds[0], thresholds[-1] = 2.0, 0.0
    refined = doubts[None] >= thresholds[:, None]
    anchors = len(parameters.anchors)
    images = np.bincount(named, minlength=anchors)
    each = np.stack([np.bincount(named, weights=row, minlength=anchors) for row in refined.astype(float)])
    share = (each + PRIOR_IMAGES * shares[:, None]) / (images + PRIOR_IMAGES)
    finer = step_scale * np.array([2.0, 4.0])
    return Frontier(
        rate_scale=np.concatenate([[LOWEST], shares[1:], [2.0, 4.0]]),
        step_scale=np.concatenate([np.full(len(shares), step_scale), finer]),
        share=np.concatenate([shares, [1.0, 1.0]]),
        refine_share=np.concatenate([share, np.ones((2, anchors))]),
        doubt_threshold=np.concatenate([thresholds, [0.0, 0.0]]),
        bits=np.zeros(len(shares) + 2),
    )


def _pooled_mean(residual: Reals, anchor: NDArray[np.int64], anchors: int) -> Reals:
    """Each anchor's mean residual (A, d), drawn towards zero where it is seen seldom."""
    sums = np.zeros((anchors, residual.shape[1]))
    np.add.at(sums, anchor, residual)
    mean: Reals = sums / (np.bincount(anchor, minlength=anchors)[:, None] + PRIOR_IMAGES)
    return mean


def _pooled_variance(residual: Reals | Latents, anchor: NDArray[np.int64], anchors: int) -> Reals:
    """Each anchor's mean square residual (A, d), drawn towards all anchors' where it is seen seldom."""
    squares = residual.astype(np.float64) ** 2
    sums = np.zeros((anchors, residual.shape[1]))
    np.add.at(sums, anchor, squares)
    whole = squares.mean(axis=0)
    variance = (sums + PRIOR_IMAGES * whole) / (np.bincount(anchor, minlength=anchors)[:, None] + PRIOR_IMAGES)
    floor: Reals = np.maximum(variance, 1e-6 * max(float(whole.max()), 1e-12))
    return floor
