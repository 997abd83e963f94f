"""``benchmarks.switch``, short: no image is lost at a switch, and sending hardly stops."""

import pytest

from benchmarks.switch import TARGET_MS, longest_gap_ms, measure


def test_switches_under_load_lose_nothing_and_hardly_stop_sending() -> None:
    rows = {row["switch"]: row for row in measure("digits", rounds=1, calm_s=0.5)}
    assert set(rows) == {"calm", "push, fetched", "variant, fetched", "push, its own"}
    # On a machine that does much else, sending stops without a switch too.
    allowed_ms = max(TARGET_MS, 4 * rows["calm"]["gap_max_ms"])
    for row in rows.values():
        assert (row["images_lost"], row["images_doubled"]) == (0, 0)
        assert 0 < row["gap_max_ms"] <= allowed_ms, rows


def test_a_gap_counts_where_it_reaches_into_the_span() -> None:
    sent_s = [0.0, 0.1, 0.2, 1.2, 1.3, 1.35]
    assert longest_gap_ms(sent_s, 0.05, 0.15) == pytest.approx(100)
    assert longest_gap_ms(sent_s, 0.15, 0.5) == pytest.approx(1000)  # it was yet to end
    assert longest_gap_ms(sent_s, 1.1, 1.25) == pytest.approx(1000)
    assert longest_gap_ms(sent_s, 1.31, 1.32) == pytest.approx(50)
