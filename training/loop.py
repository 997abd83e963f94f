"""The training loop that every step shares: batches, schedule, checkpoints, log, interruption.

What a step minimises is a function of the pair and a batch; here is only how the steps are walked. One walk of
(seed, configuration) gives the same bits on the CPU whether it is interrupted or not: the order of an epoch's images
follows from seed and epoch, and all else that is random comes from states that the checkpoint carries. Where several
processes train together (``training.parallel``) each walks the same steps with its share of every batch.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from latentwire.datasets import Dataset
from latentwire.errors import StoppedError, TrainingError
from training.augment import random_crop_flip, reflect_pad
from training.checkpoint import Checkpoint, save_checkpoint
from training.models import Pair
from training.parallel import (
    add_up,
    any_process,
    average_gradients,
    join_batch_norms,
    processes,
    rank,
    share,
    wait_for_all,
)
from training.progress import Progress, StopSignal
from training.views import SelfLabels, self_labelled

CHECK_EVERY = 16  # steps between looks at the loss: each look waits for a GPU


class StepLoss(NamedTuple):
    """One batch's ``loss`` (a scalar to minimise), and the ``logits`` (B, K) that its accuracy is counted on, None
    where no answers were asked for.
    """

    loss: Tensor
    logits: Tensor | None


LossFunction = Callable[[Pair, Tensor, Tensor], StepLoss]
# (epoch, numbers (B,) of images, generator of all that is random) -> what the loss gets in place of images, and labels
Inputs = Callable[[int, Tensor, torch.Generator], tuple[Tensor, Tensor]]


WHOLE = "train"  # the learner's name where all learns at once


@dataclass(frozen=True, slots=True)
class Learner:
    """A part that takes a step of its own on every batch.

    ``name`` names it in the log. Only ``modules`` learn: all others' parameters and batch statistics stay as they are
    while it takes its step. ``self_labels`` makes its batches of views of few images, labelled by the image they are
    of; ``inputs`` of something else than images. ``epochs`` (first, end) is when it learns, None for always.
    """

    name: str
    modules: tuple[nn.Module, ...]
    loss: LossFunction
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    self_labels: SelfLabels | None = None
    epochs: tuple[int, int] | None = None
    inputs: Inputs | None = None

    def state_name(self, part: str) -> str:
        """What its ``part`` (optimizer, scheduler) is called in a checkpoint."""
        return part if self.name == WHOLE else f"{self.name} {part}"


@dataclass(frozen=True, slots=True)
class Walk:
    """How an epoch is walked: ``epochs``, images a ``batch``, ``crop`` pixels of mirrored border to crop from,
    mirror images (``flip``), ``seed``, and the ``precision`` of matrix products.
    """

    epochs: int
    batch: int
    crop: int
    flip: bool
    seed: int
    precision: Literal["bf16", "fp32"]


class Trainer:
    """A run under way: the pair, who learns, and how far it is.

    ``method`` and ``config`` name the run in its checkpoint at ``path``; ``train`` and ``validation`` are the data
    (``validation`` may be empty). ``side`` learns beside the pair and is kept apart from it. ``measure`` gives an
    epoch's figures, None for the pair's accuracy on ``validation``. The modules must be on their device already.
    """

    def __init__(
        self,
        method: str,
        config: dict[str, Any],
        path: Path,
        walk: Walk,
        pair: Pair,
        learners: Sequence[Learner],
        train: Dataset,
        validation: Dataset,
        side: nn.Module | None = None,
        measure: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        self.method, self.config, self.path, self.walk = method, config, path, walk
        self.pair, self.side, self.learners = pair, side, tuple(learners)
        self.classes = train.classes
        self.device = next(pair.parameters()).device
        self.size = (train.images.shape[1], train.images.shape[2])
        self.padded = reflect_pad(torch.from_numpy(train.images).to(self.device), walk.crop)
        self.labels = torch.from_numpy(train.labels).to(self.device)
        self.measure = measure or (lambda: accuracy(pair, validation, "validation"))
        self.batch = min(walk.batch, len(train))
        self.steps_per_epoch = len(train) // self.batch
        self.generator = torch.Generator().manual_seed(walk.seed)
        self.epoch, self.step = 0, 0
        # each learner's sum of the losses, and of right answers; what all processes' add up to
        self.sums = torch.zeros(len(self.learners), 2, device=self.device, dtype=torch.float64)
        self.counted = [False] * len(self.learners)  # whose answers are counted
        self.history: list[dict[str, float]] = []
        for module in self._modules():
            join_batch_norms(module)

    def run(self, progress: Progress) -> None:
        """Walk from where the run is to its end, saving after every epoch.

        Raises TrainingError when the loss is no number or memory runs out, StoppedError when a signal asked to stop
        (after saving), CheckpointError when a checkpoint cannot be saved.
        """
        with StopSignal() as stop, progress:
            while self.epoch < self.walk.epochs:
                started = time.monotonic()
                for picks in self._batches():
                    if self._must_stop(stop):
                        self._save_and_stop()
                    with _memory_errors():
                        self._take_steps(picks)
                    if self.step % CHECK_EVERY == 0:
                        sums = self._checked_sums()
                        progress.step(self.epoch, self.step, float(sums[:, 0].sum()) / self.step)
                with _memory_errors():
                    self._end_epoch(time.monotonic() - started, progress)
                self.save()
        learn_only(self._modules(), self._modules())

    def _batches(self) -> Iterator[Tensor]:
        """The rest of the epoch's batches: indices (B,), of an order that follows from seed and epoch."""
        order = np.random.default_rng((self.walk.seed, self.epoch)).permutation(len(self.labels))
        shuffled = torch.from_numpy(order)
        for step in range(self.step, self.steps_per_epoch):
            yield shuffled[step * self.batch : (step + 1) * self.batch]

    def _must_stop(self, stop: StopSignal) -> bool:
        """Whether a signal came; several processes ask one another now and then, and stop after the same step."""
        if processes() == 1:
            return stop.requested
        return self.step % CHECK_EVERY == 0 and any_process(stop.requested, self.device)

    def _active(self) -> list[int]:
        """The numbers of those who learn in this epoch."""
        spans = [learner.epochs or (0, self.walk.epochs) for learner in self.learners]
        return [number for number, (first, end) in enumerate(spans) if first <= self.epoch < end]

    def _modules(self) -> tuple[nn.Module, ...]:
        return (self.pair,) if self.side is None else (self.pair, self.side)

    def _take_steps(self, picks: Tensor) -> None:
        for number in self._active():
            learner = self.learners[number]
            learn_only(self._modules(), learner.modules)
            images, labels = map(share, self._inputs(learner, picks))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.walk.precision == "bf16"):
                loss, logits = learner.loss(self.pair, images, labels)
            learner.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            average_gradients(p for group in learner.optimizer.param_groups for p in group["params"])
            learner.optimizer.step()
            learner.scheduler.step()
            self.sums[number, 0] += loss.detach() / processes()
            self.counted[number] = logits is not None
            if logits is not None:
                self.sums[number, 1] += (logits.detach().argmax(1) == labels).sum()
        self.step += 1

    def _inputs(self, learner: Learner, picks: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images (B, H, W, C) and their labels (B,): crops of ``picks``, or views of the first few of them; or
        the learner's own inputs."""
        if learner.inputs is not None:
            return learner.inputs(self.epoch, picks, self.generator)
        self_labels = learner.self_labels
        if self_labels is None:
            images = random_crop_flip(self.padded, picks, self.size, self.walk.flip, self.generator)
            return images, self.labels[picks.to(self.device)]
        few = self.padded[picks[: self_labels.images].to(self.device)]
        (height, width), top, left = self.size, *((few.shape[i + 1] - self.size[i]) // 2 for i in (0, 1))
        whole = few[:, top : top + height, left : left + width]
        return self_labelled(whole, self_labels.views, self_labels.config, self.generator)

    def _checked_sums(self) -> Tensor:
        """All processes' sums; TrainingError if a loss was no number."""
        sums = add_up(self.sums)
        if not torch.isfinite(sums).all():
            raise TrainingError(
                f"the loss became NaN or infinite in epoch {self.epoch + 1}: lower the learning rate "
                f"(--peak-rate, --rate), or train in fp32; the last checkpoint is from before"
            )
        return sums

    def _end_epoch(self, seconds: float, progress: Progress) -> None:
        sums = self._checked_sums()
        active = self._active()
        row = {
            "epoch": float(self.epoch + 1),
            "learning_rate": float(self.learners[active[-1]].scheduler.get_last_lr()[0]),
        }
        for number in active:
            name, (loss, right) = self.learners[number].name, sums[number].tolist()
            row[f"{name}_loss"] = loss / self.steps_per_epoch
            if self.counted[number]:
                row[f"{name}_accuracy"] = right / (self.steps_per_epoch * self.batch)
        row |= {**self.measure(), "seconds": round(seconds, 3)}
        self.history.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.sums.zero_()
        progress.epoch(row, self.history)

    def _save_and_stop(self) -> None:
        self._checked_sums()
        self.save()
        raise StoppedError(
            f"stopped in epoch {self.epoch + 1} of {self.walk.epochs}, step {self.step} of {self.steps_per_epoch}, "
            f"and saved as {self.path}: the same command with --resume goes on from there"
        )

    def save(self) -> None:
        """Write the checkpoint, once for all processes; CheckpointError if it cannot be written."""
        sums = add_up(self.sums)
        if rank() == 0:
            self._write(sums)
        wait_for_all()

    def _write(self, sums: Tensor) -> None:
        state: dict[str, Any] = {
            "pair": self.pair.state_dict(),
            "generator": self.generator.get_state(),
            "torch": torch.get_rng_state(),
            "sums": sums.cpu(),
        }
        for learner in self.learners:
            state[learner.state_name("optimizer")] = learner.optimizer.state_dict()
            state[learner.state_name("scheduler")] = learner.scheduler.state_dict()
        if self.side is not None:
            state["side"] = self.side.state_dict()
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        pair = self.pair.config.to_dict()
        checkpoint = Checkpoint(
            self.method, self.config, pair, self.classes, self.epoch, self.step, state, self.history
        )
        save_checkpoint(self.path, checkpoint)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this very run (``check_same_run`` first)."""
        state = checkpoint.state
        self.pair.load_state_dict(state["pair"])
        if self.side is not None:
            self.side.load_state_dict(state["side"])
        for learner in self.learners:
            learner.optimizer.load_state_dict(state[learner.state_name("optimizer")])
            learner.scheduler.load_state_dict(state[learner.state_name("scheduler")])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)
        sums = state["sums"].to(self.device).reshape(len(self.learners), 2)
        self.sums = sums if rank() == 0 else torch.zeros_like(sums)
        self.epoch, self.step, self.history = checkpoint.epoch, checkpoint.step, checkpoint.history


def learn_only(modules: Iterable[nn.Module], learning: Iterable[nn.Module]) -> None:
    """Freeze ``modules``, parameters and batch statistics, but for those (or those parts of them) that learn."""
    for module in modules:
        module.eval().requires_grad_(False)
    for module in learning:
        module.train().requires_grad_(True)


def accuracy(pair: Pair, dataset: Dataset, name: str, batch: int = 512) -> dict[str, float]:
    """The decoder's and, where there is one, the head's share of right answers (0..1), in float32 and without
    augmentation: ``{name}_accuracy`` and ``{name}_head_accuracy``. Nothing for an empty set.
    """
    if not len(dataset):
        return {}
    device = next(pair.parameters()).device
    right = {f"{name}_accuracy": 0}
    pair.eval()
    with torch.inference_mode():
        for start in range(0, len(dataset), batch):
            labels = torch.from_numpy(dataset.labels[start : start + batch]).to(device)
            logits, encoded = pair(torch.from_numpy(dataset.images[start : start + batch]).to(device))
            answers = {f"{name}_accuracy": logits, f"{name}_head_accuracy": encoded.head_logits}
            for key, scores in answers.items():
                if scores is not None:
                    right[key] = right.get(key, 0) + int((scores.argmax(1) == labels).sum())
    return {key: count / len(dataset) for key, count in right.items()}


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Say in a line what to do when memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text:
            raise TrainingError("out of memory: give a smaller --batch, a smaller --width, or --device cpu") from error
        raise
