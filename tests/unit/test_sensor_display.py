"""What people see while a sensor runs."""

import time
from dataclasses import replace

import pytest

from edge_sensor import SensorReport, display
from edge_sensor.ledger import Ledger
from edge_sensor.results import ResultsFile

EMPTY = Ledger(("cat", "dog"), ResultsFile(None)).report()
BUSY = replace(
    EMPTY,
    images_sent=1000,
    images_answered=990,
    dropped={"ImageError": 2, "behind": 8},
    reconnects=3,
    images_with_truth=990,
    accuracy=0.9512,
    share_refined=0.25,
    payload_bits=7.7,
    grpc_bits=17.1,
    latency_p50_ms=12.0,
    latency_p95_ms=40.0,
    latest=("cat", "[bold]"),
)


def show(report: SensorReport) -> None:
    with display.Display("mast: digits", lambda: report, lambda: "full, anchored, rate scale 2"):
        time.sleep(0.12)


def test_without_a_terminal_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "_LINE_INTERVAL_S", 0.03)
    show(BUSY)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "", "standard output is for results"
    assert 3 <= len(lines) <= 5
    for fact in (
        "990 answered of 1000",
        "7.7 payload",
        "25 %",
        "95.12 %",
        "12.0 ms",
        "behind 8",
        "[bold]",
        "rate scale 2",
    ):
        assert fact in lines[-1]


def test_before_the_first_image_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    show(EMPTY)
    assert "0 answered of 0" in capsys.readouterr().err


def test_on_a_terminal_the_view_is_live(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(display, "_LIVE_INTERVAL_S", 0.03)
    show(BUSY)
    out, err = capsys.readouterr()
    assert out == ""
    assert "990 answered of 1000" in err
    assert "cat, [bold]" in err
