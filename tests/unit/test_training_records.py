"""Distorted pictures, and the records that ``latentwire report`` draws from."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentwire.errors import DataError
from training.distortions import STRENGTHS, distort
from training.measuring import MeasureConfig, run_measure
from training.records import Record, add_records, load_records

RECORD = Record(
    "digits",
    "resnet18",
    8,
    1,
    "dense",
    2,
    8,
    "ce",
    "full",
    0,
    30,
    1,
    2,
    "anchored",
    0.1,
    "",
    359,
    0.1,
    5.0,
    4.9,
    5.0,
    0.99,
    "c",
    "m",
)


def pictures(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 12, 9, channels)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", STRENGTHS)
def test_distortions_keep_the_shape_and_repeat(kind: str, channels: int) -> None:
    images = pictures(channels)
    once = distort(images, kind, STRENGTHS[kind][-1], seed=3)
    assert once.shape == images.shape
    assert once.dtype == np.uint8
    assert not np.array_equal(once, images)
    assert np.array_equal(once, distort(images, kind, STRENGTHS[kind][-1], seed=3))


def test_flips_flip_and_no_strength_changes_nothing() -> None:
    images = pictures(3)
    assert np.array_equal(distort(images, "horizontal flip", 1), images[:, :, ::-1])
    assert np.array_equal(distort(images, "vertical flip", 1), images[:, ::-1])
    assert np.array_equal(distort(images, "rotation", 0), images)
    assert np.abs(distort(images, "colour jitter", 0).astype(int) - images).max() <= 1
    with pytest.raises(ValueError, match="a distortion is one of"):
        distort(images, "fog", 1)


def test_a_record_of_the_same_thing_replaces_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "results" / "digits.json"
    add_records(path, [RECORD, replace(RECORD, seed=1)])
    add_records(path, [replace(RECORD, accuracy=0.5)])
    assert {r.seed: r.accuracy for r in load_records(path)} == {0: 0.5, 1: 0.99}


def test_a_file_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"rows": [{"dataset": "digits"}]}))
    with pytest.raises(DataError, match="holds no records"):
        add_records(path, [RECORD])
    assert json.loads(path.read_text()) == {"rows": [{"dataset": "digits"}]}
    assert load_records(tmp_path / "none.json") == []


def test_the_shipped_digits_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "digits.json"
    done = run_measure(MeasureConfig("digits", "digits", path))
    assert load_records(path) == done
    plain = [r for r in done if not r.distortion and r.model == "anchored"]
    assert plain[0].accuracy > 0.95
    assert plain[0].sensor_macs > 10_000
    assert {r.distortion for r in done} > {"", "rotation 30", "vertical flip"}
