"""``latentwire demo``: two real processes, the knob turned in mid-stream, and a table that adds up."""

import io

import numpy as np
import pytest
from rich.console import Console

from latentwire.bundle import Bundle, load_bundle
from latentwire.datasets import load_test
from latentwire.demo import DemoConfig, baselines, demo_scales, run_demo
from latentwire.report import Value

ROUNDS = 1  # the hardest: a fast sensor has coded as many images while a command is on its way
Rows = list[dict[str, Value]]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("digits")


@pytest.fixture(scope="module")
def shown() -> tuple[Rows, str]:
    """The demo's rows, and what it printed."""
    screen = io.StringIO()
    rows = run_demo(DemoConfig(rounds=ROUNDS), Console(file=screen, width=120))
    return rows, screen.getvalue()


def scales_of(bundle: Bundle) -> list[float]:
    variant = bundle.manifest.variant()
    parameters = bundle.codec_parameters(bundle.manifest.default_variant, variant.default_model)
    return demo_scales(variant.model(), parameters.frontier)


def streamed(rows: Rows) -> Rows:
    return [row for row in rows if row["model"] == "anchored"]


def test_a_row_for_each_position_of_the_knob_and_each_picture_format(shown: tuple[Rows, str], bundle: Bundle) -> None:
    rows, _ = shown
    assert [row["rate_scale"] for row in streamed(rows)] == scales_of(bundle)
    assert [row["model"] for row in rows[-3:]] == ["raw", "PNG", "JPEG q75"]
    assert len(rows) == len(scales_of(bundle)) + 3


def test_every_position_of_the_knob_sees_all_images_as_often_as_asked(shown: tuple[Rows, str]) -> None:
    images = [row["images"] for row in streamed(shown[0])]
    assert min(images) >= ROUNDS * len(load_test("digits").images) >= 1 * 350  # type: ignore[type-var,operator]


def test_digits_are_told_apart_at_every_rate(shown: tuple[Rows, str], bundle: Bundle) -> None:
    rows = streamed(shown[0])
    default = bundle.manifest.variant().model().rate_default
    (at_default,) = [row for row in rows if row["rate_scale"] == default]
    assert at_default["accuracy"] >= 0.95  # type: ignore[operator]
    assert at_default["images"] >= 350  # type: ignore[operator]
    for row in rows:
        assert row["accuracy"] == pytest.approx(row["manifest_accuracy"], abs=0.003), "one image of 359"


def test_bits_fall_as_the_knob_turns(shown: tuple[Rows, str]) -> None:
    rows = streamed(shown[0])
    for name in ("share_refined", "ideal_bits", "payload_bits"):
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=True)  # type: ignore[type-var]
    assert rows[-1]["payload_bits"] < 6  # type: ignore[operator]
    assert rows[-1]["share_refined"] == 0.0
    assert rows[0]["share_refined"] == 1.0


def test_ideal_payload_grpc_and_wire_are_a_ladder(shown: tuple[Rows, str]) -> None:
    for row in streamed(shown[0]):
        # 64 images a message: within 1 % and 8 bits of ideal
        assert row["payload_bits"] <= 1.01 * row["ideal_bits"] + 8 / 32  # type: ignore[operator]
        assert row["ideal_bits"] < row["payload_bits"] < row["grpc_bits"] < row["wire_bits"]  # type: ignore[operator]
        assert row["latency_p50_ms"] <= row["latency_p95_ms"] <= row["latency_p99_ms"]  # type: ignore[operator]
        assert row["bundle"] == "digits"


def test_what_is_printed_is_what_is_returned(shown: tuple[Rows, str]) -> None:
    rows, text = shown
    turns = [line for line in text.splitlines() if "rate scale" in line and "->" in line]
    assert len(turns) == len(streamed(rows)) - 1
    for row in rows:
        (line,) = [
            line for line in text.splitlines() if line.strip().startswith(f"{row['model']}") and matches(line, row)
        ]
        assert f"{row['payload_bits']:.2f}" in line


def matches(line: str, row: dict[str, Value]) -> bool:
    return row.get("rate_scale") is None or f" {row['rate_scale']:g} " in line


def test_pictures_cost_what_their_files_do() -> None:
    images = load_test("digits").images
    raw, png, jpeg = baselines(images)
    assert raw["payload_bits"] == 8 * 8 * 8
    assert raw["images"] == png["images"] == len(images)
    assert png["payload_bits"] > raw["payload_bits"]  # type: ignore[operator]  # so small a picture is all header
    assert jpeg["payload_bits"] > raw["payload_bits"]  # type: ignore[operator]
    (colour, *_) = baselines(np.zeros((2, 32, 32, 3), np.uint8))
    assert colour["payload_bits"] == 8 * 32 * 32 * 3


def test_the_knob_goes_from_its_top_to_its_low_end_by_way_of_the_default(bundle: Bundle) -> None:
    entry, scales = bundle.manifest.variant().model(), scales_of(bundle)
    assert scales == sorted(scales, reverse=True)
    assert (scales[0], scales[-1]) == (entry.rate_max, entry.rate_min)
    assert entry.rate_default in scales
    assert len(scales) >= 3
