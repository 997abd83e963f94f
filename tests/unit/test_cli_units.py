"""Quantities as people write them."""

import pytest

from latentwire.cli.units import bits_per_s, seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [("2s", 2.0), ("500ms", 0.5), ("1.5min", 90.0), ("2", 2.0), (" 3 S ", 3.0), (".5s", 0.5), ("1h", 3600.0)],
)
def test_seconds(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2kbit/s", 2000.0), ("64 kbps", 64e3), ("2000", 2000.0), ("1.5Mbit/s", 1.5e6), ("800 bit/s", 800.0)],
)
def test_bits_a_second(text: str, value: float) -> None:
    assert bits_per_s(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "s", "-2s", "0s", "2 parsecs", "1e3s", "nan", "2kbit/s or so", "inf"])
def test_what_is_not_understood_is_said(text: str) -> None:
    for read in (seconds, bits_per_s):
        with pytest.raises(ValueError, match="write for example"):
            read(text)
