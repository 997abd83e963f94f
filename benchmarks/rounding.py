"""Ways to choose a quantization index, as latents that the codec then rounds to just that index."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from latentwire.codec.entropy_model import Tables

Latents = NDArray[np.float32]
Rounding = Callable[[Tables, Latents, Latents, NDArray[np.int32]], Latents]


def nearest(tables: Tables, latent: Latents, centre: Latents, anchor: NDArray[np.int32]) -> Latents:
    """What the codec does by itself. ``latent`` (R, d), each image's anchor itself ``centre`` (R, d) and its number
    ``anchor`` (R,)."""
    return latent


def dead_zone(tables: Tables, latent: Latents, centre: Latents, anchor: NDArray[np.int32], width: float) -> Latents:
    """Every index nearer to zero by ``width`` of a step before rounding: a wider bin at zero, as picture codecs do."""
    exact = (latent - centre) / tables.step_size
    index = np.sign(exact) * np.floor(np.maximum(np.abs(exact) - width, 0) + 0.5)
    return (centre + index * tables.step_size).astype(np.float32)


def rate_distortion(
    tables: Tables, latent: Latents, centre: Latents, anchor: NDArray[np.int32], price: float
) -> Latents:
    """The index of least squared error, in steps, plus ``price`` x its bits, among the nearest and its neighbours.

    The error is that of the bin's conditional mean, which is what the server puts in its place.
    """
    exact = (latent - centre) / tables.step_size
    symbols = np.array([len(table.means) for table in tables.index])
    start = np.cumsum(symbols) - symbols
    bits = np.concatenate([table.ideal_bits[:-1] for table in tables.index])
    means = np.concatenate([table.means for table in tables.index])
    table_of = tables.table_of[anchor]
    first = np.array([table.first for table in tables.index])[table_of] + tables.shift[anchor]
    best, least = np.rint(exact), np.full(exact.shape, np.inf)
    for step in (0, -1, 1):
        index = np.rint(exact) + step
        symbol = np.clip(index - first, 0, symbols[table_of] - 1).astype(np.int64)
        place = start[table_of] + symbol
        cost = (exact - tables.shift[anchor] - means[place]) ** 2 + price * bits[place]
        cost = np.where(symbol == index - first, cost, np.inf)  # escapes stay as they are
        best, least = np.where(cost < least, index, best), np.minimum(cost, least)
    return (centre + best * tables.step_size).astype(np.float32)
