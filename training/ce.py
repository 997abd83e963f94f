"""CE-T: both halves trained end to end on cross-entropy, the paper's baseline and the start of its method."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from latentwire.datasets import Dataset
from latentwire.errors import CheckpointError, TrainingError
from training.checkpoint import check_same_run, load_checkpoint
from training.data import channel_statistics, flips_by_default, load_split, split_validation
from training.loop import WHOLE, Learner, LossFunction, StepLoss, Trainer, Walk
from training.models import Pair, PairConfig, make_pair
from training.progress import Progress

METHOD = "ce"
CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
FALLS = (0.5, 0.75, 0.9)  # shares of the steps after which the rate falls to a tenth
# what may differ between a run and its resumption
_NOT_THE_RUN = ("out", "root", "device", "threads", "resume")


@dataclass(frozen=True, slots=True)
class CETrainingConfig:
    """A CE-T run. The defaults are the recipe of docs/training.md: 24 epochs of SGD with Nesterov momentum and a
    one-cycle learning rate.

    ``data`` is cifar10, cifar100, digits or folder:PATH, read under ``root``; ``size`` is the (height, width) in
    pixels that a folder's images are resized to, None for the commonest one. ``out`` is the folder for the
    checkpoint and the log. ``pair``'s ``image`` and ``classes`` are replaced by the data's. ``validation`` is the
    share of the training set (0 to 0.5) kept out of training to measure on. ``crop`` is the border in pixels that
    random crops may reach into (None: an eighth of the shorter side); ``flip`` mirrors half the images (None: by the
    data set). ``schedule`` "one-cycle" reaches ``peak_rate`` after ``warmup``'s share of the steps and falls to
    nothing; "steps" begins there and falls to a tenth at 50, 75 and 90 % of them. ``head_weight``
    weighs the head's cross-entropy. ``threads`` is torch's on the CPU, None for its own choice. ``resume`` goes on
    from ``out``'s checkpoint. ValueError for a setting out of range.
    """

    data: str
    out: Path
    root: Path | None = None
    size: tuple[int, int] | None = None
    pair: PairConfig = field(default_factory=PairConfig)
    epochs: int = 24
    batch: int = 256
    peak_rate: float = 0.4
    warmup: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    head_weight: float = 0.3
    crop: int | None = None
    flip: bool | None = None
    validation: float = 0.05
    seed: int = 0
    precision: Literal["bf16", "fp32"] = "bf16"
    schedule: Literal["one-cycle", "steps"] = "one-cycle"
    device: str = "auto"
    threads: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        checks = {
            "epochs must be at least 1": self.epochs >= 1,
            "batch must be at least 2 (batch normalisation needs two images)": self.batch >= 2,
            "peak_rate must be above 0": 0 < self.peak_rate < float("inf"),
            "warmup must lie between 0 and 1": 0 < self.warmup < 1,
            "momentum must lie above 0 (Nesterov's needs it) and below 1": 0 < self.momentum < 1,
            "weight_decay must be at least 0": 0 <= self.weight_decay < float("inf"),
            "label_smoothing must be at least 0 and below 1": 0 <= self.label_smoothing < 1,
            "head_weight must be at least 0": 0 <= self.head_weight < float("inf"),
            "crop must be at least 0 pixels": self.crop is None or self.crop >= 0,
            "validation must be at least 0 and at most 0.5": 0 <= self.validation <= 0.5,
            "seed must be at least 0": self.seed >= 0,
            "precision must be bf16 or fp32": self.precision in ("bf16", "fp32"),
            "schedule must be one-cycle or steps": self.schedule in ("one-cycle", "steps"),
            "size must be at least 1 x 1 pixels": self.size is None or min(self.size) >= 1,
            "threads must be at least 1": self.threads is None or self.threads >= 1,
        }
        for rule, held in checks.items():
            if not held:
                raise ValueError(rule)

    def identity(self) -> dict[str, Any]:
        """What makes it this run and no other, as plain values."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_THE_RUN}
        if self.schedule == "one-cycle":
            del values["schedule"]  # checkpoints from before there was a choice do not name it
        return {**values, "size": list(self.size) if self.size else None}


def run_train_ce(config: CETrainingConfig, progress: Progress | None = None) -> Path:
    """Train a pair on cross-entropy and return its checkpoint, ``out``/checkpoint.pt; ``out``/log.csv is the log.

    Raises DataError when the data cannot be read, CheckpointError when ``out`` holds another run or the checkpoint
    cannot be saved, TrainingError when the loss is no number, memory runs out, or Ctrl-C stopped it (after saving).
    """

    def loss_function(pair: Pair, images: Tensor, labels: Tensor) -> StepLoss:
        return cross_entropy(pair, images, labels, config.label_smoothing, config.head_weight)

    return train_from_scratch(METHOD, config, loss_function, progress)


def train_from_scratch(
    method: str, config: CETrainingConfig, loss_function: LossFunction, progress: Progress | None = None
) -> Path:
    """Train a new pair end to end on ``loss_function``, by ``config``'s recipe; as ``run_train_ce``."""
    path = config.out / CHECKPOINT
    refuse_to_overwrite(path, config.resume)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    train, validation = training_data(config)
    trainer = make_trainer(config, path, train, validation, loss_function, method)
    return walk_to_the_end(trainer, config.out / LOG, f"{method} {config.data}", progress)


def walk_to_the_end(trainer: Trainer, log: Path, title: str, progress: Progress | None = None) -> Path:
    """Walk a run from its checkpoint, if it has one, to its end; the checkpoint's path."""
    path = trainer.path
    if path.exists():
        checkpoint = load_checkpoint(path)
        check_same_run(path, checkpoint, trainer.method, trainer.config)
        trainer.restore(checkpoint)
    _make_folder(path.parent)
    trainer.run(progress or Progress(title, trainer.walk.epochs, trainer.steps_per_epoch, log))
    return path


def refuse_to_overwrite(path: Path, resume: bool) -> None:
    """CheckpointError if a checkpoint is there already and was not asked to be gone on from."""
    if path.exists() and not resume:
        raise CheckpointError(f"{path} is there already: add --resume to go on, or give another --out")


def cross_entropy(pair: Pair, images: Tensor, labels: Tensor, smoothing: float, head_weight: float) -> StepLoss:
    """Cross-entropy of the decoder's answer, and ``head_weight`` times that of the head's where there is one.

    ``images`` uint8 (B, H, W, C), ``labels`` int64 (B,).
    """
    logits, encoded = pair(images)
    return answers_loss(logits, encoded.head_logits, labels, smoothing, head_weight)


def answers_loss(
    logits: Tensor, head_logits: Tensor | None, labels: Tensor, smoothing: float, head_weight: float
) -> StepLoss:
    """As ``cross_entropy``, of answers (B, K) given already."""
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    if head_logits is not None and head_weight > 0:
        loss = loss + head_weight * F.cross_entropy(head_logits.float(), labels, label_smoothing=smoothing)
    return StepLoss(loss, logits)


def training_data(config: CETrainingConfig) -> tuple[Dataset, Dataset]:
    """The run's training and validation images, the same ones at every call; DataError if they cannot be read."""
    whole = load_split(config.data, config.root, "train", config.size)
    return split_validation(whole, config.validation, config.seed)


def make_trainer(
    config: CETrainingConfig,
    path: Path,
    train: Dataset,
    validation: Dataset,
    loss_function: LossFunction,
    method: str = METHOD,
) -> Trainer:
    """A run at its start."""
    if len(train) < 2:
        raise TrainingError("training needs at least two images: batch normalisation works on a batch")
    height, width, channels = train.images.shape[1:]
    walk = make_walk(asdict(config), (height, width), config.epochs, config.batch, config.seed, config.precision)
    torch.manual_seed(config.seed)
    try:
        pair = make_pair(replace(config.pair, image=(height, width, channels), classes=len(train.classes)))
    except ValueError as error:  # settings that do not fit the images
        raise TrainingError(f"{config.data}: {error}") from None
    mean, std = channel_statistics(train.images)
    pair.encoder.mean.copy_(torch.from_numpy(mean / 255))
    pair.encoder.std.copy_(torch.from_numpy(std / 255))
    pair.to(find_device(config.device))
    optimizer = torch.optim.SGD(
        pair.parameters(), config.peak_rate, config.momentum, weight_decay=config.weight_decay, nesterov=True
    )
    steps = config.epochs * (len(train) // min(config.batch, len(train)))
    scheduler = _scheduler(config, optimizer, steps)
    values = {**config.identity(), "pair": pair.config.to_dict()}
    learner = Learner(WHOLE, (pair,), loss_function, optimizer, scheduler)
    return Trainer(method, values, path, walk, pair, [learner], train, validation)


def _scheduler(
    config: CETrainingConfig, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if config.schedule == "steps":
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(share * steps) for share in FALLS], 0.1)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.peak_rate, total_steps=max(steps, 2) + 1, pct_start=config.warmup, cycle_momentum=False
    )


def make_walk(
    settings: Mapping[str, Any],
    size: tuple[int, int],
    epochs: int,
    batch: int,
    seed: int,
    precision: Literal["bf16", "fp32"],
) -> Walk:
    """How to walk images of ``size`` (height, width), by the ``settings`` data, crop and flip of a CE-T run."""
    crop = settings["crop"] if settings["crop"] is not None else min(size) // 8
    flip = settings["flip"] if settings["flip"] is not None else flips_by_default(settings["data"])
    return Walk(epochs, batch, crop, flip, seed, precision)


def find_device(name: str) -> torch.device:
    """The device of that name, "auto" for a GPU where there is one; TrainingError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"no device {name!r} here ({str(error).splitlines()[0]}): give --device cpu") from None
    return device


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"the folder {out} cannot be made ({error.strerror}): give another --out") from None
