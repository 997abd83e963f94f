"""training.comparison: gains at equal bits, by hand."""

from dataclasses import replace

import pytest

from tests.unit.test_training_reporting import RECORD
from training.comparison import gains
from training.records import Record


def curve(method: str, seed: int, *points: tuple[float, float], epochs: int = 24) -> list[Record]:
    same = replace(RECORD, method=method, seed=seed, epochs=epochs)
    return [replace(same, total_entropy_bits=bits, rate_scale=bits, accuracy=right) for bits, right in points]


def test_a_gain_is_the_mean_over_seeds_of_the_difference_at_equal_bits() -> None:
    records = [
        *curve("ce", 0, (4, 0.4), (12, 0.8)),
        *curve("ldr", 0, (2, 0.5), (10, 0.9)),
        *curve("ce", 1, (4, 0.5), (12, 0.9)),
        *curve("ldr", 1, (6, 0.7), (12, 0.8)),
    ]
    found = {gain.bits: gain for gain in gains(records, "ldr", "ce", "gaussian")}
    assert list(found) == [4.0, 6.0, 8.0, 12.0]  # no further than both curves of some seed reach
    assert (found[4.0].seeds, found[8.0].seeds, found[12.0].seeds) == (1, 2, 1)
    assert found[4.0].gain == pytest.approx(0.6 - 0.4)
    each = (0.8 - 0.6, (0.7 + 0.1 * 2 / 6) - 0.7)
    assert found[8.0].gain == pytest.approx(sum(each) / 2)
    assert found[8.0].least == pytest.approx(min(each))
    assert found[8.0].spread == pytest.approx(abs(each[0] - each[1]) / 2**0.5)


def test_only_pairs_trained_equally_long_are_compared() -> None:
    records = [*curve("ce", 0, (4, 0.4), (12, 0.8)), *curve("ldr", 0, (2, 0.5), (10, 0.9), epochs=32)]
    assert gains(records, "ldr", "ce", "gaussian") == []


def test_distorted_images_and_other_variants_do_not_count() -> None:
    ce = curve("ce", 0, (4, 0.4), (12, 0.8))
    others = curve("ldr", 0, (2, 0.5), (10, 0.9))
    changed = [replace(r, distortion="rotation 10") for r in others] + [replace(r, variant="truncated") for r in others]
    assert gains(ce + changed, "ldr", "ce", "gaussian") == []
    truncated = [replace(r, variant="truncated") for r in ce + others]
    (at_8,) = [gain for gain in gains(truncated, "ldr", "ce", "gaussian", "truncated") if gain.bits == 8]
    assert at_8.gain == pytest.approx(0.8 - 0.6)
