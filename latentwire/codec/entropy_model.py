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
from itertools import pairwise

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
PART = 1 << 16  # symbols, and cells of shapes, that are worked on at once
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
    keys, table_of = _distinct(np.broadcast_to(parameters.shape_of, ratio.shape), ratio, fraction)
    each_side = _bins_each_side(keys[:, 1])
    if len(keys) > MAX_TABLES or 2 * int((each_side + 1).sum()) > MAX_TABLE_SYMBOLS:
        raise BundleCorruptError(
            f"entropy model: it asks for more than {MAX_TABLES} tables or {MAX_TABLE_SYMBOLS} symbols at one rate scale"
        )
    counts = parameters.anchor_counts
    return Tables(
        anchor=Table(_share_out(counts)) if len(counts) > 1 else None,
        level=tuple(Table(_level_frequencies(float(share))) for share in point.refine_share),
        index=tuple(
            table
            for part in _parts(keys, each_side, parameters.shapes.shape[1])
            for table in _index_tables(parameters.shapes, keys[part], each_side[part])
        ),
        table_of=table_of,
        shift=np.clip(shift, -(2**30), 2**30).astype(np.int32),
        step_size=step,
        payload_format=parameters.payload_format,
    )


def _distinct(
    shape: NDArray[np.int64], ratio: NDArray[np.float64], fraction: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The distinct (shape, ratio, fraction), a row each, in rising order; which of them each entry has, (A, d).

    Ranked one by one, then as one number: numpy's own sort of rows takes ten times as long.
    """
    ratios, ratio_rank = np.unique(ratio, return_inverse=True)
    fractions, fraction_rank = np.unique(fraction, return_inverse=True)
    number = (shape * len(ratios) + ratio_rank.reshape(shape.shape)) * len(fractions)
    number += fraction_rank.reshape(shape.shape)
    distinct, table_of = np.unique(number, return_inverse=True)
    rest, last = np.divmod(distinct, len(fractions))
    first, middle = np.divmod(rest, len(ratios))
    keys = np.stack([first.astype(np.float64), ratios[middle], fractions[last]], axis=1)
    return keys, table_of.reshape(shape.shape).astype(np.int64)


def _snap(ratio: NDArray[np.float64], per_octave: int) -> NDArray[np.float64]:
    """Each ratio as the nearest of a grid with ``per_octave`` equal ratios between powers of two."""
    octave = np.ldexp(1.0, np.arange(-_SNAP_OCTAVES, _SNAP_OCTAVES + 1))  # exact powers of two
    inside = 1.0 + np.arange(per_octave) / per_octave  # linear inside an octave: no root is needed
    grid = np.unique(octave[:, None] * inside[None, :])
    middle = (grid[1:] + grid[:-1]) * 0.5
    snapped: NDArray[np.float64] = grid[np.searchsorted(middle, ratio)]
    return snapped


def _bins_each_side(ratio: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bins on each side of bin 0 that tables of these ratios have: as many as reach the shape's end."""
    bins: NDArray[np.int64] = np.minimum(np.floor(SHAPE_LIMIT / ratio + 0.5) + 1, MAX_BINS_EACH_SIDE).astype(np.int64)
    return bins


def _parts(keys: NDArray[np.float64], each_side: NDArray[np.int64], cells: int) -> list[slice]:
    """The tables that are cut at once: of as many symbols, and shapes of as many cells, as take a few megabytes."""
    new_shape = np.diff(keys[:, 0], prepend=-1.0) > 0
    part = np.cumsum(2 * each_side + 2 + cells * new_shape) // PART
    bounds = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(keys)]
    return [slice(start, end) for start, end in pairwise(bounds)]


def _index_tables(
    shapes: NDArray[np.int64], keys: NDArray[np.float64], each_side: NDArray[np.int64]
) -> tuple[IndexTable, ...]:
    """Cut shapes into bins, all tables laid end to end; a row of ``keys`` is a table's shape, ratio and fraction.

    A bin is ``ratio`` spreads wide; the location lies ``fraction`` of a step above bin 0's centre.
    """
    used, shape_of = np.unique(keys[:, 0].astype(np.int64), return_inverse=True)
    shapes = shapes[used]
    symbols = 2 * each_side + 2  # the bins and the escape
    end = np.cumsum(symbols)
    start = end - symbols
    table = np.repeat(np.arange(len(keys)), symbols)
    place = np.arange(end[-1]) - start[table]
    ratio, fraction = keys[table, 1], keys[table, 2]
    edges = (place - each_side[table]).astype(np.float64) - 0.5
    edges = (edges - fraction) * ratio
    shape = shape_of[table]
    counts, cell = _cumulative(shapes, shape, edges)
    inside = counts - counts[start][table]
    free = TOTAL - symbols
    starts = ((inside * free[table]) >> SHAPE_TOTAL_BITS) + place
    ends = np.append(starts[1:], 0)
    ends[end - 1] = TOTAL
    frequencies = ends - starts
    means = _bin_means(shapes, shape, edges, counts, cell) / ratio + fraction
    return tuple(
        IndexTable(frequencies[i:j], first, means[i : j - 1])
        for i, j, first in zip(start.tolist(), end.tolist(), (-each_side).tolist(), strict=True)
    )


def _cumulative(
    shapes: NDArray[np.int64], shape: NDArray[np.int64], t: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cumulative count of each one's ``shape`` at the normalised residuals ``t``, and the cell each lies in."""
    cells = shapes.shape[1] - 1
    position = np.minimum(np.maximum((t + SHAPE_LIMIT) * (cells / (2 * SHAPE_LIMIT)), 0.0), float(cells))
    cell = np.minimum(np.floor(position), cells - 1).astype(np.int64)
    part = position - cell
    low = shapes[shape, cell]
    rise = (shapes[shape, cell + 1] - low).astype(np.float64)
    return low + np.floor(rise * part).astype(np.int64), cell


def _bin_means(
    shapes: NDArray[np.int64],
    shape: NDArray[np.int64],
    edges: NDArray[np.float64],
    counts: NDArray[np.int64],
    cell: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The mean of the shape inside each bin, in spreads: what the server reconstructs; nothing sensible for escapes.

    Between two knots a shape is uniform, so its first moment up to t is a sum over whole cells and one part.
    Plain floats: nothing is decoded by them.
    """
    knots = np.linspace(-SHAPE_LIMIT, SHAPE_LIMIT, shapes.shape[1])
    moments = np.cumsum(np.diff(shapes, prepend=0) * ((knots + np.append(knots[0], knots[:-1])) / 2), axis=1)
    ends = np.clip(edges, -SHAPE_LIMIT, SHAPE_LIMIT)
    moment = moments[shape, cell] + (counts - shapes[shape, cell]) * (knots[cell] + ends) / 2
    mass = np.diff(counts, append=0)
    upper = np.append(edges[1:], edges[-1])
    mean = np.where(mass > 0, np.diff(moment, append=0) / np.maximum(mass, 1), (edges + upper) / 2)
    means: NDArray[np.float64] = np.clip(mean, edges, upper)
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
