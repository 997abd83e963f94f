"""training.parallel and devices: two processes walk as one does, and one's checkpoint is the other's."""

import io
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from latentwire.errors import StoppedError, TrainingError
from training.ce import CETrainingConfig, run_train_ce
from training.checkpoint import load_checkpoint
from training.devices import on_devices
from training.duphil import LDRTrainingConfig, run_train_ldr
from training.models import PairConfig
from training.parallel import processes, rank, share
from training.progress import Progress
from training.rate import RateTrainingConfig, run_train_rate

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = PairConfig(width=2, hidden=16, d=4, grid=2, decoder_width=2)


def settings(out: Path, **changes: Any) -> CETrainingConfig:
    values = {"pair": TINY, "epochs": 1, "batch": 400, "peak_rate": 0.05, "threads": 1, "precision": "fp32"}
    return CETrainingConfig("digits", out, **{**values, **changes})


def ldr(source: Path, out: Path) -> LDRTrainingConfig:
    return LDRTrainingConfig(
        source, out, epochs=(1, 1, 1), batch=400, finetune_batch=400, self_images=6, self_views=8, noise=1.0,
        ldr_weight=0.5, threads=1, precision="fp32",
    )  # fmt: skip


class Asks(Progress):
    """Has process 0 ask for a stop after 16 steps, of the process that waits or of itself, and await its coming."""

    def __init__(self, out: Path, to: int) -> None:
        super().__init__("test", 1, 17, out / "log.csv", Console(file=io.StringIO()))
        self._to = to

    def step(self, epoch: int, step: int, loss: float) -> None:
        if rank() == 0:
            ours, came = signal.getsignal(signal.SIGTERM), threading.Event()
            assert callable(ours)
            signal.signal(signal.SIGTERM, lambda number, frame: (came.set(), ours(number, frame)))
            os.kill(self._to, signal.SIGTERM)
            assert came.wait(60)


@contextmanager
def in_float64() -> Iterator[None]:
    """In float32 a step's rounding moves the next steps' ReLUs, and what is compared is mostly that."""
    single = Tensor.float
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        Tensor.float = single  # type: ignore[method-assign]


def every_training(out: Path, source: Path) -> tuple[int, str]:
    """Trains by every loss, and one run stopped by process 0 and gone on with; how many processes, and a refusal."""
    with in_float64():
        every_loss(out, source)
    run_train_ce(settings(out / "long", batch=80))
    broken = settings(out / "broken", batch=80)
    if processes() > 1:
        with pytest.raises(StoppedError, match="stopped in epoch 1 of 1, step 16 of 17"):
            run_train_ce(broken, Asks(broken.out, os.getpid()))
        run_train_ce(replace(broken, resume=True))
    try:
        share(torch.zeros(5, 2))
    except TrainingError as error:
        return processes(), str(error)
    return processes(), ""


def every_loss(out: Path, source: Path) -> None:
    run_train_ce(settings(out / "ce"))
    run_train_ldr(ldr(source, out / "ldr"))
    run_train_rate(RateTrainingConfig("digits", out / "rate", pair=TINY, epochs=1, batch=400, peak_rate=0.05,
                                      threads=1, precision="fp32", rate_weight=0.1))  # fmt: skip


def ask_parent_to_stop(config: CETrainingConfig) -> Path:
    return run_train_ce(config, Asks(config.out, os.getppid()))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair to start the steps from; also taken further by the other number of processes."""
    return run_train_ce(settings(tmp_path_factory.mktemp("source"), batch=64))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    out = tmp_path_factory.mktemp("together")
    count, refusal = on_devices(2, "cpu", every_training, out, source)
    assert count == 2
    assert "a batch of 5 images cannot be shared evenly by 2 devices" in refusal
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    out = tmp_path_factory.mktemp("alone")
    assert on_devices(1, "cpu", every_training, out, source) == (1, "")
    return out


@pytest.mark.parametrize(
    "run", ["ce/checkpoint.pt", "ldr/step1.pt", "ldr/step2.pt", "ldr/checkpoint.pt", "rate/checkpoint.pt"]
)
def test_two_processes_give_what_one_gives_on_the_whole_batch(run: str, together: Path, alone: Path) -> None:
    ours, theirs = load_checkpoint(together / run), load_checkpoint(alone / run)
    for part in ("pair", *(["side"] if "side" in ours.state else [])):
        torch.testing.assert_close(ours.state[part], theirs.state[part], rtol=1e-8, atol=1e-10)
    assert ours.history[-1].keys() == theirs.history[-1].keys()
    for name, value in ours.history[-1].items():
        if name.endswith("_loss"):
            assert value == pytest.approx(theirs.history[-1][name], rel=1e-9), name
    for name in ("generator", "torch"):
        assert torch.equal(ours.state[name], theirs.state[name]), name


def test_processes_stop_together_and_go_on_bit_for_bit(together: Path) -> None:
    ours, theirs = (load_checkpoint(together / run / "checkpoint.pt").state for run in ("broken", "long"))
    assert [name for name in ours["pair"] if not torch.equal(ours["pair"][name], theirs["pair"][name])] == []
    assert torch.equal(ours["sums"], theirs["sums"])
    assert len((together / "broken" / "log.csv").read_text().splitlines()) == 2


def test_ctrl_c_where_all_are_waited_for_stops_them_and_one_process_goes_on(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    config = settings(tmp_path / "run", batch=80)
    with pytest.raises(StoppedError, match=r"stopped in epoch 1 of 1, step 16 of 17, .*--resume"):
        on_devices(2, "cpu", ask_parent_to_stop, config)
    assert signal.getsignal(signal.SIGTERM) is before
    checkpoint = load_checkpoint(run_train_ce(replace(config, resume=True)))
    assert checkpoint.epoch == 1
    assert 0 < checkpoint.history[0]["train_accuracy"] <= 1


def ask_parent_at_once() -> None:
    if rank() == 0:
        os.kill(os.getppid(), signal.SIGTERM)
    threading.Event().wait(60)


def test_a_signal_before_training_begins_is_a_stop_too() -> None:
    with pytest.raises(StoppedError, match="stopped before training had begun"):
        on_devices(2, "cpu", ask_parent_at_once)


def test_devices_that_are_not_there() -> None:
    with pytest.raises(TrainingError, match="one or more of cpu or cuda, not 2 of 'abacus'"):
        on_devices(2, "abacus", print)
    with pytest.raises(TrainingError, match="devices must be one or more"):
        on_devices(0, "cpu", print)
    with pytest.raises(TrainingError, match="99 GPUs were asked for"):
        on_devices(99, "cuda", print)


def test_one_process_gets_back_what_it_gave() -> None:
    rows = torch.zeros(3, 2)
    assert share(rows) is rows
    assert (processes(), rank()) == (1, 0)
