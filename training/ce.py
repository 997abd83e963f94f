"""CE-T: both halves trained end to end on cross-entropy, the paper's baseline and the start of its method."""

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
from training.loop import StepLoss, Trainer, Walk
from training.models import Pair, PairConfig, make_pair
from training.progress import Progress

METHOD = "ce"
CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
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
    data set). ``warmup`` is the share of steps before the learning rate reaches ``peak_rate``. ``head_weight``
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
            "size must be at least 1 x 1 pixels": self.size is None or min(self.size) >= 1,
            "threads must be at least 1": self.threads is None or self.threads >= 1,
        }
        for rule, held in checks.items():
            if not held:
                raise ValueError(rule)

    def identity(self) -> dict[str, Any]:
        """What makes it this run and no other, as plain values."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_THE_RUN}
        return {**values, "size": list(self.size) if self.size else None}


def run_train_ce(config: CETrainingConfig, progress: Progress | None = None) -> Path:
    """Train a pair on cross-entropy and return its checkpoint, ``out``/checkpoint.pt; ``out``/log.csv is the log.

    Raises DataError when the data cannot be read, CheckpointError when ``out`` holds another run or the checkpoint
    cannot be saved, TrainingError when the loss is no number, memory runs out, or Ctrl-C stopped it (after saving).
    """
    path = config.out / CHECKPOINT
    if path.exists() and not config.resume:
        raise CheckpointError(f"{path} is there already: add --resume to go on, or give another --out")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    train, validation = training_data(config)
    trainer = make_trainer(config, path, train, validation)
    if path.exists():
        checkpoint = load_checkpoint(path)
        check_same_run(path, checkpoint, METHOD, trainer.config)
        trainer.restore(checkpoint)
    _make_folder(config.out)
    log = config.out / LOG
    shown = progress or Progress(f"ce {config.data}", config.epochs, trainer.steps_per_epoch, log)

    def loss_function(pair: Pair, images: Tensor, labels: Tensor) -> StepLoss:
        return cross_entropy(pair, images, labels, config.label_smoothing, config.head_weight)

    trainer.run(loss_function, shown)
    return path


def cross_entropy(pair: Pair, images: Tensor, labels: Tensor, smoothing: float, head_weight: float) -> StepLoss:
    """Cross-entropy of the decoder's answer, and ``head_weight`` times that of the head's where there is one.

    ``images`` uint8 (B, H, W, C), ``labels`` int64 (B,).
    """
    logits, encoded = pair(images)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    if encoded.head_logits is not None and head_weight > 0:
        head = F.cross_entropy(encoded.head_logits.float(), labels, label_smoothing=smoothing)
        loss = loss + head_weight * head
    return StepLoss(loss, logits)


def training_data(config: CETrainingConfig) -> tuple[Dataset, Dataset]:
    """The run's training and validation images, the same ones at every call; DataError if they cannot be read."""
    whole = load_split(config.data, config.root, "train", config.size)
    return split_validation(whole, config.validation, config.seed)


def make_trainer(config: CETrainingConfig, path: Path, train: Dataset, validation: Dataset) -> Trainer:
    """A run at its start."""
    if len(train) < 2:
        raise TrainingError("training needs at least two images: batch normalisation works on a batch")
    height, width, channels = train.images.shape[1:]
    crop = config.crop if config.crop is not None else min(height, width) // 8
    flip = config.flip if config.flip is not None else flips_by_default(config.data)
    walk = Walk(config.epochs, config.batch, crop, flip, config.seed, config.precision)
    torch.manual_seed(config.seed)
    pair = make_pair(replace(config.pair, image=(height, width, channels), classes=len(train.classes)))
    mean, std = channel_statistics(train.images)
    pair.encoder.mean.copy_(torch.from_numpy(mean / 255))
    pair.encoder.std.copy_(torch.from_numpy(std / 255))
    pair.to(_device(config.device))
    optimizer = torch.optim.SGD(
        pair.parameters(), config.peak_rate, config.momentum, weight_decay=config.weight_decay, nesterov=True
    )
    steps = config.epochs * (len(train) // min(config.batch, len(train)))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.peak_rate, total_steps=max(steps, 2) + 1, pct_start=config.warmup, cycle_momentum=False
    )
    values = {**config.identity(), "pair": pair.config.to_dict()}
    return Trainer(METHOD, values, path, walk, pair, optimizer, scheduler, train, validation)


def _device(name: str) -> torch.device:
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
