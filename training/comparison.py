"""Two methods compared at equal bits, seed by seed: what the paper's claim is about (paper.md, figure 2)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from training.records import Record

AT_BITS: dict[str, tuple[float, ...]] = {
    "gaussian": (4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0),
    "anchored": (4.0, 6.0, 8.0, 12.0, 16.0, 24.0),
}


@dataclass(frozen=True, slots=True)
class Gain:
    """Accuracies (0..1) of a method and its baseline at ``bits`` an image: means over ``seeds`` that both were trained
    with, the mean gain, its standard deviation (0 for one seed), and the least one."""

    bits: float
    baseline: float
    method: float
    gain: float
    spread: float
    least: float
    seeds: int


def bits_of(record: Record) -> float:
    """The rate that a code is judged by: the paper's total entropy for its own, ideal bits for the anchored one."""
    return record.total_entropy_bits if record.model == "gaussian" else record.ideal_bits


def gains(records: Iterable[Record], method: str, baseline: str, model: str, variant: str = "full") -> list[Gain]:
    """``method`` against ``baseline`` by entropy ``model``, on images as they are, in one variant of both.

    Accuracy is linear between measured operating points; a place that a curve does not reach is left out. The records
    are of one design; both were trained equally long, or the seed is left out.
    """
    curves: dict[tuple[str, int, int], list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        if record.model == model and not record.distortion and record.variant == variant:
            curves[record.method, record.epochs, record.seed].append((bits_of(record), record.accuracy))
    pairs = [
        (sorted(curves[baseline, epochs, seed]), sorted(curve))
        for (name, epochs, seed), curve in sorted(curves.items())
        if name == method and (baseline, epochs, seed) in curves
    ]
    found = [_gain(bits, pairs) for bits in AT_BITS[model]]
    return [gain for gain in found if gain is not None]


def _gain(bits: float, pairs: Sequence[tuple[list[tuple[float, float]], list[tuple[float, float]]]]) -> Gain | None:
    reached = [both for both in pairs if all(curve[0][0] <= bits <= curve[-1][0] for curve in both)]
    if not reached:
        return None
    values = np.array([[_accuracy_at(bits, curve) for curve in both] for both in reached])
    each = values[:, 1] - values[:, 0]
    spread = float(each.std(ddof=1)) if len(each) > 1 else 0.0
    baseline, method = values.mean(axis=0).tolist()
    return Gain(bits, baseline, method, float(each.mean()), spread, float(each.min()), len(each))


def _accuracy_at(bits: float, curve: Sequence[tuple[float, float]]) -> float:
    rates, accuracies = zip(*curve, strict=True)
    return float(np.interp(bits, rates, accuracies))
