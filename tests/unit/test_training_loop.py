"""training.ce, loop, checkpoint and progress: a run learns, stops, resumes bit for bit, and fails in a line."""

import io
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from latentwire.datasets import Dataset
from latentwire.errors import CheckpointError, DataError, TrainingError
from training.augment import random_crop_flip, reflect_pad
from training.ce import CETrainingConfig, cross_entropy, make_trainer, run_train_ce, training_data
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.data import channel_statistics, load_split
from training.loop import StepLoss, accuracy
from training.models import Pair, PairConfig, make_pair
from training.onnx_export import load_pair
from training.progress import Progress

TINY = PairConfig(width=2, hidden=16, d=4, grid=2, decoder_width=2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def settings(out: Path, **changes: Any) -> CETrainingConfig:
    values = {"data": "digits", "out": out, "pair": TINY, "epochs": 2, "batch": 32, "peak_rate": 0.1, "threads": 1}
    return CETrainingConfig(**{**values, **changes})


class Stops(Progress):
    """Sends this process a signal once ``steps`` steps of the epoch after ``epoch`` are done."""

    def __init__(self, out: Path, epoch: int, steps: int, number: signal.Signals = signal.SIGINT) -> None:
        super().__init__("test", 2, 42, out / "log.csv", Console(file=io.StringIO()))
        self._at, self._number = (epoch, steps), number

    def step(self, epoch: int, step: int, loss: float) -> None:
        if (epoch, step) == self._at:
            os.kill(os.getpid(), self._number)


def plain(pair: Pair, images: Tensor, labels: Tensor) -> StepLoss:
    return cross_entropy(pair, images, labels, 0.0, 0.3)


def weights(path: Path) -> dict[str, Tensor]:
    state = load_checkpoint(path).state
    moments = {f"momentum {key}": value["momentum_buffer"] for key, value in state["optimizer"]["state"].items()}
    randomness = {name: state[name] for name in ("generator", "torch", "sums")}
    return {**state["pair"], **moments, **randomness}


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


@pytest.mark.parametrize(("epoch", "steps"), [(0, 16), (1, 32)])
def test_interrupted_and_resumed_is_bit_for_bit_uninterrupted(tmp_path: Path, epoch: int, steps: int) -> None:
    whole = run_train_ce(settings(tmp_path / "whole"))
    broken = settings(tmp_path / "broken")
    message = rf"stopped in epoch {epoch + 1} of 2, step {steps} of 42, and saved as .*checkpoint.pt: .*--resume"
    with pytest.raises(TrainingError, match=message):
        run_train_ce(broken, Stops(broken.out, epoch, steps))
    torch.manual_seed(99)  # a new process would not continue this one's random state
    resumed = run_train_ce(replace(broken, resume=True))
    ours, theirs = weights(resumed), weights(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert without_times(load_checkpoint(resumed).history) == without_times(load_checkpoint(whole).history)
    assert len((broken.out / "log.csv").read_text().splitlines()) == 3  # a heading, each epoch once


def test_one_process_walks_a_plain_loop_bit_for_bit(tmp_path: Path) -> None:
    config = settings(tmp_path, epochs=1)
    walked = weights(run_train_ce(config))
    train, _ = training_data(config)
    torch.manual_seed(config.seed)
    pair = make_pair(replace(TINY, image=(8, 8, 1), classes=10)).train()
    mean, std = channel_statistics(train.images)
    pair.encoder.mean.copy_(torch.from_numpy(mean / 255))
    pair.encoder.std.copy_(torch.from_numpy(std / 255))
    optimizer = torch.optim.SGD(pair.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 43, pct_start=0.2, cycle_momentum=False)
    padded, labels = reflect_pad(torch.from_numpy(train.images), 1), torch.from_numpy(train.labels)
    order = torch.from_numpy(np.random.default_rng((config.seed, 0)).permutation(len(train)))
    generator = torch.Generator().manual_seed(config.seed)
    for picks in order[: 42 * 32].split(32):
        images = random_crop_flip(padded, picks, (8, 8), False, generator)
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(pair, images, labels[picks], 0.05, 0.3).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    assert [name for name, value in pair.state_dict().items() if not torch.equal(value, walked[name])] == []


def test_sigterm_stops_it_too_and_signals_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    config = settings(tmp_path / "run")
    with pytest.raises(TrainingError, match="stopped in epoch 1 of 2, step 16"):
        run_train_ce(config, Stops(config.out, 0, 16, signal.SIGTERM))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_another_seed_gives_another_pair(tmp_path: Path) -> None:
    first, other = (weights(run_train_ce(settings(tmp_path / str(seed), seed=seed, epochs=1))) for seed in (0, 1))
    assert not torch.equal(first["encoder.stem.0.weight"], other["encoder.stem.0.weight"])


def test_a_small_pair_learns_the_digits(tmp_path: Path) -> None:
    pair = replace(TINY, width=4, hidden=32, decoder_width=4)
    path = run_train_ce(settings(tmp_path / "run", pair=pair, epochs=6, precision="fp32"))
    checkpoint = load_checkpoint(path)
    losses = [row["train_loss"] for row in checkpoint.history]
    assert losses[-1] < 0.6 * losses[0]
    held_out = accuracy(load_pair(checkpoint), load_split("digits", None, "test"), "test")
    assert held_out["test_accuracy"] > 0.85
    assert held_out["test_head_accuracy"] > 0.85
    assert set(checkpoint.history[0]) >= {"train_loss", "train_accuracy", "validation_accuracy", "learning_rate"}
    header = (path.parent / "log.csv").read_text().splitlines()[0].split(",")
    assert header == list(checkpoint.history[0])


def test_validation_images_are_not_trained_on(tmp_path: Path) -> None:
    train, validation = training_data(settings(tmp_path, validation=0.1))
    assert len(train) + len(validation) == 1438
    assert 130 < len(validation) < 156
    whole, none = training_data(settings(tmp_path, validation=0.0))
    assert (len(whole), len(none)) == (1438, 0)


def test_the_encoder_normalises_by_the_training_images(tmp_path: Path) -> None:
    config = settings(tmp_path)
    train, validation = training_data(config)
    encoder = make_trainer(config, tmp_path / "c.pt", train, validation, plain).pair.encoder
    seen: list[Tensor] = []
    encoder.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder.eval()(torch.from_numpy(train.images))
    assert abs(float(seen[0].mean())) < 1e-3
    assert abs(float(seen[0].std()) - 1) < 1e-3


def test_the_head_has_its_share_of_the_loss() -> None:
    torch.manual_seed(0)
    pair = make_pair(replace(TINY, image=(8, 8, 1))).eval()
    images = torch.randint(0, 256, (6, 8, 8, 1), dtype=torch.uint8)
    labels = torch.arange(6)
    logits, encoded = pair(images)
    entropy = torch.nn.functional.cross_entropy
    assert encoded.head_logits is not None
    wanted = entropy(logits, labels) + 0.3 * entropy(encoded.head_logits, labels)
    torch.testing.assert_close(cross_entropy(pair, images, labels, 0.0, 0.3).loss, wanted)
    torch.testing.assert_close(cross_entropy(pair, images, labels, 0.0, 0.0).loss, entropy(logits, labels))


def test_a_checkpoint_of_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    config = settings(tmp_path / "run", epochs=1)
    run_train_ce(config)
    changed = replace(config, resume=True, seed=5, pair=replace(TINY, d=6))
    with pytest.raises(CheckpointError, match=r"pair\.d is 4 there and 6 here; seed is 0 there and 5 here"):
        run_train_ce(changed)
    with pytest.raises(CheckpointError, match="is there already: add --resume"):
        run_train_ce(config)
    # where it lies and how many threads train it do not make it another run
    assert run_train_ce(replace(config, resume=True, threads=2)) == config.out / "checkpoint.pt"


def test_a_checkpoint_of_another_step_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path / "run", epochs=1)
    path = run_train_ce(config)
    save_checkpoint(path, replace(load_checkpoint(path), method="duphil"))
    with pytest.raises(CheckpointError, match="a checkpoint of 'duphil' training, not of 'ce'"):
        run_train_ce(replace(config, resume=True))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    config = settings(tmp_path)
    train, validation = training_data(config)

    def nan(pair: Pair, images: Tensor, labels: Tensor) -> StepLoss:
        loss, logits = cross_entropy(pair, images, labels, 0.0, 0.0)
        return StepLoss(loss * float("nan"), logits)

    shown = Progress("test", 2, 42, tmp_path / "log.csv", Console(file=io.StringIO()))
    trainer = make_trainer(config, tmp_path / "checkpoint.pt", train, validation, nan)
    with pytest.raises(TrainingError, match=r"NaN or infinite in epoch 1: lower the learning rate"):
        trainer.run(shown)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_running_out_of_memory_is_said_in_a_line(tmp_path: Path) -> None:
    config = settings(tmp_path)

    def greedy(pair: Pair, images: Tensor, labels: Tensor) -> StepLoss:
        return StepLoss(torch.empty(1 << 60).sum(), images)

    shown = Progress("test", 2, 42, tmp_path / "log.csv", Console(file=io.StringIO()))
    trainer = make_trainer(config, tmp_path / "checkpoint.pt", *training_data(config), greedy)
    with pytest.raises(TrainingError, match="out of memory: give a smaller --batch"):
        trainer.run(shown)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing past ``size`` bytes of a file fails, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def some_checkpoint(fill: float) -> Checkpoint:
    return Checkpoint("ce", {"seed": 0}, {}, ("a", "b"), 1, 0, {"x": torch.full((100_000,), fill)}, [])


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, some_checkpoint(1.0))
    with files_of_at_most(50_000), pytest.raises(CheckpointError, match="cannot be saved .*the one before it is whole"):
        save_checkpoint(path, some_checkpoint(2.0))
    assert float(load_checkpoint(path).state["x"][0]) == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]  # nothing half written is left
    save_checkpoint(path, some_checkpoint(2.0))
    assert float(load_checkpoint(path).state["x"][0]) == 2.0


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, some_checkpoint(1.0))
    content = path.read_bytes()
    for damaged in (b"", b"text", content[:1000], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is no checkpoint"):
            load_checkpoint(path)
    torch.save({"format": 99}, path)
    with pytest.raises(CheckpointError, match="no Latentwire checkpoint of format 1"):
        load_checkpoint(path)
    torch.save({"format": 1, "method": "ce"}, path)
    with pytest.raises(CheckpointError, match="lacks 'config'"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "missing.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)


class _Runs:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.target,)


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": 1, "state": _Runs(str(tmp_path / "made"))}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "made").exists()


def test_weights_of_another_pair_are_refused(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(run_train_ce(settings(tmp_path / "run", epochs=1)))
    other = replace(checkpoint, pair={**checkpoint.pair, "d": 7})
    with pytest.raises(CheckpointError, match="weights fit no pair of this program"):
        load_pair(other)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch": 1},
        {"peak_rate": 0.0},
        {"peak_rate": float("nan")},
        {"warmup": 1.0},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"label_smoothing": 1.0},
        {"head_weight": float("nan")},
        {"crop": -1},
        {"validation": 0.6},
        {"seed": -1},
        {"precision": "fp8"},
        {"size": (0, 4)},
        {"threads": 0},
    ],
)
def test_settings_out_of_range(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must"):
        settings(tmp_path, **change)


def test_unknown_data_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown data set"):
        run_train_ce(settings(tmp_path / "run", data="letters"))
    assert not (tmp_path / "run").exists()


def test_an_unknown_device_and_an_out_that_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no device 'abacus' here .*give --device cpu"):
        run_train_ce(settings(tmp_path / "run", device="abacus"))
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be made .*give another --out"):
        run_train_ce(settings(tmp_path / "file"))


def test_a_terminal_gets_a_bar_and_a_file_plain_lines(tmp_path: Path) -> None:
    row = {"epoch": 1.0, "train_loss": 1.5, "seconds": 2.0}
    shown = {}
    for terminal in (True, False):
        text = io.StringIO()
        console = Console(file=text, force_terminal=terminal, width=200)
        with Progress("ce digits", 3, 10, tmp_path / "log.csv", console) as progress:
            progress.step(0, 5, 2.25)
            progress.epoch(row, [row])
        shown[terminal] = text.getvalue()
    assert "\x1b" not in shown[False]
    assert shown[False].strip() == "epoch 1/3  train_loss 1.5  seconds 2"
    assert "\x1b" in shown[True]
    assert (tmp_path / "log.csv").read_text().splitlines() == ["epoch,train_loss,seconds", "1,1.5,2"]


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    row = {"epoch": 1.0, "train_loss": 1.5}
    progress = Progress("ce", 3, 10, tmp_path / "gone" / "log.csv", Console(file=io.StringIO()))
    with pytest.raises(TrainingError, match=r"the log .* cannot be written"):
        progress.epoch(row, [row])


def test_a_folder_of_larger_images_is_trained_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("circles", "squares", "waves"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    config = settings(tmp_path / "run", data=f"folder:{tmp_path / 'photos'}", epochs=1, validation=0.2)
    checkpoint = load_checkpoint(run_train_ce(config))
    assert checkpoint.classes == ("circles", "squares", "waves")
    assert checkpoint.pair["image"] == [64, 64, 3]
    assert "validation_accuracy" in checkpoint.history[0]


def test_a_pair_is_trained_on_odd_images_and_few_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int64) % 2
    noise = rng.integers(0, 100, (40, 21, 13, 3))
    images = (noise + 150 * labels[:, None, None, None]).astype(np.uint8)
    data = Dataset("made", images, labels, ("dark", "light"))
    config = settings(tmp_path, epochs=10, batch=16)
    trainer = make_trainer(config, tmp_path / "checkpoint.pt", data, data, plain)
    trainer.run(Progress("test", 10, 2, tmp_path / "log.csv", Console(file=io.StringIO())))
    assert trainer.pair.config.image == (21, 13, 3)
    assert trainer.pair.config.classes == 2
    assert load_checkpoint(tmp_path / "checkpoint.pt").classes == ("dark", "light")
    assert trainer.history[-1]["train_accuracy"] > 0.8
