"""Integer tables for any rate scale, the same on any CPU.

A bundle stores integers and float64 numbers. From them and the rate scale both sides derive frequencies with integer
arithmetic and correctly rounded float64 add, multiply, divide, compare and floor, one numpy operation at a time:
no exp, erf or log, and nothing a compiler could contract, lies on the way to a table.

The distribution of a quantization index of entry i at anchor a is a *shape* (a cumulative count over the normalised
residual (latent - anchor - location) / spread) cut at the bins' edges. The Gaussian is one shape for all entries, a
histogram one shape an entry, and many anchors share shapes by ``ratios_per_octave``: the ratio of step to spread is
snapped to a grid, as hyperprior codecs do, so that a hundred anchors need a handful of tables.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latentwire.codec.coder import TOTAL, Table
from latentwire.codec.parameters import SHAPE_LIMIT, SHAPE_TOTAL_BITS, CodecParameters, Point, between
from latentwire.codec.quantizer import step_sizes
from latentwire.errors import BundleCorruptError

LEVELS = 4  # 0 the anchor alone, 1 its residual; 2 and 3 are kept for later formats and refused
MAX_BINS_EACH_SIDE = 4095
FRACTIONS = 4  # with snapped ratios, a location inside its bin is snapped to a quarter of a step
MAX_TABLES = 1 << 14  # of one operating point
MAX_TABLE_SYMBOLS = 1 << 20  # of all of them: some 60 MB
_SNAP_OCTAVES = 12


class IndexTable(Table):
    """A table of indices: symbol k is index ``first + k``, the last symbol an escape; ``means`` (K - 1,) float64 is
    the mean of each bin, in steps."""

    __slots__ = ("first", "means")

    def __init__(self, frequencies: NDArray[np.int64], first: int, means: NDArray[np.float64]) -> None:
        super().__init__(frequencies)
        self.first = first
        self.means = means


@dataclass(frozen=True)
class Tables:
    """All integers of one operating point.

    ``anchor`` codes the anchor (None when there is but one); ``level[a]`` the level at anchor a; ``index[t]`` the
    indices of table t; ``table_of`` (A, d) int64 names the table of an entry at an anchor; ``shift`` (A, d) int32
    is taken from an index before it is looked up. ``step_size`` (d,) float64. ``payload_format`` is in the digest, so
    that sides of two formats refuse one another by name.
    """

    anchor: Table | None
    level: tuple[Table, ...]
    index: tuple[IndexTable, ...]
    table_of: NDArray[np.int64]
    shift: NDArray[np.int32]
    step_size: NDArray[np.float64]
    payload_format: int

    @cached_property
    def digest(self) -> bytes:
        """8 bytes that differ when any integer of the tables does (SHA-256, cut short)."""
        h = hashlib.sha256(b"latentwire tables %d" % self.payload_format)
        for table in ((self.anchor,) if self.anchor else ()) + self.level + self.index:
            h.update(np.int64(len(table.frequencies)).astype("<i8").tobytes())
            h.update(table.frequencies.astype("<i8").tobytes())
        for table in self.index:
            h.update(np.int64(table.first).astype("<i8").tobytes())
        h.update(self.table_of.astype("<i8").tobytes())
        h.update(self.shift.astype("<i4").tobytes())
        h.update(self.step_size.astype("<f8").tobytes())
        return h.digest()[:8]


def derive_tables(parameters: CodecParameters, point: Point) -> Tables:
    """The tables at a point of the frontier; BundleCorruptError if the parameters ask for too many."""
    step = step_sizes(point.step_scale, parameters.weights)
    ratio = step / between(parameters.spread[0], parameters.spread[1], point.share)
    centre = between(parameters.location[0], parameters.location[1], point.share) / step
    shift = np.floor(centre + 0.5)
    fraction = centre - shift
    if parameters.ratios_per_octave:
        ratio = _snap(ratio, parameters.ratios_per_octave)
        fraction = np.floor(fraction * FRACTIONS + 0.5) / FRACTIONS + 0.0  # never -0.0
    shape = np.broadcast_to(parameters.shape_of, ratio.shape)
    keys, table_of = np.unique(
        np.stack([shape.ravel().astype(np.float64), ratio.ravel(), fraction.ravel()], axis=1),
        axis=0,
        return_inverse=True,
    )
    each_side = _bins_each_side(keys[:, 1])
    if len(keys) > MAX_TABLES or 2 * int((each_side + 1).sum()) > MAX_TABLE_SYMBOLS:
        raise BundleCorruptError(
            f"entropy model: it asks for more than {MAX_TABLES} tables or {MAX_TABLE_SYMBOLS} symbols at one rate scale"
        )
    index = tuple(
        _index_table(parameters.shapes[int(shape)], float(ratio), float(fraction), bins)
        for (shape, ratio, fraction), bins in zip(keys, each_side.tolist(), strict=True)
    )
    counts = parameters.anchor_counts
    return Tables(
        anchor=Table(_share_out(counts)) if len(counts) > 1 else None,
        level=tuple(Table(_level_frequencies(float(share))) for share in point.refine_share),
        index=index,
        table_of=table_of.reshape(ratio.shape).astype(np.int64),
        shift=np.clip(shift, -(2**30), 2**30).astype(np.int32),
        step_size=step,
        payload_format=parameters.payload_format,
    )


def _snap(ratio: NDArray[np.float64], per_octave: int) -> NDArray[np.float64]:
    """Each ratio as the nearest of a grid with ``per_octave`` equal ratios between powers of two."""
    octave = np.ldexp(1.0, np.arange(-_SNAP_OCTAVES, _SNAP_OCTAVES + 1))  # exact powers of two
    inside = 1.0 + np.arange(per_octave) / per_octave  # linear inside an octave: no root is needed
    grid = np.unique(octave[:, None] * inside[None, :])
    middle = (grid[1:] + grid[:-1]) * 0.5
    snapped: NDArray[np.float64] = grid[np.searchsorted(middle, ratio)]
    return snapped


def _cumulative(shape: NDArray[np.int64], t: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The shape's cumulative count at normalised residuals ``t``, and the cell each lies in."""
    cells = len(shape) - 1
    position = np.minimum(np.maximum((t + SHAPE_LIMIT) * (cells / (2 * SHAPE_LIMIT)), 0.0), float(cells))
    cell = np.minimum(np.floor(position), cells - 1).astype(np.int64)
    part = position - cell
    rise = (shape[cell + 1] - shape[cell]).astype(np.float64)
    return shape[cell] + np.floor(rise * part).astype(np.int64), cell


def _bins_each_side(ratio: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bins on each side of bin 0 that tables of these ratios have: as many as reach the shape's end."""
    bins: NDArray[np.int64] = np.minimum(np.floor(SHAPE_LIMIT / ratio + 0.5) + 1, MAX_BINS_EACH_SIDE).astype(np.int64)
    return bins


def _index_table(shape: NDArray[np.int64], ratio: float, fraction: float, each_side: int) -> IndexTable:
    """Cut a shape into bins of ``ratio`` spreads; the location lies ``fraction`` of a step above bin 0's centre."""
    edges = np.arange(-each_side, each_side + 2, dtype=np.float64) - 0.5
    edges = (edges - fraction) * ratio
    counts, cell = _cumulative(shape, edges)
    inside = counts - counts[0]
    symbols = len(inside)  # the bins and the escape
    free = TOTAL - symbols
    starts = ((inside * free) >> SHAPE_TOTAL_BITS) + np.arange(symbols)
    frequencies = np.diff(np.append(starts, TOTAL))
    return IndexTable(frequencies, -each_side, _bin_means(shape, edges, counts, cell, ratio, fraction))


def _bin_means(
    shape: NDArray[np.int64],
    edges: NDArray[np.float64],
    counts: NDArray[np.int64],
    cell: NDArray[np.int64],
    ratio: float,
    fraction: float,
) -> NDArray[np.float64]:
    """The mean of the shape inside each bin, in steps from bin 0's centre: what the server reconstructs.

    Between two knots a shape is uniform, so its first moment up to t is a sum over whole cells and one part.
    Plain floats: nothing is decoded by them.
    """
    knots = np.linspace(-SHAPE_LIMIT, SHAPE_LIMIT, len(shape))
    moments = np.concatenate([[0.0], np.cumsum(np.diff(shape) * (knots[1:] + knots[:-1]) / 2)])
    ends = np.clip(edges, -SHAPE_LIMIT, SHAPE_LIMIT)
    moment = moments[cell] + (counts - shape[cell]) * (knots[cell] + ends) / 2
    mass = np.diff(counts)
    lower, upper = edges[:-1], edges[1:]
    middle = (lower + upper) / 2
    mean = np.where(mass > 0, np.diff(moment) / np.maximum(mass, 1), middle)
    means: NDArray[np.float64] = np.clip(mean, lower, upper) / ratio + fraction
    return means


def _share_out(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Frequencies in proportion to counts, each at least 1, summing to TOTAL."""
    cumulative = np.concatenate([[0], np.cumsum(counts)])
    free = TOTAL - len(counts)
    starts = cumulative * free // cumulative[-1] + np.arange(len(counts) + 1)
    frequencies: NDArray[np.int64] = np.diff(starts)
    return frequencies


def _level_frequencies(share: float) -> NDArray[np.int64]:
    """Frequencies of the levels where ``share`` of the images is refined."""
    free = TOTAL - LEVELS
    refined = int(np.floor(share * free))
    return np.array([free - refined + 1, refined + 1, 1, 1], np.int64)
