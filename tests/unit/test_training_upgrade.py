"""training.upgrade: a decoder told of really quantized latents; what is deployed stays the same bytes."""

import io
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.decoder_upgrade import compare
from edge_server.answering import answer_jobs
from edge_server.pipeline import Answered, Job, Pipeline
from latentwire.bundle import Bundle, load_bundle, write_bundle
from latentwire.cli import app
from latentwire.datasets import load_test
from latentwire.errors import BundleError, CheckpointError, TrainingError
from latentwire.messages import LatentBatch
from training.ce import LOG, CETrainingConfig, run_train_ce, walk_to_the_end
from training.checkpoint import load_checkpoint, save_checkpoint
from training.duphil import source_data
from training.evaluation import decoder, encode_dataset, evaluate_bundle, measure
from training.export import ExportConfig, run_export
from training.inference import OnnxGraph
from training.loop import Trainer
from training.messages import Messages, encode_passes, teach
from training.models import PairConfig
from training.onnx_export import load_pair
from training.progress import Progress
from training.told import Told, upgraded_bundle
from training.upgrade import UpgradeConfig, run_upgrade, upgrade_trainer

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = PairConfig(width=2, hidden=16, d=4, grid=2, decoder_width=2)
WIDTH = 2 + 10


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ce")
    config = CETrainingConfig(
        "digits", out, pair=TINY, epochs=3, batch=64, peak_rate=0.1, threads=1, validation=0.1, precision="fp32"
    )
    return run_train_ce(config)


@pytest.fixture(scope="module")
def deployed(source: Path) -> Bundle:
    return run_export(ExportConfig(source, source.parent / "bundle", model_id="deployed"))


@pytest.fixture(scope="module")
def upgraded(source: Path, deployed: Bundle) -> Bundle:
    return run_upgrade(settings(source, deployed, source.parent / "run", epochs=6, rate=3e-3))


def settings(source: Path, bundle: Bundle, out: Path, **changes: Any) -> UpgradeConfig:
    values = {"epochs": 1, "passes": 2, "batch": 40, "threads": 1}
    return UpgradeConfig(source, bundle.path, out, **{**values, **changes})


def trainer_of(config: UpgradeConfig) -> Trainer:
    start = load_checkpoint(config.source)
    return upgrade_trainer(config, load_bundle(config.bundle), "full", start, *source_data(start, config.source, None))


def messages_of(source: Path, deployed: Bundle) -> Messages:
    train, _ = source_data(load_checkpoint(source), source, None)
    passes = encode_passes(OnnxGraph(deployed.encoder_path()), [], train, 2, 1, False, 0)
    return Messages(deployed, "full", passes, torch.device("cpu"))


def test_what_is_deployed_stays_the_same_bytes(deployed: Bundle, upgraded: Bundle) -> None:
    assert upgraded.sensor_digest == deployed.sensor_digest
    assert upgraded.digest != deployed.digest
    assert upgraded.manifest.model_id == deployed.manifest.model_id
    old, new = deployed.manifest.variant(), upgraded.manifest.variant()
    assert new.models == old.models
    for entry in deployed.manifest.files("sensor"):
        assert (upgraded.path / entry.path).read_bytes() == (deployed.path / entry.path).read_bytes()
    assert (new.decoder.path, new.decoder.sha256 == old.decoder.sha256) == (old.decoder.path, False)
    assert upgraded.manifest.training["method"] == "ce+upgrade"
    assert int(str(upgraded.manifest.training["server_macs"])) > int(str(deployed.manifest.training["server_macs"]))


def test_the_pair_is_frozen(source: Path, upgraded: Bundle) -> None:
    checkpoint, start = load_checkpoint(upgraded.path.parent / "checkpoint.pt"), load_checkpoint(source)
    assert checkpoint.method == "upgrade"
    for name, value in start.state["pair"].items():
        assert torch.equal(checkpoint.state["pair"][name], value)


def test_the_knobs_are_measured_anew(deployed: Bundle, upgraded: Bundle) -> None:
    old, new = (
        sorted(bundle.manifest.variant().table, key=lambda row: (row.model, row.rate_scale))
        for bundle in (deployed, upgraded)
    )
    assert new == evaluate_bundle(upgraded, "full", load_test("digits"))
    for before, after in zip(old, new, strict=True):
        assert replace(after, accuracy=before.accuracy) == before  # its bits are the sensor's, and those stay
    gain = {(row.model, row.rate_scale): row.accuracy - old[n].accuracy for n, row in enumerate(new)}
    assert np.mean([*gain.values()]) > 0.02, gain  # a pair trained so little learns on from what the server gets


def test_before_and_after_are_compared_on_the_same_messages(deployed: Bundle, upgraded: Bundle) -> None:
    rows = compare(str(deployed.path), str(upgraded.path), "test", None)
    tables = [
        {(row.model, row.rate_scale): row.accuracy for row in bundle.manifest.variant().table}
        for bundle in (deployed, upgraded)
    ]
    for row in rows:
        knot = (row["model"], row["rate_scale"])
        assert (row["accuracy_before"], row["accuracy"]) == (tables[0][knot], tables[1][knot])
        gain = (row["gained"] - row["lost"]) / row["images"]
        assert gain == pytest.approx(row["accuracy"] - row["accuracy_before"])
    assert len(rows) == len(tables[0])
    assert len(compare(str(deployed.path), str(upgraded.path), "validation", None)) == len(rows)
    with pytest.raises(ValueError, match="not of the same sensor"):
        compare(str(deployed.path), "digits", "test", None)


def test_the_server_answers_as_is_measured(upgraded: Bundle) -> None:
    encoded = encode_dataset(upgraded, "full", load_test("digits"))
    pipeline = Pipeline(upgraded, decoder_threads=1)
    images = len(encoded.labels)
    for model, scale in (("anchored", 0.3), ("anchored", 0.01), ("gaussian", 0.5)):
        served = pipeline.derive("full", model, scale)
        codec = served.point.codec
        message = codec.encode(encoded.latent, codec.choose(encoded.latent, encoded.head_logits))
        (answered,) = answer_jobs([Job(served, LatentBatch(0, images, 1, message.payload, message.crc32))])
        assert isinstance(answered, Answered)
        measured = measure(served.point, encoded, decoder(upgraded, "full"), images_per_message=images)
        assert answered.results.labels == tuple(measured.answers.tolist())


def test_a_told_decoder_starts_as_the_one_it_replaces(source: Path) -> None:
    pair = load_pair(load_checkpoint(source))
    told = Told(pair.config, WIDTH, None)
    told.start_from(pair.decoder)
    random = np.random.default_rng(0)
    latent, conditions = (random.normal(size=(9, width)).astype(np.float32) for width in (4, WIDTH))
    with torch.inference_mode():
        torch.testing.assert_close(
            torch.from_numpy(told.answer(latent, conditions)), pair.decoder(torch.tensor(latent))
        )


def test_messages_are_what_the_server_decodes(source: Path, deployed: Bundle) -> None:
    messages = messages_of(source, deployed)
    assert messages.width == WIDTH
    anchors = deployed.codec_parameters("full", "anchored").anchors
    seen: dict[tuple[int, int], set[float]] = {}
    generator = torch.Generator().manual_seed(1)
    for epoch in range(8):
        rows, labels = messages.draw(epoch, torch.arange(1000), generator)
        assert (rows.shape, len(labels)) == ((1000, 4 + WIDTH), 1000)
        latent, conditions = rows[:, :4].numpy(), rows[:, 4:].numpy()
        named, level = conditions[:, 2:], conditions[:, 0]
        assert set(named.sum(1)) <= {0, 1}
        bare = level == 0
        assert np.array_equal(latent[bare], anchors[named[bare].argmax(1)])  # the anchor itself
        for model, images in ((1, named.sum(1) == 1), (0, named.sum(1) == 0)):
            for lvl in (0, 1):
                seen.setdefault((model, lvl), set()).update(conditions[images & (level == lvl), 1].tolist())
    assert seen[0, 0] == set()  # the paper's code refines every image
    ends = np.log2([0.01, 4.0])
    assert min(seen[1, 0]) < ends[0] + 0.5
    assert max(seen[1, 1]) > ends[1] - 0.5
    assert len(seen[1, 0] | seen[1, 1]) > 20
    assert min(seen[0, 1]) < -3.5
    assert max(seen[0, 1]) > 2.5


def test_the_same_draws_give_the_same_messages(source: Path, deployed: Bundle) -> None:
    one, two = messages_of(source, deployed), messages_of(source, deployed)
    picks = torch.randperm(1000, generator=torch.Generator().manual_seed(2))[:150]
    draws = [m.draw(3, picks, torch.Generator().manual_seed(5))[0] for m in (one, one, two)]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])
    others = [one.draw(3, picks, torch.Generator().manual_seed(6))[0], one.draw(2, picks, torch.Generator())[0]]
    assert not any(torch.equal(draws[0], other) for other in others)


def test_teachers_answer_on_the_same_images(source: Path, deployed: Bundle) -> None:
    pair = load_pair(load_checkpoint(source))
    train, _ = source_data(load_checkpoint(source), source, None)
    encoder = OnnxGraph(deployed.encoder_path())
    passes = encode_passes(encoder, [pair, pair], train, 1, 1, False, 0)
    assert passes.taught is not None
    assert passes.taught.sum(2) == pytest.approx(1.0, abs=1e-5)
    with torch.inference_mode():
        again = pair.decoder(torch.from_numpy(passes.latent[0])).softmax(1).numpy()
    assert np.abs(again - passes.taught[0]).max() < 0.05  # the bundle's encoder has 16-bit weights
    plain = torch.from_numpy(train.images[:5])
    np.testing.assert_allclose(teach([pair, pair], plain), teach([pair], plain), rtol=1e-6)


class Stops(Progress):
    """Asks this process to stop in the middle of the first epoch."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(source: Path, deployed: Bundle, tmp_path: Path) -> None:
    def walk(out: Path, kind: type[Progress]) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        trainer = trainer_of(settings(source, deployed, out, epochs=2, passes=1))
        console = Console(file=io.StringIO())
        walk_to_the_end(trainer, out / LOG, "test", kind("test", 2, 32, out / LOG, console))
        return load_checkpoint(out / "checkpoint.pt").state

    whole = walk(tmp_path / "whole", Progress)
    with pytest.raises(TrainingError, match=r"stopped in epoch 1 of 2, step 16"):
        walk(tmp_path / "broken", Stops)
    torch.manual_seed(77)
    resumed = walk(tmp_path / "broken", Progress)
    assert [name for name in whole["side"] if not torch.equal(whole["side"][name], resumed["side"][name])] == []
    assert torch.equal(whole["generator"], resumed["generator"])


def test_what_does_not_fit_is_refused(source: Path, deployed: Bundle, upgraded: Bundle, tmp_path: Path) -> None:
    start = load_checkpoint(source)
    other = replace(start, state={"pair": {name: value.clone() for name, value in start.state["pair"].items()}})
    other.state["pair"]["encoder.bottleneck.4.weight"] *= 2
    save_checkpoint(tmp_path / "other.pt", other)
    with pytest.raises(BundleError, match=r"the encoder of 'full' is not that of .*other\.pt"):
        run_upgrade(settings(tmp_path / "other.pt", deployed, tmp_path / "a"))
    save_checkpoint(tmp_path / "teacher.pt", replace(start, classes=start.classes[::-1]))
    with pytest.raises(CheckpointError, match=r"the teacher .*teacher\.pt knows other classes"):
        trainer_of(settings(source, deployed, tmp_path / "b", teachers=(tmp_path / "teacher.pt",)))
    run = upgraded.path.parent
    with pytest.raises(CheckpointError, match="is there already: add --resume"):
        run_upgrade(settings(source, deployed, run))
    with pytest.raises(CheckpointError, match="that checkpoint is a decoder upgrade's"):
        run_export(ExportConfig(run / "checkpoint.pt", tmp_path / "c"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"passes": 0}, "passes must"),
        ({"epochs": 0}, "epochs must"),
        ({"batch": 1}, "batch must"),
        ({"rate": float("nan")}, "rate must"),
        ({"teacher_weight": 0.0}, "teacher_weight must"),
        ({"decoder_width": 0}, "decoder_width must"),
    ],
)
def test_settings_out_of_range(source: Path, deployed: Bundle, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(source, deployed, source.parent, **change)


def test_a_decoder_that_other_variants_share_stays_theirs(source: Path, deployed: Bundle, tmp_path: Path) -> None:
    variant = deployed.manifest.variant()
    manifest = replace(deployed.manifest, variants={"full": variant, "twin": replace(variant, table=())})
    files = {file.path: (deployed.path / file.path).read_bytes() for file in manifest.files()}
    both = write_bundle(tmp_path / "both", manifest, files)
    told = Told(load_pair(load_checkpoint(source)).config, WIDTH, None).eval()
    new = upgraded_bundle(tmp_path / "new", both, "twin", told, load_test("digits"), {})
    assert new.manifest.variant("full") == variant
    assert OnnxGraph(new.decoder_path("twin")).conditions == WIDTH
    assert OnnxGraph(new.decoder_path("full")).conditions == 0
    assert new.manifest.training == deployed.manifest.training  # they speak of the default variant


def test_the_command_with_a_teacher_and_a_wider_decoder(source: Path, deployed: Bundle, tmp_path: Path) -> None:
    arguments = ["upgrade", "--from", source, "--bundle", deployed.path, "--out", tmp_path / "run", "--threads", "1"]
    arguments += ["--epochs", "1", "--passes", "1", "--teacher", source, "--teacher", source, "--decoder-width", "3"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    bundle = load_bundle(tmp_path / "run" / "bundle")
    assert (bundle.manifest.training["teachers"], bundle.manifest.training["decoder_width"]) == (2, 3)
    assert OnnxGraph(bundle.decoder_path()).conditions == WIDTH
    wrong = ["upgrade", "--from", "a", "--bundle", "b", "--out", "c", "--teacher-weight", "2"]
    assert CliRunner().invoke(app, wrong).exit_code == 2
