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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentwire.codec.coder import TOTAL, Table
from latentwire.codec.quantizer import step_sizes
from latentwire.errors import BundleCorruptError, RateScaleError

SHAPE_LIMIT = 8.0  # a shape covers normalised residuals of -8..8; what is outside is escaped
SHAPE_TOTAL_BITS = 32
LEVELS = 4  # 0 the anchor alone, 1 its residual; 2 and 3 are kept for later formats and refused
MAX_BINS_EACH_SIDE = 4095
FRACTIONS = 4  # with snapped ratios, a location inside its bin is snapped to a quarter of a step
_SNAP_OCTAVES = 12.0


@dataclass(frozen=True, slots=True)
class Frontier:
    """The path the rate scale moves along: J knots, straight lines between them.

    ``rate_scale`` (J,) float64 rises strictly; ``step_scale`` (J,) float64; ``share`` (J,) float64 is the share of
    images that are above level 0, ``refine_share`` (J, A) float64 the same of the images at each anchor;
    ``doubt_threshold`` (J,) float64: an image is refined when its doubt reaches it; ``bits`` (J,) float64 is the ideal
    bits an image measured at export, never falling.
    """

    rate_scale: NDArray[np.float64]
    step_scale: NDArray[np.float64]
    share: NDArray[np.float64]
    refine_share: NDArray[np.float64]
    doubt_threshold: NDArray[np.float64]
    bits: NDArray[np.float64]


@dataclass(frozen=True)
class CodecParameters:
    """What a bundle stores of one entropy model: A anchors, d entries, S shapes of K cells.

    ``anchors`` (A, d) float32; ``anchor_counts`` (A,) int64, how often each was seen; ``weights`` (d,) float64, the
    entropy weights of the step sizes; ``location`` and ``spread`` (2, A, d) float64 of the residual, first of the most
    doubted images, then of all: in between, the share refined leads along a straight line; ``shapes``
    (S, K + 1) int64, each rising from 0 to 2**32; ``shape_of`` (d,) int64; ``ratios_per_octave`` int, 0 for exact
    ratios; ``choice_spread`` (A, d) float64, the spread of all images around an anchor, by which the sensor finds
    the likeliest one, unless the encoder's head names it (``named_by_head``).
    """

    anchors: NDArray[np.float32]
    anchor_counts: NDArray[np.int64]
    weights: NDArray[np.float64]
    location: NDArray[np.float64]
    spread: NDArray[np.float64]
    shapes: NDArray[np.int64]
    shape_of: NDArray[np.int64]
    ratios_per_octave: int
    choice_spread: NDArray[np.float64]
    named_by_head: bool
    frontier: Frontier

    @property
    def rate_min(self) -> float:
        """The coarsest rate scale."""
        return float(self.frontier.rate_scale[0])

    @property
    def rate_max(self) -> float:
        """The finest rate scale."""
        return float(self.frontier.rate_scale[-1])

    def check(self) -> None:
        """Raise BundleCorruptError for parameters from which no tables can be made."""
        anchors, d = self.anchors.shape if self.anchors.ndim == 2 else (0, 0)
        knots = len(self.frontier.rate_scale)
        shapes: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
            "anchors": (self.anchors, (anchors, d)),
            "anchor_counts": (self.anchor_counts, (anchors,)),
            "weights": (self.weights, (d,)),
            "location": (self.location, (2, anchors, d)),
            "spread": (self.spread, (2, anchors, d)),
            "shape_of": (self.shape_of, (d,)),
            "choice_spread": (self.choice_spread, (anchors, d)),
            "step_scale": (self.frontier.step_scale, (knots,)),
            "share": (self.frontier.share, (knots,)),
            "refine_share": (self.frontier.refine_share, (knots, anchors)),
            "doubt_threshold": (self.frontier.doubt_threshold, (knots,)),
            "bits": (self.frontier.bits, (knots,)),
        }
        for name, (array, shape) in shapes.items():
            if array.shape != shape or 0 in shape or not np.isfinite(array).all():
                raise BundleCorruptError(f"entropy model: {name} must be finite and of shape {shape}")
        for name in ("weights", "spread", "choice_spread", "anchor_counts"):
            if getattr(self, name).min() <= 0:
                raise BundleCorruptError(f"entropy model: {name} must be positive")
        if self.anchor_counts.max() > TOTAL or anchors > TOTAL >> 8:
            raise BundleCorruptError("entropy model: too many anchors, or counts too large")
        self._check_shapes()
        self._check_frontier()

    def _check_shapes(self) -> None:
        steps = np.diff(self.shapes, axis=1)
        ends_right = (self.shapes[:, 0] == 0).all() and (self.shapes[:, -1] == 1 << SHAPE_TOTAL_BITS).all()
        if self.shapes.ndim != 2 or not ends_right or steps.min() < 0:
            raise BundleCorruptError("entropy model: a shape must rise from 0 to 2**32")
        if self.shape_of.min() < 0 or self.shape_of.max() >= len(self.shapes):
            raise BundleCorruptError("entropy model: shape_of names a shape that is not there")

    def _check_frontier(self) -> None:
        path = self.frontier
        if len(path.rate_scale) < 2 or path.rate_scale[0] <= 0 or np.diff(path.rate_scale).min() <= 0:
            raise BundleCorruptError("frontier: the rate scale must rise strictly, from above zero")
        if np.diff(path.bits).min() < 0:
            raise BundleCorruptError("frontier: not monotone: bits fall while the rate scale rises")
        shares = np.append(path.refine_share, path.share)
        if path.step_scale.min() <= 0 or shares.min() < 0 or shares.max() > 1:
            raise BundleCorruptError("frontier: step scales must be positive and shares within 0..1")


@dataclass(frozen=True, slots=True)
class Point:
    """The frontier at one rate scale; ``refine_share`` is (A,) float64."""

    step_scale: float
    share: float
    refine_share: NDArray[np.float64]
    doubt_threshold: float


def locate(frontier: Frontier, rate_scale: float) -> Point:
    """The frontier's point at a rate scale; RateScaleError outside its range."""
    low, high = float(frontier.rate_scale[0]), float(frontier.rate_scale[-1])
    if not low <= rate_scale <= high:  # NaN fails this too
        raise RateScaleError(f"rate scale {rate_scale:g} is outside this bundle's range: give {low:g} to {high:g}")
    knots = frontier.rate_scale
    j = min(int(np.searchsorted(knots, rate_scale, side="right")) - 1, len(knots) - 2)
    part = (rate_scale - float(knots[j])) / (float(knots[j + 1]) - float(knots[j]))

    return Point(
        float(_between(frontier.step_scale[j], frontier.step_scale[j + 1], part)),
        float(_between(frontier.share[j], frontier.share[j + 1], part)),
        np.clip(_between(frontier.refine_share[j], frontier.refine_share[j + 1], part), 0.0, 1.0),
        float(_between(frontier.doubt_threshold[j], frontier.doubt_threshold[j + 1], part)),
    )


def _between(start: Any, end: Any, part: float) -> Any:
    """``start`` + ``part`` x (``end`` - ``start``), each step rounded by itself."""
    rise = end - start
    rise = rise * part
    return start + rise


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
    is taken from an index before it is looked up. ``step_size`` (d,) float64.
    """

    anchor: Table | None
    level: tuple[Table, ...]
    index: tuple[IndexTable, ...]
    table_of: NDArray[np.int64]
    shift: NDArray[np.int32]
    step_size: NDArray[np.float64]

    @cached_property
    def digest(self) -> bytes:
        """8 bytes that differ when any integer of the tables does (SHA-256, cut short)."""
        h = hashlib.sha256(b"latentwire tables 1")
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
    """The tables at a point of the frontier."""
    step = step_sizes(point.step_scale, parameters.weights)
    ratio = step / _between(parameters.spread[0], parameters.spread[1], point.share)
    centre = _between(parameters.location[0], parameters.location[1], point.share) / step
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
    index = tuple(_index_table(parameters.shapes[int(k[0])], float(k[1]), float(k[2])) for k in keys)
    counts = parameters.anchor_counts
    return Tables(
        anchor=Table(_share_out(counts)) if len(counts) > 1 else None,
        level=tuple(Table(_level_frequencies(float(share))) for share in point.refine_share),
        index=index,
        table_of=table_of.reshape(ratio.shape).astype(np.int64),
        shift=np.clip(shift, -(2**30), 2**30).astype(np.int32),
        step_size=step,
    )


def _snap(ratio: NDArray[np.float64], per_octave: int) -> NDArray[np.float64]:
    """Each ratio as the nearest of a grid with ``per_octave`` equal ratios between powers of two."""
    octave = np.ldexp(1.0, np.arange(-int(_SNAP_OCTAVES), int(_SNAP_OCTAVES) + 1))  # exact powers of two
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


def _index_table(shape: NDArray[np.int64], ratio: float, fraction: float) -> IndexTable:
    """Cut a shape into bins of ``ratio`` spreads; the location lies ``fraction`` of a step above bin 0's centre."""
    each_side = int(min(np.floor(SHAPE_LIMIT / ratio + 0.5) + 1, MAX_BINS_EACH_SIDE))
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
