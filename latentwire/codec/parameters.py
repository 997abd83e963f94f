"""What a bundle stores of an entropy model, checked; and the point on its frontier that a rate scale names."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentwire.codec.coder import TOTAL
from latentwire.errors import BundleCorruptError, RateScaleError

SHAPE_LIMIT = 8.0  # a shape covers normalised residuals of -8..8; what is outside is escaped
SHAPE_TOTAL_BITS = 32
PAYLOAD_FORMAT = 2  # of docs/wire-format.md: what a new bundle is coded with
TAILS = {1: b"", 2: b"\x81"}  # of each payload format that is supported: what a decoder reads after a payload
MAX_CELLS = 8192  # of a shape
MAX_RATIOS_PER_OCTAVE = 64
MAX_COUNT = 1 << 38  # of all anchors: times TOTAL it is still an int64
# No number of a model is larger, and none that must be positive is smaller than its inverse: so nothing overflows on
# the way to a table, and no index is so far out that a float32 latent could not hold it.
MAX_MAGNITUDE = 2.0**40


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
    the likeliest one, unless the encoder's head names it (``named_by_head``). ``payload_format`` is not the file's but
    its bundle's (docs/wire-format.md, Versions).
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
    payload_format: int = PAYLOAD_FORMAT

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
        self._check_numbers()
        for name in ("weights", "spread", "choice_spread", "anchor_counts"):
            if getattr(self, name).min() < 1 / MAX_MAGNITUDE:
                raise BundleCorruptError(f"entropy model: {name} must be positive")
        if self.anchor_counts.max() > TOTAL or self.anchor_counts.sum() > MAX_COUNT or len(self.anchors) > TOTAL >> 8:
            raise BundleCorruptError("entropy model: too many anchors, or counts too large")
        if not 0 <= self.ratios_per_octave <= MAX_RATIOS_PER_OCTAVE:
            raise BundleCorruptError(f"entropy model: ratios_per_octave must be 0 to {MAX_RATIOS_PER_OCTAVE}")
        self._check_shapes()
        self._check_frontier()

    def _check_numbers(self) -> None:
        """Every array has its shape, and holds numbers of sensible size alone."""
        anchors, d = self.anchors.shape if self.anchors.ndim == 2 else (0, 0)
        knots = self.frontier.rate_scale.size
        shapes: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
            "anchors": (self.anchors, (anchors, d)),
            "anchor_counts": (self.anchor_counts, (anchors,)),
            "weights": (self.weights, (d,)),
            "location": (self.location, (2, anchors, d)),
            "spread": (self.spread, (2, anchors, d)),
            "shape_of": (self.shape_of, (d,)),
            "choice_spread": (self.choice_spread, (anchors, d)),
            "rate_scale": (self.frontier.rate_scale, (knots,)),
            "step_scale": (self.frontier.step_scale, (knots,)),
            "share": (self.frontier.share, (knots,)),
            "refine_share": (self.frontier.refine_share, (knots, anchors)),
            "doubt_threshold": (self.frontier.doubt_threshold, (knots,)),
            "bits": (self.frontier.bits, (knots,)),
        }
        for name, (array, shape) in shapes.items():
            # written so that NaN fails it too
            if array.shape != shape or 0 in shape or not -MAX_MAGNITUDE <= array.min() <= array.max() <= MAX_MAGNITUDE:
                raise BundleCorruptError(
                    f"entropy model: {name} must be of shape {shape} and of numbers of at most {MAX_MAGNITUDE:g}"
                )

    def _check_shapes(self) -> None:
        if self.shapes.ndim != 2 or not len(self.shapes) or not 1 < self.shapes.shape[1] <= MAX_CELLS + 1:
            raise BundleCorruptError(f"entropy model: there must be a shape, and each have 1 to {MAX_CELLS} cells")
        ends_right = (self.shapes[:, 0] == 0).all() and (self.shapes[:, -1] == 1 << SHAPE_TOTAL_BITS).all()
        if not ends_right or (self.shapes[:, 1:] < self.shapes[:, :-1]).any():
            raise BundleCorruptError("entropy model: a shape must rise from 0 to 2**32")
        if self.shape_of.min() < 0 or self.shape_of.max() >= len(self.shapes):
            raise BundleCorruptError("entropy model: shape_of names a shape that is not there")

    def _check_frontier(self) -> None:
        path = self.frontier
        low = 1 / MAX_MAGNITUDE
        if len(path.rate_scale) < 2 or path.rate_scale[0] < low or np.diff(path.rate_scale).min() <= 0:
            raise BundleCorruptError("frontier: the rate scale must rise strictly, from above zero")
        if np.diff(path.bits).min() < 0:
            raise BundleCorruptError("frontier: not monotone: bits fall while the rate scale rises")
        shares = np.append(path.refine_share, path.share)
        if path.step_scale.min() < low or shares.min() < 0 or shares.max() > 1:
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
        float(between(frontier.step_scale[j], frontier.step_scale[j + 1], part)),
        float(between(frontier.share[j], frontier.share[j + 1], part)),
        np.clip(between(frontier.refine_share[j], frontier.refine_share[j + 1], part), 0.0, 1.0),
        float(between(frontier.doubt_threshold[j], frontier.doubt_threshold[j + 1], part)),
    )


def between(start: Any, end: Any, part: float) -> Any:
    """``start`` + ``part`` x (``end`` - ``start``), each step rounded by itself."""
    rise = end - start
    rise = rise * part
    return start + rise
