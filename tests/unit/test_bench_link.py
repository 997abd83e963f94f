"""What the thin link's benchmark makes of a run, on runs made up by hand."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.link import SHORT
from benchmarks.link_hindsight import _ages as fixed_ages
from benchmarks.link_report import Measured, Sample, report, steps_of, swing

PLAN = replace(SHORT, rates=(8000.0, 4000.0), each_s=20.0, images_per_s=10.0, max_age_s=2.0, settle_s=5.0)
START_S = 1000.0


def made_up(age_s: float = 0.5, waits_s: float = 0.1, used: float = 0.9) -> Measured:
    """Ten images a second, each sent ``waits_s`` and answered ``age_s`` after it was captured; every tenth wrong."""
    rows = [
        {
            "sequence": number,
            "captured_s": START_S + number / 10,
            "sent_s": START_S + number / 10 + waits_s,
            "latency_ms": 1000 * age_s,
            "label": "a",
            "truth": "b" if number % 10 == 0 else "a",
            "level": number % 2,
            "rate_scale": 2.0 if number < 200 else 1.0,
            "payload_bits": 8.0,
            "images_per_message": 5,
            "message": number - number % 5,
            "model": "anchored",
        }
        for number in range(400)
    ]
    times = np.arange(0, 40.25, 0.25)
    sent = np.cumsum([0.0, *(0.25 * PLAN.rate_at(t) * used / 8 for t in times[:-1])])
    samples = tuple(Sample(START_S + t, int(total), 0) for t, total in zip(times, sent, strict=True))
    return Measured(PLAN, START_S, samples, rows, dropped=4)


def test_ages_accuracy_and_rungs() -> None:
    run, *steps = (row for row in report(made_up()) if row["part"] != "bin")
    assert [step["link_bits_per_s"] for step in steps] == [8000, 4000]
    assert run["age_p95_s"] == pytest.approx(0.5)
    assert (run["images"], run["dropped"], run["steps_over_limit"]) == (400, 4, 0)
    assert run["images_per_s"] == pytest.approx(10, rel=0.01)
    assert run["accuracy"] == pytest.approx(0.9)
    assert run["accuracy_in_time"] == pytest.approx(0.9 * 400 / 404), "what is dropped is not right"
    assert [step["swing"] for step in steps] == [0, 0]
    assert [step["rate_scale"] for step in steps] == [2.0, 1.0]
    assert steps_of(report(made_up())) == [(0.0, 20.0, 8000.0), (20.0, 40.0, 4000.0)]


@pytest.mark.parametrize(
    ("rungs", "levels"),
    [([], 0), ([3, 3], 0), ([1, 2, 3], 0), ([3, 1], 0), ([1, 2, 1, 2], 1), ([2, 5, 3], 2), ([5, 2, 2, 4, 1], 2)],
)
def test_a_swing_is_there_and_back(rungs: list[int], levels: int) -> None:
    assert swing(rungs) == levels


def test_images_that_are_late_count_as_not_answered() -> None:
    run = report(made_up(age_s=2.5))[0]
    assert run["steps_over_limit"] == 2
    assert run["share_over_limit"] == 1
    assert run["accuracy_in_time"] == 0


def test_the_links_use_counts_only_while_images_wait_for_it() -> None:
    idle, waiting = report(made_up(waits_s=0.1, used=0.3)), report(made_up(waits_s=0.5, used=0.6))
    assert idle[0]["share_used_backlogged"] is None
    assert [step["share_used"] for step in idle[1:3]] == pytest.approx([0.3, 0.3], abs=0.01)
    assert waiting[0]["share_used_backlogged"] == pytest.approx(0.6, abs=0.01)
    assert all(step["share_backlogged"] == 1 for step in waiting[1:3])


def test_a_fixed_rate_that_fits_is_in_time_and_one_that_does_not_falls_behind() -> None:
    run = made_up()
    fits, most, never = (fixed_ages(run, bits, 400.0) for bits in (8.0, 380.0, 2000.0))
    assert fits.max() < 1.0
    assert (most < 2.0).mean() > 0.5 > (never < 2.0).mean()
    assert np.isinf(never).any(), "what has not crossed by the end never does"
