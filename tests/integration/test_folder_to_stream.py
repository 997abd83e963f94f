"""A user's own pictures: class folders of 64 x 64 images are trained on, exported and streamed by the command."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentwire.bundle import load_bundle
from latentwire.local_run import stream, summarise

COLOURS = {"blue": (30, 40, 200), "green": (30, 180, 60), "red": (210, 40, 30)}
IMAGES_A_CLASS = 30


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Noisy discs of one colour a class."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    for name, colour in COLOURS.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(IMAGES_A_CLASS):
            centre, radius = random.integers(20, 44, 2), random.integers(8, 20)
            pixels = random.integers(0, 90, (64, 64, 3))
            pixels[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2] = colour
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


def latentwire(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "latentwire", *map(str, arguments)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


def test_class_folders_become_a_stream(pictures: Path, tmp_path: Path) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    small = ["--width", 4, "--decoder-width", 6, "--grid", 2, "--hidden", 16, "--d", 6, "--batch", 16, "--threads", 1]
    settings = ["--epochs", 12, "--peak-rate", 0.05, "--validation", 0.2]
    latentwire("train", "ce", "--data", f"folder:{pictures}", "--out", run, *small, *settings)
    latentwire("export", run / "checkpoint.pt", "--out", bundle, "--int8")
    manifest = load_bundle(bundle).manifest
    assert manifest.classes == tuple(COLOURS)
    assert manifest.training["decoder_width"] == 6
    assert (manifest.input.height, manifest.input.width, manifest.input.channels) == (64, 64, 3)
    assert sorted(manifest.variants) == ["full", "int8"]
    for variant in manifest.variants:
        options = ["--variant", variant]
        with stream(str(bundle), str(pictures), len(COLOURS) * IMAGES_A_CLASS, 8, options) as running:
            results = running.finish()
            (row,) = summarise(results, running.relay)
        assert row["variant"] == variant
        assert len({result["item"] for result in results}) == len(results) == len(COLOURS) * IMAGES_A_CLASS
        assert row["accuracy"] > 0.9
        assert row["payload_bits"] < 64
