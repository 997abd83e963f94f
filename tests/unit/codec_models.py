"""Entropy models made up for tests: any number of anchors, entries and shapes."""

import numpy as np
from scipy.special import ndtr

from latentwire.codec.parameters import SHAPE_LIMIT, CodecParameters, Frontier

NORMAL = np.rint(ndtr(np.linspace(-SHAPE_LIMIT, SHAPE_LIMIT, 1025)) * 2.0**32).astype(np.int64)
NORMAL[0], NORMAL[-1] = 0, 1 << 32


def make_parameters(anchors: int, d: int, seed: int = 0, ratios_per_octave: int = 4) -> CodecParameters:
    """Random anchors with Gaussian residuals; one anchor is the paper's case: at zero, every image refined."""
    random = np.random.default_rng(seed)
    spread = np.exp(random.normal(size=(anchors, d)) * 0.5)
    many = anchors > 1
    knots = np.array([0.0625, 0.5, 2.0, 8.0])
    frontier = Frontier(
        rate_scale=knots,
        step_scale=np.array([0.5, 0.5, 2.0, 8.0]) if many else knots,
        share=np.array([0.0, 0.2, 1.0, 1.0]) if many else np.ones(4),
        refine_share=np.repeat(np.array([[0.0], [0.2], [1.0], [1.0]]), anchors, 1) if many else np.ones((4, 1)),
        doubt_threshold=np.array([2.0, 0.8, 0.0, 0.0]) if many else np.zeros(4),
        bits=np.array([1.0, 2.0, 3.0, 4.0]),
    )
    return CodecParameters(
        anchors=(3 * random.normal(size=(anchors, d)) * many).astype(np.float32),
        anchor_counts=random.integers(1, 500, anchors),
        weights=random.uniform(0.5, 3.0, d),
        location=np.stack(2 * [0.3 * random.normal(size=(anchors, d)) * spread]),
        spread=np.stack([spread, spread * 1.1]),
        shapes=NORMAL[None].copy(),
        shape_of=np.zeros(d, np.int64),
        ratios_per_octave=ratios_per_octave if many else 0,
        choice_spread=spread,
        named_by_head=False,
        frontier=frontier,
    )


def make_latents(parameters: CodecParameters, images: int, seed: int = 0) -> np.ndarray:
    """Latents drawn from the model, (images, d) float32."""
    random = np.random.default_rng(seed)
    anchor = random.integers(0, len(parameters.anchors), images)
    noise = random.normal(size=(images, parameters.anchors.shape[1]))
    return (parameters.anchors[anchor] + parameters.location[1][anchor] + noise * parameters.spread[1][anchor]).astype(
        np.float32
    )
