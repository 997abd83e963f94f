"""Latents <-> quantization indices: bins centred on an anchor, one step size an entry."""

import numpy as np
from numpy.typing import NDArray

INDEX_MAX = 2**31 - 1


def step_sizes(step_scale: float, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Width of one bin of each entry, (d,): 1 / (step_scale x weight) (paper, section 3.3; docs/method.md)."""
    return 1.0 / (step_scale * weights)


def quantize(
    latent: NDArray[np.float32], anchor: NDArray[np.float32], step_size: NDArray[np.float64]
) -> tuple[NDArray[np.int32], int]:
    """round((latent - anchor) / step size), and how many entries were too far out for an int32.

    ``latent`` and ``anchor`` are (R, d), finite; ``step_size`` (d,). Entries past +-(2**31 - 1) stay there and are
    counted, never silently: the caller reports them.
    """
    exact = np.rint((latent.astype(np.float64) - anchor) / step_size)
    saturated = int(np.count_nonzero(np.abs(exact) > INDEX_MAX))
    return np.clip(exact, -INDEX_MAX, INDEX_MAX).astype(np.int32), saturated


def dequantize(
    position: NDArray[np.float64], anchor: NDArray[np.float32], step_size: NDArray[np.float64]
) -> NDArray[np.float32]:
    """anchor + position x step size, (R, d); ``position`` is an index, or the mean of its bin, in steps."""
    return (anchor + position * step_size).astype(np.float32)
