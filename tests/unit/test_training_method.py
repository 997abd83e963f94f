"""train ldr --smoke, truncation and screening: the whole method on digits, by the command and by its functions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from latentwire.bundle import load_bundle
from latentwire.cli import app
from latentwire.datasets import load_test
from latentwire.errors import BundleError, CheckpointError, TrainingError
from training import screening
from training.ce import CETrainingConfig, run_train_ce
from training.checkpoint import load_checkpoint
from training.evaluation import evaluate_bundle
from training.models import PairConfig
from training.onnx_export import load_pair
from training.screening import ScreeningConfig, Trial, Trials, run_screening
from training.truncation import TruncationConfig, run_truncate, truncate

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = PairConfig(width=2, hidden=16, d=6, grid=2, decoder_width=2)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train ldr --smoke`` on digits, run once."""
    out = tmp_path_factory.mktemp("smoke")
    arguments = ["train", "ldr", "--data", "digits", "--smoke", "--out", str(out), "--threads", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "accuracy" in done.output
    return out


def test_smoke_runs_every_step_exports_and_evaluates(smoke: Path) -> None:
    assert [load_checkpoint(smoke / name).method for name in ("ce/checkpoint.pt", "step1.pt", "step2.pt")] == [
        "ce",
        "duphil",
        "duphil-self",
    ]
    bundle = load_bundle(smoke / "bundle")
    trained = bundle.manifest.training
    assert (trained["method"], trained["epochs"], trained["seed"]) == ("ldr", 7, 0)
    table = bundle.manifest.variant().table
    assert {row.model for row in table} == {"gaussian", "histogram", "anchored"}
    assert max(row.accuracy for row in table) > 0.6
    row = table[-1]
    assert evaluate_bundle(bundle, None, load_test("digits"), [row.model], [row.rate_scale])[0].accuracy == row.accuracy


def test_truncated_pairs_join_their_bundle(smoke: Path, tmp_path: Path) -> None:
    before = load_bundle(smoke / "bundle").manifest
    settings = {"batch": 256, "finetune_batch": 64, "threads": 1, "self_images": 6, "self_views": 8}
    config = TruncationConfig(
        smoke / "checkpoint.pt", tmp_path / "cut", 4, "ldr", 1, smoke / "bundle", settings=settings
    )
    path = run_truncate(config)
    after = load_bundle(smoke / "bundle")
    assert after.manifest.variants["full"] == before.variants["full"]
    assert after.manifest.default_variant == "full"
    assert (after.manifest.variant("full").d, after.manifest.variant("truncated").d) == (8, 4)
    rows = evaluate_bundle(after, "truncated", load_test("digits"), ["gaussian"])
    assert max(row.accuracy for row in rows) > 0.3
    assert load_checkpoint(path).config["epochs_before"] == 9
    run_truncate(replace(config, out=tmp_path / "again", keep=3, finetune="ce"))  # in the first one's place
    assert load_bundle(smoke / "bundle").manifest.variant("truncated").d == 3
    assert [entry.name for entry in (tmp_path / "again").glob("step*")] == []
    with pytest.raises(BundleError, match="is the default variant"):
        run_truncate(replace(config, out=tmp_path / "third", variant="full"))
    with pytest.raises(BundleError, match="other classes or images"):
        run_truncate(replace(config, out=tmp_path / "third", bundle=Path("latentwire/data/bundles/cifar10")))


@pytest.mark.parametrize("change", [{}, {"decoder": "transposed"}, {"bottleneck": "spatial", "grid": 2}], ids=str)
def test_what_is_left_is_the_pair_with_the_last_entries_at_zero(change: dict[str, Any], tmp_path: Path) -> None:
    pair = replace(TINY, d=8, **change)
    config = CETrainingConfig("digits", tmp_path, pair=pair, epochs=1, batch=64, peak_rate=0.1, threads=1)
    whole = load_checkpoint(run_train_ce(config))
    cut = truncate(whole, 4)
    images = torch.from_numpy(load_test("digits").images[:20])
    with torch.inference_mode():
        full, short = load_pair(whole), load_pair(cut)
        latent = full.encoder(images).latent
        encoded = short.encoder(images)
        torch.testing.assert_close(encoded.latent, latent[:, :4])
        zeroed = torch.cat([latent[:, :4], torch.zeros(20, 4)], 1)
        torch.testing.assert_close(short.decoder(encoded.latent), full.decoder(zeroed), rtol=1e-4, atol=1e-5)
        assert full.encoder.head is not None
        norm = full.encoder.head[0]
        # where the normalised entry is zero, so that its column of the next layer says nothing
        silent = norm.running_mean - norm.bias / norm.weight * (norm.running_var + norm.eps).sqrt()
        still = torch.cat([latent[:, :4], silent[4:].expand(20, 4)], 1)
        assert encoded.head_logits is not None
        torch.testing.assert_close(encoded.head_logits, full.encoder.head(still), rtol=1e-4, atol=1e-5)
    assert whole.pair["d"] == 8  # untouched
    for keep in (8, 9):
        with pytest.raises(TrainingError, match="has 8 entries: give --keep below that"):
            truncate(whole, keep)
    if pair.bottleneck == "spatial":
        with pytest.raises(TrainingError, match="4 cells, which stay together: give --keep a multiple of 4"):
            truncate(whole, 3)


def test_truncation_refuses_wrong_settings_and_old_runs(smoke: Path, tmp_path: Path) -> None:
    for change, message in (
        ({"keep": 0}, "keep must"),
        ({"finetune": "x"}, "finetune must"),
        ({"epochs": 0}, "epochs"),
    ):
        with pytest.raises(ValueError, match=message):
            TruncationConfig(**{"checkpoint": tmp_path, "out": tmp_path, "keep": 2, **change})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variant must"):
        TruncationConfig(tmp_path, tmp_path, 2, variant="../x")
    with pytest.raises(CheckpointError, match="is there already"):
        run_truncate(TruncationConfig(smoke / "checkpoint.pt", smoke, 4))


def test_screening_chooses_on_validation_images_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "ray_is_here", lambda: False)
    base = CETrainingConfig(
        "digits", tmp_path / "s", pair=TINY, epochs=2, batch=64, peak_rate=0.1, threads=1, validation=0.2
    )
    config = ScreeningConfig(base, (1, 6))
    trials = run_screening(config)
    assert [trial.d for trial in trials.rows] == [1, 6]
    assert trials.best().validation_accuracy == max(trial.validation_accuracy for trial in trials.rows)
    assert trials.validation_images == 287
    assert trials.rows[0].sensor_macs < trials.rows[1].sensor_macs
    assert run_screening(config) == trials  # nothing is trained twice
    for wrong in ((), (0,), (4, 4)):
        with pytest.raises(ValueError, match="d must be"):
            ScreeningConfig(base, wrong)
    with pytest.raises(ValueError, match="validation must be above 0"):
        ScreeningConfig(replace(base, validation=0.0), (4,))


@pytest.mark.skipif(not screening.ray_is_here(), reason="Ray Tune is not installed")
def test_trials_on_ray_are_those_made_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = CETrainingConfig(
        "digits", tmp_path / "ray", pair=TINY, epochs=1, batch=64, peak_rate=0.1, threads=1, validation=0.2
    )
    on_ray = run_screening(ScreeningConfig(base, (5, 2)))
    monkeypatch.setattr(screening, "ray_is_here", lambda: False)
    here = run_screening(ScreeningConfig(replace(base, out=tmp_path / "here"), (5, 2)))
    assert [replace(row, seconds=0) for row in on_ray.rows] == [replace(row, seconds=0) for row in here.rows]


def test_of_equals_the_narrowest_is_best() -> None:
    rows = [Trial("x", d, 1, 0, 10, accuracy, None, 1, 1.0) for d, accuracy in ((32, 0.8), (8, 0.8), (4, 0.7))]
    assert Trials(tuple(rows)).best().d == 8


def test_the_commands(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    small = ["--width", "2", "--grid", "2", "--hidden", "16", "--batch", "64", "--peak-rate", "0.1", "--threads", "1"]
    out, figures = tmp_path / "screen", tmp_path / "screen.json"
    text = run(
        "screen", "--data", "digits", "--out", str(out), "--d", "2,5", "--epochs", "1", *small, "--json", str(figures)
    )
    assert "best on" in text
    assert [row["d"] for row in json.loads(figures.read_text())["rows"]] == [2, 5]
    start = str(out / "d5" / "checkpoint.pt")
    rate = ["train", "rate", "--data", "digits", "--out", str(tmp_path / "rate"), "--weight", "0.1", "--epochs", "1"]
    assert "checkpoint.pt" in run(*rate, *small)
    ours = ["--from", start, "--threads", "1", "--batch", "300"]
    assert "checkpoint.pt" in run("train", "duphil", "--out", str(tmp_path / "one"), "--epochs", "1", *ours)
    steps = ["--steps", "2,3", "--epochs", "1,1,1", "--self-images", "4", "--self-views", "6"]
    run("train", "ldr", "--out", str(tmp_path / "two"), *steps, *ours)
    run("truncate", "--out", str(tmp_path / "cut"), "--keep", "3", "--finetune", "ce", "--epochs", "1", *ours)
    assert load_checkpoint(tmp_path / "cut" / "checkpoint.pt").pair["d"] == 3
    wrong = (["train", "ldr", "--out", "x"], ["train", "ldr", "--out", "x", "--smoke"], ["screen", "--d", "a"])
    for arguments in wrong:
        assert CliRunner().invoke(app, arguments).exit_code == 2
    np.testing.assert_array_equal(load_checkpoint(Path(start)).pair["image"], [8, 8, 1])
