"""training.full_size, stages, thin, budget: stopped anywhere and gone on with, the same pairs and records come out."""

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from latentwire.bundle import load_bundle
from latentwire.cli import app
from latentwire.errors import CheckpointError, StoppedError
from training import full_size, stages
from training.budget import Budget
from training.ce import CETrainingConfig, make_trainer, run_train_ce, training_data
from training.checkpoint import load_checkpoint, save_checkpoint
from training.full_size import Status, run_full_size
from training.loop import StepLoss, accuracy
from training.models import PairConfig
from training.onnx_export import load_pair
from training.progress import Progress
from training.records import Record, load_records
from training.stages import FullSizeConfig, Stage, plan, smoke_config
from training.thin import pack, thin, without_averages

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINED = (
    "ce", "ldr-1", "ldr-2", "ldr", "duphil", "ce-long", "ldr-cut", "ldr-cut-ce", "ce-long-cut", "ce-long-cut-ce",
    "ldr-cut-ldr-1", "ldr-cut-ldr-2", "ldr-cut-ldr",
)  # fmt: skip


def small(out: Path, **changes: Any) -> FullSizeConfig:
    return replace(smoke_config(FullSizeConfig("digits", out, threads=1)), epochs=2, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All trainings, in one call."""
    out = tmp_path_factory.mktemp("whole")
    with evaluating():
        assert run_full_size(small(out)).left == ()
    return out


@pytest.fixture(scope="module")
def measured(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, gone on with: a bundle with its variant, measured."""
    out = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(whole, out)
    with evaluating("ce-long"):
        status = run_full_size(small(out))
    assert (len(status.done), status.left) == (len(TRAINED) + 4, ())
    return out


@contextmanager
def evaluating(*names: str, **variants: dict[str, str]) -> Iterator[None]:
    """Exporting takes most of a small run: few bundles stand for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "EVALUATED", names)
        if variants:
            patch.setattr(stages, "VARIANTS", variants)
        yield


class OneStage(Budget):
    """Over once it was asked a second time: after one stage."""

    asked = 0

    @property
    def left_minutes(self) -> float:
        self.asked += 1
        return 5.0 if self.asked == 1 else -1.0


def one_stage_a_call(config: FullSizeConfig) -> int:
    """Run to the end; how many calls left something."""
    calls, before = 0, -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(full_size, "Budget", OneStage)
        while (status := run_full_size(config)).left:
            assert before in (-1, len(status.done) - 1)
            written = json.loads((config.out / "status.json").read_text())
            assert (written["running"], tuple(written["left"])) == (None, status.left)
            calls, before = calls + 1, len(status.done)
    return calls


def test_a_call_a_stage_trains_what_one_call_trains(whole: Path, tmp_path: Path) -> None:
    with evaluating():
        assert one_stage_a_call(small(tmp_path / "run")) == len(TRAINED) - 1
    assert_same_pairs(tmp_path / "run", whole, TRAINED)


def test_a_call_a_stage_measures_what_one_call_measures(whole: Path, measured: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    with evaluating("ce-long", none={}):
        assert one_stage_a_call(small(tmp_path / "run")) == 1  # between exporting and measuring
    ours, theirs = (load_records(out / "records.json") for out in (tmp_path / "run", measured))
    assert {(row.method, row.variant) for row in theirs} == {("ce", "full"), ("ce", "cut_ce")}
    assert [comparable(row) for row in ours] == [comparable(row) for row in theirs if row.variant == "full"]


def comparable(record: Record) -> Record:
    return replace(record, machine="", commit="")


def assert_same_pairs(ours: Path, theirs: Path, names: tuple[str, ...]) -> None:
    for name in names:
        a, b = (load_checkpoint(out / "seed0" / name / "pair.pt") for out in (ours, theirs))
        assert a.config == b.config
        for key, value in b.state["pair"].items():
            assert torch.equal(a.state["pair"][key], value), (name, key)
        assert not (ours / "seed0" / name / "checkpoint.pt").exists()


def test_minutes_end_a_training_in_its_midst(whole: Path, tmp_path: Path) -> None:
    config, stopped, status = small(tmp_path / "run", minutes=0.01), 0, Status((), ())
    while len(status.done) < 3:
        status = run_full_size(config)
        stopped += any((config.out / "seed0").glob("*/checkpoint.pt"))
    assert stopped > 0
    assert_same_pairs(config.out, whole, TRAINED[:3])


def test_another_run_is_not_gone_on_with(whole: Path) -> None:
    with evaluating(), pytest.raises(CheckpointError, match=r"other settings \(steps\): give another --out"):
        run_full_size(small(whole, steps=(2, 1, 1)))
    with evaluating():
        assert run_full_size(small(whole, minutes=1.0)).left == ()


def test_what_is_trained_by_whom_for_how_long(whole: Path) -> None:
    epochs = {}
    for name in TRAINED:
        checkpoint = load_checkpoint(whole / "seed0" / name / "pair.pt")
        epochs[name] = checkpoint.epoch + checkpoint.config.get("epochs_before", 0)
        assert "optimizer" not in checkpoint.state
    assert epochs["ldr"] == epochs["duphil"] == epochs["ce-long"] == 5  # equal total training
    assert epochs["ldr-cut-ce"] == epochs["ldr-cut-ldr"] == epochs["ce-long-cut-ce"] == 8


def test_bundles_hold_the_cut_pairs(measured: Path) -> None:
    manifest = load_bundle(measured / "bundles" / "ce-long-seed0").manifest
    assert (manifest.variant("full").d, manifest.variant("cut_ce").d) == (6, 3)
    names = [stage.name for stage in plan(small(measured)) if not stage.interruptible]
    assert len(names) == 14  # four pairs and three cut ones, exported and measured
    assert names[-1] == "measure ldr-seed0, cut_ldr"


def test_what_cannot_be_interrupted_begins_in_time_or_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def stage(name: str) -> Stage:
        return Stage(name, lambda: name in ran, lambda: ran.append(name), interruptible=False)

    monkeypatch.setattr(full_size, "plan", lambda *_: [stage("a"), stage("b"), stage("c")])
    assert run_full_size(small(tmp_path / "run", minutes=3.0)).left == ("b", "c")
    assert run_full_size(small(tmp_path / "run", minutes=5.0)).left == ()


def test_ctrl_c_is_no_end_of_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> None:
        raise StoppedError("stopped and saved")

    monkeypatch.setattr(full_size, "plan", lambda *_: [Stage("one", lambda: False, stopped)])
    with pytest.raises(StoppedError):
        run_full_size(small(tmp_path / "run", minutes=1.0))
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_budget() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with Budget(0.002) as budget:
        assert not budget.over
        while not budget.over:
            time.sleep(0.01)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with Budget(None) as budget:
        assert budget.left_minutes == float("inf")


def test_thin_weights_answer_alike(tmp_path: Path) -> None:
    path = run_train_ce(CETrainingConfig("digits", tmp_path, pair=PairConfig(width=4, d=4), epochs=1, threads=1))
    saved = load_checkpoint(path)
    slim = thin(saved)
    save_checkpoint(tmp_path / "pair.pt", slim)
    assert (tmp_path / "pair.pt").stat().st_size < 0.4 * path.stat().st_size
    data = training_data(CETrainingConfig("digits", tmp_path))[0]
    a, b = (accuracy(load_pair(checkpoint), data, "x")["x_accuracy"] for checkpoint in (saved, slim))
    assert abs(a - b) < 0.005
    huge = replace(saved, state={"pair": {"w": torch.full((300,), 1e6)}})
    assert thin(huge).state["pair"]["w"].dtype == torch.float32


class Stops(Progress):
    """Asks for a stop once 16 steps of an epoch are done."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_packed_run_goes_on_elsewhere(tmp_path: Path) -> None:
    here = tmp_path / "here"
    config = CETrainingConfig("digits", here, pair=PairConfig(width=4, d=4), epochs=1, batch=80, threads=1)
    with pytest.raises(StoppedError):
        run_train_ce(config, Stops("test", 1, 17, here / "log.csv", Console(file=io.StringIO())))
    path = here / "checkpoint.pt"
    saved = load_checkpoint(path)
    (tmp_path / "here" / "bundles").mkdir()
    (tmp_path / "here" / "bundles" / "big").write_bytes(bytes(100))
    assert pack(tmp_path / "here", tmp_path / "box", ("bundles",)) == []
    there = unpack(tmp_path / "box", tmp_path / "there")
    assert there == {"checkpoint.pt"}
    assert (tmp_path / "there" / "checkpoint.pt").stat().st_size < 0.3 * path.stat().st_size
    resumed = load_checkpoint(run_train_ce(replace(config, out=tmp_path / "there", resume=True)))
    assert (saved.step, resumed.epoch, len(resumed.history)) == (16, 1, 1)
    assert without_averages(saved).state["optimizer"]["param_groups"] == saved.state["optimizer"]["param_groups"]
    assert unpack_names(tmp_path / "here", tmp_path / "again") == set()  # nothing changed since


def unpack(box: Path, out: Path) -> set[str]:
    whole = b"".join(part.read_bytes() for part in sorted(box.glob("run.tar.*")))
    out.mkdir(exist_ok=True)
    subprocess.run(["tar", "-x", "-C", out], input=whole, check=True, timeout=60)  # as docs/training.md has it
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        return set(archive.getnames())


def unpack_names(folder: Path, box: Path) -> set[str]:
    pack(folder, box, ("bundles",))
    return unpack(box, box / "out")


def test_what_does_not_fit_goes_next_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * 60_000)
        os.utime(folder / f"{number}.bin", (number, number))
    (folder / "small.txt").write_text("x")
    left = pack(folder, tmp_path / "one", part_bytes=40_960, parts=3)
    assert left == ["1.bin", "0.bin"]
    assert {path.stat().st_size <= 40_960 for path in (tmp_path / "one").iterdir()} == {True}
    assert len(list((tmp_path / "one").iterdir())) <= 3
    assert unpack(tmp_path / "one", tmp_path / "x") == {"small.txt", "2.bin"}
    assert pack(folder, tmp_path / "two", part_bytes=40_960, parts=3) == ["0.bin"]
    assert unpack(tmp_path / "two", tmp_path / "x") == {"1.bin"}
    assert (tmp_path / "x" / "1.bin").read_bytes() == bytes([1]) * 60_000


def test_the_public_schedule_falls_three_times(tmp_path: Path) -> None:
    config = CETrainingConfig("digits", tmp_path, epochs=10, peak_rate=0.1, schedule="steps", batch=342)
    trainer = make_trainer(config, tmp_path / "c", *training_data(config), lambda *_: StepLoss(torch.zeros(()), None))
    scheduler, rates = trainer.learners[0].scheduler, []
    for _ in range(10 * trainer.steps_per_epoch):
        rates.append(scheduler.get_last_lr()[0])
        trainer.learners[0].optimizer.step()
        scheduler.step()
    assert trainer.steps_per_epoch == 4
    assert [rates.index(pytest.approx(rate)) for rate in (0.1, 0.01, 0.001, 0.0001)] == [0, 20, 30, 36]
    assert "schedule" not in CETrainingConfig("digits", tmp_path).identity()
    with pytest.raises(ValueError, match="schedule must"):
        replace(config, schedule="never")  # type: ignore[arg-type]


def test_the_command(tmp_path: Path) -> None:
    arguments = ["train", "all", "--data", "digits", "--smoke", "--out", str(tmp_path / "run"), "--threads", "1"]
    done = CliRunner().invoke(app, [*arguments, "--minutes", "0.02", "--outbox", str(tmp_path / "box")])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "left: " in done.output
    assert "settings.json" in unpack(tmp_path / "box", tmp_path / "copy")
    for wrong in (["--seeds", "1,1"], ["--steps", "1,2"], ["--minutes", "0"], ["--steps", "1,0,1"]):
        assert CliRunner().invoke(app, [*arguments, *wrong]).exit_code == 2, wrong
