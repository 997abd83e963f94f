import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.codec_targets import bits_at, targets
from benchmarks.timing import Spread, take_turns
from latentwire.cli import app

LADDER = (1, 4, 16, 64, 256)


def test_bench_codec_covers_every_model_knot_and_message_size(tmp_path: Path) -> None:
    file = tmp_path / "codec.json"
    done = CliRunner().invoke(app, ["bench", "codec", "--bundle", "digits", "--no-speed", "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert "what was aimed at" in done.output
    rows = json.loads(file.read_text())["rows"]
    knob = [row for row in rows if row["part"] == "knob"]
    assert {row["model"] for row in knob} == {"gaussian", "histogram", "anchored"}
    assert all(0 <= row["share_refined"] <= 1 and 0 < row["accuracy"] <= 1 for row in knob)
    assert all(row["images"] == 359 for row in knob)
    assert all(row["ideal_bits"] - 1 / 64 < row["payload_bits"] for row in knob)  # what is sure takes no bits
    ladder = [row for row in rows if row["part"] == "message"]
    assert {row["images_per_message"] for row in ladder} == set(LADDER)
    assert all(row["payload_bits"] < row["grpc_bits"] for row in ladder)
    sent = {row["format"]: row for row in rows if row["part"] == "picture"}  # the finest of each
    assert {"raw", "JPEG", "WebP", "JPEG XL"} <= set(sent)
    assert sent["raw"]["bytes"] == 64
    whole = next(row["accuracy"] for row in rows if row["part"] == "pair")
    for name, row in sent.items():
        assert row["accuracy"] == pytest.approx(whole, abs=0.03 if name != "raw" else 0)
        assert row["bytes"] > 8 * max(row["payload_bits"] for row in knob) / 64


def test_bench_codec_of_no_bundle_is_one_line() -> None:
    done = CliRunner().invoke(app, ["bench", "codec", "--bundle", "nowhere"])
    assert done.exit_code == 1


@pytest.mark.parametrize(("accuracy", "bits"), [(0.5, 1.0), (0.7, 2.0), (0.8, 4.0), (0.6, 1.5)])
def test_bits_at_lies_on_the_line_between_points(accuracy: float, bits: float) -> None:
    rows = [{"accuracy": a, "ideal_bits": b} for a, b in [(0.8, 4.0), (0.5, 1.0), (0.7, 2.0), (0.75, 3.0)]]
    assert bits_at(rows, accuracy, "ideal_bits") == pytest.approx(bits)


def test_bits_at_is_nan_where_a_curve_never_reaches() -> None:
    assert np.isnan(bits_at([{"accuracy": 0.5, "ideal_bits": 1.0}], 0.6, "ideal_bits"))


def test_a_target_that_is_missed_is_said_to_be() -> None:
    def row(model: str, scale: float, accuracy: float, bits: float) -> dict[str, object]:
        common = {"part": "knob", "bundle": "b", "data": "cifar10", "model": model, "images": 1000}
        return common | {
            "rate_scale": scale, "accuracy": accuracy, "ideal_bits": bits, "total_entropy_bits": bits, "held": None
        }  # fmt: skip

    message = {"part": "message", "bundle": "b", "model": "anchored", "rate_scale": 1.0, "ideal_bits": 4.0}
    rows = [
        {"part": "pair", "bundle": "b", "data": "cifar10", "accuracy": 0.9},
        row("anchored", 0.01, 0.88, 3.3),
        row("anchored", 0.1, 0.879, 7.0),
        row("anchored", 1.0, 0.898, 20.0),
        row("gaussian", 0.1, 0.5, 10.0),
        row("gaussian", 1.0, 0.9, 50.0),
        message | {"images_per_message": 1, "overhead_bits_per_message": 5.5, "ideal_bits_per_message": 4.0},
        message | {"images_per_message": 64, "overhead_bits_per_message": 9.0, "ideal_bits_per_message": 200.0},
    ]
    found = targets(rows, "b")
    assert [verdict["held"] for verdict in found] == [False, False, False, False, False, True]
    assert "1 of 1000 images fewer" in str(found[0]["found"])


def test_tasks_take_turns_and_the_first_round_is_not_counted() -> None:
    calls: list[str] = []
    seconds = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert all(len(taken) == 3 and (taken >= 0).all() for taken in seconds.values())
    assert Spread.of(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == Spread(3.0, 2.0, 4.0)
