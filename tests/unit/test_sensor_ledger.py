"""Counts, percentiles and the results file."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_sensor.latency import LatencyHistogram
from edge_sensor.ledger import Ledger
from edge_sensor.results import ResultsFile
from edge_sensor.window import CodedMessage, Picture, Unanswered
from latentwire.errors import LatentwireError
from latentwire.messages import LatentBatch, OperatingPointName

POINT = OperatingPointName(2, "full", "anchored", 1.5, bytes(8))


def coded() -> tuple[CodedMessage, list[Unanswered]]:
    pictures = (Picture("a", 1, 10.0, 0, 2.0), Picture("b", None, 10.1, 1, 9.0), Picture("c", 0, 10.2, 1, 10.0))
    message = CodedMessage(LatentBatch(40, 3, 2, b"abc", 7), POINT, pictures, 120, sent_s=10.3, clock_offset_s=1000.0)
    return message, [Unanswered(40 + i, picture, message) for i, picture in enumerate(pictures)]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_image_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results = ResultsFile(path)
    ledger = Ledger(("cat", "dog"), results)
    message, images = coded()
    ledger.coded(message)
    ledger.dropped("z", "ImageError")
    ledger.answered(images[:2], (1, 0), (0.75, 0.5), 10.5)
    ledger.refused(images[2:], "ChecksumError")
    rows = read(path)
    assert rows[0] == {"item": "z", "dropped": "ImageError"}
    assert rows[1] == {
        "sequence": 40,
        "item": "a",
        "label": "dog",
        "label_index": 1,
        "probability": 0.75,
        "truth": "dog",
        "payload_bits": 8.0,
        "grpc_bits": 40.0,
        "ideal_bits": 2.0,
        "level": 0,
        "rate_scale": 1.5,
        "variant": "full",
        "model": "anchored",
        "message": 40,
        "images_per_message": 3,
        "captured_s": 10.0,
        "captured_unix_s": 1010.0,
        "sent_s": 10.3,
        "latency_ms": 500.0,
    }
    assert (rows[2]["sequence"], rows[2]["truth"]) == (41, None)
    refused = {"sequence": 42, "item": "c", "dropped": "ChecksumError", "message": 40, "images_per_message": 3}
    assert rows[3] == refused
    results.close()


def test_the_report_sums_up() -> None:
    now_s = 5.0
    ledger = Ledger(("cat", "dog"), ResultsFile(None), clock=lambda: now_s)
    message, images = coded()
    ledger.coded(message)
    ledger.dropped("z", "ImageError")
    ledger.answered(images[:2], (1, 0), (0.75, 0.5), 10.5)
    ledger.refused(images[2:], "ChecksumError")
    now_s = 9.0
    report = ledger.report()
    assert (report.images_sent, report.images_answered, report.images_refused) == (3, 2, 1)
    assert report.dropped == {"ImageError": 1, "ChecksumError": 1}
    assert ledger.unsent() == {"ImageError": 1}
    assert (report.images_with_truth, report.accuracy) == (1, 1.0)
    assert (report.ideal_bits, report.payload_bits, report.grpc_bits) == (7.0, 8.0, 40.0)
    assert report.share_refined == pytest.approx(2 / 3)
    assert report.latency_p50_ms == pytest.approx(400, rel=0.02)
    assert report.elapsed_s == 4.0
    assert report.latest == ("dog", "cat")


def test_a_report_of_nothing_has_no_means() -> None:
    report = Ledger(("cat", "dog"), ResultsFile(None)).report()
    assert report.images_sent == 0
    assert report.accuracy is report.payload_bits is report.latency_p50_ms is None


def test_percentiles_are_right_within_a_percent() -> None:
    values = np.random.default_rng(0).lognormal(3, 1.5, 20_000)
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(float(value))
    for percent in (1, 50, 95, 99, 100):
        exact = np.percentile(values, percent, method="inverted_cdf")
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.0101)


@pytest.mark.parametrize(("value", "nearest"), [(0.0, 0.01), (-5.0, 0.01), (1e12, 1e8)])
def test_latencies_out_of_range_count_as_the_nearest(value: float, nearest: float) -> None:
    histogram = LatencyHistogram()
    histogram.add(value)
    assert histogram.percentile(50) == pytest.approx(nearest, rel=0.03)


def test_results_are_readable_while_the_sensor_runs_and_start_empty(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("old")
    results = ResultsFile(path)
    results.write([{"sequence": 0}, {"sequence": 1}])
    assert [row["sequence"] for row in read(path)] == [0, 1]
    results.close()


def test_a_dash_is_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    results = ResultsFile("-")
    results.write([{"sequence": 3}])
    results.close()
    assert out.getvalue() == '{"sequence": 3}\n'
    assert not out.closed


def test_a_results_file_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(LatentwireError, match="results cannot be written to"):
        ResultsFile(tmp_path / "no" / "folder" / "r.jsonl")


def test_a_disk_that_is_full_is_said() -> None:
    results = ResultsFile("/dev/full")
    with pytest.raises(LatentwireError, match="No space left"):
        results.write([{"sequence": 0}])
    results.close()
