"""training.duphil and rate: who learns when, nothing of the side branch outside training, resumption bit for bit."""

import io
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from latentwire.errors import CheckpointError, TrainingError
from training.ce import CETrainingConfig, run_train_ce
from training.checkpoint import load_checkpoint, save_checkpoint
from training.duphil import LDRTrainingConfig, classifiers, noisy, run_train_ldr, source_data, step_trainer, trunk
from training.loop import Trainer
from training.models import PairConfig
from training.onnx_export import export_onnx
from training.progress import Progress
from training.rate import RateTrainingConfig, gaussian_bits, run_train_rate

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = PairConfig(width=2, hidden=16, d=4, grid=2, decoder_width=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ce")
    return run_train_ce(CETrainingConfig("digits", out, pair=TINY, epochs=1, batch=64, peak_rate=0.1, threads=1))


def settings(source: Path, out: Path, **changes: Any) -> LDRTrainingConfig:
    values = {"epochs": (1, 1, 1), "batch": 80, "finetune_batch": 80, "self_images": 6, "self_views": 8, "threads": 1}
    return LDRTrainingConfig(source, out, **{**values, **changes})


def quiet(out: Path) -> Progress:
    return Progress("test", 1, 1, out / "log.csv", Console(file=io.StringIO()))


def begin(config: LDRTrainingConfig, step: int) -> Trainer:
    assert isinstance(config.source, Path)
    start = load_checkpoint(config.source)
    return step_trainer(config, step, start, config.out / "c.pt", *source_data(start, config.source, None))


def copies(modules: tuple[nn.Module, ...]) -> list[Tensor]:
    return [value.clone() for module in modules for value in module.state_dict().values()]


def same(before: list[Tensor], modules: tuple[nn.Module, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, copies(modules), strict=True))


@pytest.mark.parametrize("step", [1, 2])
def test_what_is_frozen_stays_the_same_bits_across_its_phase(source: Path, tmp_path: Path, step: int) -> None:
    trainer = begin(settings(source, tmp_path, alternate="phase", noise=1.0), step)
    assert trainer.side is not None
    learning = {"encoder": (*trunk(trainer.pair), trainer.side), "decoder": classifiers(trainer.pair)}
    trainer.walk = replace(trainer.walk, epochs=1)  # the encoder's phase
    before = {name: copies(modules) for name, modules in learning.items()}
    trainer.run(quiet(tmp_path))
    assert same(before["decoder"], learning["decoder"])
    assert not same(before["encoder"], learning["encoder"])
    trainer.walk = replace(trainer.walk, epochs=2)  # the decoder's
    before = {name: copies(modules) for name, modules in learning.items()}
    trainer.run(quiet(tmp_path))
    assert same(before["encoder"], learning["encoder"])
    assert not same(before["decoder"], learning["decoder"])
    assert list(trainer.history[0]) != list(trainer.history[1])
    assert (tmp_path / "log.csv").read_text().startswith("epoch,learning_rate,encoder_loss,")


@pytest.mark.parametrize("step", [1, 2])
def test_taking_turns_every_batch_freezes_too(source: Path, tmp_path: Path, step: int) -> None:
    trainer = begin(settings(source, tmp_path), step)
    assert trainer.side is not None
    parts = {"encoder": (*trunk(trainer.pair), trainer.side), "decoder": classifiers(trainer.pair)}
    seen: list[tuple[str, bool, bool]] = []
    for learner in trainer.learners:
        frozen = parts["decoder" if learner.name == "encoder" else "encoder"]
        state: dict[str, list[Tensor]] = {}

        def note(*_: Any, frozen: Any = frozen, state: Any = state, own: Any = learner.modules) -> None:
            state.update(frozen=copies(frozen), own=copies(own))

        def check(*_: Any, frozen: Any = frozen, state: Any = state, learner: Any = learner) -> None:
            seen.append((learner.name, same(state["frozen"], frozen), same(state["own"], learner.modules)))

        # batch statistics move in the forward pass, so a turn is looked at from its first layer on
        learner.optimizer.register_step_post_hook(check)
        trainer.pair.encoder.stem.register_forward_pre_hook(note)
    trainer.run(quiet(tmp_path))
    assert {name for name, _, _ in seen} == {"encoder", "decoder"}
    assert all(kept and not own for _, kept, own in seen)


def test_three_steps_leave_no_trace_of_the_side_branch(source: Path, tmp_path: Path) -> None:
    path = run_train_ldr(settings(source, tmp_path / "run"))
    checkpoint, start = load_checkpoint(path), load_checkpoint(source)
    assert checkpoint.method == "ldr"
    assert checkpoint.state["pair"].keys() == start.state["pair"].keys()
    assert set(checkpoint.state["side"]) & set(checkpoint.state["pair"]) == set()
    assert {entry.name for entry in path.parent.iterdir()} == {
        "checkpoint.pt", "log.csv", "step1.csv", "step1.pt", "step2.csv", "step2.pt",
    }  # fmt: skip
    assert checkpoint.config["epochs_before"] == 3  # CE-T's one, steps 1 and 2
    without = replace(checkpoint, state={"pair": checkpoint.state["pair"]})
    save_checkpoint(tmp_path / "without.pt", without)
    files = [export_onnx(p, p.parent / "onnx") for p in (path, tmp_path / "without.pt")]
    assert files[0].encoder.read_bytes() == files[1].encoder.read_bytes()
    assert files[0].decoder.read_bytes() == files[1].decoder.read_bytes()
    for content in (files[0].encoder.read_bytes(), files[0].decoder.read_bytes()):
        assert b"side" not in content


class Stops(Progress):
    """Asks this process to stop in the middle of a step's first epoch."""

    def __init__(self, out: Path) -> None:
        super().__init__("test", 1, 1, out / "stopped.csv", Console(file=io.StringIO()))

    def step(self, epoch: int, step: int, loss: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_a_run_stopped_in_any_step_goes_on_bit_for_bit(source: Path, tmp_path: Path, stopped: int) -> None:
    changes = {"batch": 40, "finetune_batch": 40, "noise": 1.0}
    whole = run_train_ldr(settings(source, tmp_path / "whole", **changes))
    broken = settings(source, tmp_path / "broken", **changes)
    (tmp_path / "broken").mkdir()
    with pytest.raises(TrainingError, match=r"stopped in epoch 1 of 1, step 16 .*--resume"):
        run_train_ldr(broken, lambda step: (Stops if step == stopped else quiet)(tmp_path / "broken"))
    torch.manual_seed(77)
    resumed = run_train_ldr(replace(broken, resume=True))
    ours, theirs = load_checkpoint(resumed).state, load_checkpoint(whole).state
    for part in ("pair", "side"):
        assert [name for name in theirs[part] if not torch.equal(ours[part][name], theirs[part][name])] == []
    again = run_train_ldr(replace(broken, resume=True))  # nothing is left to do
    assert torch.equal(load_checkpoint(again).state["generator"], ours["generator"])


def test_a_step_of_other_settings_or_another_source_is_refused(source: Path, tmp_path: Path) -> None:
    config = settings(source, tmp_path / "run", steps=(1,))
    path = run_train_ldr(config)
    assert load_checkpoint(path).method == "duphil"
    with pytest.raises(CheckpointError, match="is there already: add --resume"):
        run_train_ldr(config)
    with pytest.raises(CheckpointError, match=r"eps2 is 0\.5 there and 0\.1 here"):
        run_train_ldr(replace(config, resume=True, eps2=0.1))
    start = load_checkpoint(source)
    start.state["pair"]["encoder.stem.0.weight"] += 1
    save_checkpoint(tmp_path / "other.pt", start)
    with pytest.raises(CheckpointError, match=r"source is '\w+' there and '\w+' here"):
        run_train_ldr(replace(config, source=tmp_path / "other.pt", resume=True))


def test_the_split_is_the_sources_whatever_the_seed(source: Path, tmp_path: Path) -> None:
    path = run_train_ldr(settings(source, tmp_path, steps=(3,), seed=5))
    checkpoint = load_checkpoint(path)
    assert (checkpoint.config["seed"], checkpoint.config["split_seed"]) == (5, 0)
    ours, theirs = (source_data(load_checkpoint(p), p, None)[1] for p in (path, source))
    assert (ours.images == theirs.images).all()


def test_the_ldr_term_makes_classes_compact(source: Path, tmp_path: Path) -> None:
    path = run_train_ldr(settings(source, tmp_path, steps=(1,), epochs=(4, 1, 1), rate=3e-3, precision="fp32"))
    losses = [row["encoder_loss"] for row in load_checkpoint(path).history]
    assert losses[-1] < losses[0] - 0.05


def test_noise_is_as_wide_as_told() -> None:
    latent = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 0.1])
    assert noisy(latent, 0.0) is latent
    torch.manual_seed(0)
    relative = (noisy(latent, 2.0) - latent) / latent.std(0)
    assert relative.abs().max() <= 1.0
    # uniform of width q, q uniform in 0..2: variance E[q^2] / 12 = (4 / 3) / 12
    torch.testing.assert_close(relative.var(0), torch.full((3,), 1 / 9), rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": ()}, "steps must"),
        ({"steps": (2, 1)}, "steps must"),
        ({"steps": (4,)}, "steps must"),
        ({"epochs": (1, 0, 1)}, "epochs must"),
        ({"alternate": "never"}, "alternate must"),
        ({"batch": 1}, "batch must"),
        ({"rate": 0.0}, "rate must"),
        ({"eps2": float("nan")}, "eps2 must"),
        ({"noise": -1.0}, "noise must"),
        ({"self_views": 1}, "self_views must"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, tmp_path, **change)


def test_bits_are_a_normals() -> None:
    sigma, torch_generator = 20.0, torch.Generator().manual_seed(0)
    wide = torch.randn(20_000, 2, generator=torch_generator) * sigma
    wanted = 2 * 0.5 * math.log2(2 * math.pi * math.e * sigma**2)  # of a bin's width 1, fine beside sigma
    assert abs(float(gaussian_bits(wide)) - wanted) < 0.02
    assert float(gaussian_bits(torch.full((8, 3), 7.25))) < 1e-4  # an entry that stands still costs nothing
    moving = torch.randn(50, 4, generator=torch_generator).requires_grad_()
    gaussian_bits(moving).backward()
    assert moving.grad is not None
    assert torch.isfinite(moving.grad).all()


def test_a_weight_on_bits_makes_latents_smaller(tmp_path: Path) -> None:
    spread = []
    for weight in (1e-6, 0.3):
        config = RateTrainingConfig(
            "digits", tmp_path / str(weight), pair=TINY, epochs=2, batch=64, peak_rate=0.05, threads=1,
            rate_weight=weight,
        )  # fmt: skip
        checkpoint = load_checkpoint(run_train_rate(config))
        assert (checkpoint.method, checkpoint.config["rate_weight"]) == ("rate", weight)
        weights = checkpoint.state["pair"]["encoder.bottleneck.4.weight"]
        spread.append(float(weights.norm()))
    assert spread[1] < 0.7 * spread[0]
    with pytest.raises(ValueError, match="rate_weight must"):
        RateTrainingConfig("digits", tmp_path, rate_weight=0.0)


def test_rounding_is_the_quantizers_and_lets_the_gradient_through() -> None:
    torch.manual_seed(0)
    latent = torch.randn(4000, 3).requires_grad_()
    rounded = noisy(latent, 4.0, "round")
    width = 2 * (rounded - latent).abs().amax(1) / latent.std(0, correction=0).max()  # of an image's bins, at least
    assert 2 < width.max() <= 4
    assert 0.05 < (rounded == 0).float().mean() < 0.95
    rounded.sum().backward()
    assert torch.equal(latent.grad, torch.ones_like(latent))  # type: ignore[arg-type]
