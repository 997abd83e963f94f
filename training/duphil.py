"""The paper's three steps after CE-T (paper.md): DuPHiL with labels, DuPHiL with self-labels, end to end.

::

    step 1   encoder <- L_LDR(side(latent), labels)          decoder, head <- cross-entropy     in turns
    step 2   encoder <- L_LDR(side(latent), image numbers)   decoder, head <- cross-entropy     in turns
    step 3   all     <- cross-entropy + weight x L_LDR(side(latent), labels), at a smaller rate

While one side learns the other is frozen, batch statistics included. The head names the anchor from the latent, so it
learns with the decoder, from the same labels.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from latentwire.datasets import Dataset
from latentwire.errors import CheckpointError, DataError
from training.ce import (
    CHECKPOINT,
    CETrainingConfig,
    answers_loss,
    find_device,
    make_walk,
    refuse_to_overwrite,
    run_train_ce,
    walk_to_the_end,
)
from training.checkpoint import Checkpoint, load_checkpoint
from training.data import flips_by_default, load_split, split_validation
from training.ldr_loss import ldr_loss
from training.loop import WHOLE, Learner, LossFunction, StepLoss, Trainer
from training.models import Pair
from training.onnx_export import load_pair
from training.parallel import random_rows, whole_batch
from training.progress import Progress
from training.side_branch import SideBranch
from training.views import SelfLabels, ViewConfig

METHODS = {1: "duphil", 2: "duphil-self", 3: "ldr"}
_NOT_THE_STEP = ("source", "out", "root", "device", "threads", "resume", "steps", "epochs")


@dataclass(frozen=True, slots=True)
class LDRTrainingConfig:
    """The steps to take from a pair. Which settings are the paper's and which our reading: docs/training.md.

    ``source`` is a checkpoint to start from, or the CE-T run that makes one first, in ``out``/ce. Data, validation
    images and augmentation are the source's; its data set is read under ``root``. ``out`` is the folder: the last step
    leaves checkpoint.pt and log.csv, the earlier ones stepN.pt and stepN.csv. ``steps`` are taken in that order, for
    ``epochs`` (of steps 1, 2 and 3). ``alternate`` takes turns every batch, or trains the encoder for all the epochs
    and then the decoder for as many ("phase"). ``batch`` and ``rate`` are those of steps 1 and 2, but for the encoder's
    in step 2, ``self_rate``,
    ``finetune_batch`` and ``finetune_rate`` those of step 3. ``eps2``, ``gamma1``, ``gamma2`` are Eq. (1)'s,
    ``self_gamma1`` and ``self_gamma2`` Eq. (2)'s, whose batches are ``self_images`` x ``self_views``. ``ldr_weight``
    weighs L_LDR in step 3. ``noise`` is the widest bin that the decoder learns with, in standard deviations, drawn for
    each image from 0 on; ``quantizer`` stands for bins by uniform noise, or rounds to them, the gradient passing
    straight through ("round"). ``seed`` None is the source's. ValueError for a setting out of range.
    """

    source: Path | CETrainingConfig
    out: Path
    root: Path | None = None
    steps: tuple[int, ...] = (1, 2, 3)
    epochs: tuple[int, int, int] = (8, 8, 8)
    alternate: Literal["batch", "phase"] = "batch"
    batch: int = 1000
    rate: float = 1e-3
    self_rate: float = 1e-4
    finetune_batch: int = 256
    finetune_rate: float = 3e-4
    weight_decay: float = 5e-4
    eps2: float = 0.5
    gamma1: float = 1.0
    gamma2: float = 1.0
    self_gamma1: float = 20.0
    self_gamma2: float = 0.05
    self_images: int = 20
    self_views: int = 50
    ldr_weight: float = 0.05
    noise: float = 0.0
    quantizer: Literal["noise", "round"] = "noise"
    label_smoothing: float = 0.05
    head_weight: float = 0.3
    seed: int | None = None
    precision: Literal["bf16", "fp32"] = "bf16"
    device: str = "auto"
    threads: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        above_0 = ("rate", "self_rate", "finetune_rate", "eps2", "gamma1", "gamma2", "self_gamma1", "self_gamma2")
        from_0 = ("weight_decay", "ldr_weight", "noise", "head_weight")
        at_least_2 = ("batch", "finetune_batch", "self_images", "self_views")
        checks = {
            "steps must be some of 1, 2 and 3, rising": bool(self.steps)
            and list(self.steps) == sorted({*self.steps} & {*METHODS}),
            "epochs must be three numbers of at least 1": len(self.epochs) == 3 and min(self.epochs) >= 1,
            "alternate must be batch or phase": self.alternate in ("batch", "phase"),
            "label_smoothing must be at least 0 and below 1": 0 <= self.label_smoothing < 1,
            "seed must be at least 0": self.seed is None or self.seed >= 0,
            "quantizer must be noise or round": self.quantizer in ("noise", "round"),
            "precision must be bf16 or fp32": self.precision in ("bf16", "fp32"),
            "threads must be at least 1": self.threads is None or self.threads >= 1,
            **{f"{name} must be above 0": 0 < getattr(self, name) < float("inf") for name in above_0},
            **{f"{name} must be at least 0": 0 <= getattr(self, name) < float("inf") for name in from_0},
            **{f"{name} must be at least 2": getattr(self, name) >= 2 for name in at_least_2},
        }
        for rule, held in checks.items():
            if not held:
                raise ValueError(rule)


def run_train_ldr(config: LDRTrainingConfig, progress: Callable[[int], Progress] | None = None) -> Path:
    """Take the steps and return the last one's checkpoint. With ``resume``, done steps stand and the rest is gone on
    with. ``progress`` gives what is shown in step n.

    Raises DataError, CheckpointError and TrainingError as ``run_train_ce``.
    """
    paths = [config.out / (CHECKPOINT if step == config.steps[-1] else f"step{step}.pt") for step in config.steps]
    for path in paths:
        refuse_to_overwrite(path, config.resume)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    source = config.source if isinstance(config.source, Path) else run_train_ce(config.source)
    for step, path in zip(config.steps, paths, strict=True):
        start = load_checkpoint(source)
        train, validation = source_data(start, source, config.root)
        trainer = step_trainer(config, step, start, path, train, validation)
        log = path.with_suffix(".csv") if path.name != CHECKPOINT else path.with_name("log.csv")
        title = f"{method_of(config, step)} {start.config['data']}"
        source = walk_to_the_end(trainer, log, title, progress(step) if progress else None)
    return source


def source_data(start: Checkpoint, path: Path, root: Path | None) -> tuple[Dataset, Dataset]:
    """The training and validation images that a checkpoint was trained on; DataError, CheckpointError."""
    try:
        name, share = start.config["data"], start.config["validation"]
        size = tuple(start.config["size"]) if start.config["size"] else None
        seed = start.config.get("split_seed", start.config["seed"])
    except KeyError as missing:
        raise CheckpointError(f"{path} does not say {missing}: it is no training command's checkpoint") from None
    train, validation = split_validation(load_split(name, root, "train", size), share, seed)
    if train.classes != start.classes:
        raise DataError(f"{name} has other classes than {path} was trained on: give the same data")
    return train, validation


def step_trainer(
    config: LDRTrainingConfig, step: int, start: Checkpoint, path: Path, train: Dataset, validation: Dataset
) -> Trainer:
    """Step 1, 2 or 3 at its start, from the pair of ``start`` (and its side branch, if it has one)."""
    ours = start.config["seed"] if config.seed is None else config.seed
    torch.manual_seed(ours)
    pair, side = load_pair(start), SideBranch(int(start.pair["d"]))
    if "side" in start.state:
        side.load_state_dict(start.state["side"])
    device = find_device(config.device)
    pair.to(device)
    side.to(device)
    turns = step < 3 and config.alternate == "phase"
    epochs = config.epochs[step - 1] * (2 if turns else 1)
    batch = config.batch if step < 3 else config.finetune_batch
    settings = {"crop": None, "flip": None, **start.config}
    size = (train.images.shape[1], train.images.shape[2])
    walk = make_walk(settings, size, epochs, batch, ours, config.precision)
    steps = config.epochs[step - 1] * (len(train) // min(batch, len(train)))
    if step == 3:
        modules = (pair, side) if config.ldr_weight > 0 else (pair,)
        learners = [_learner(WHOLE, modules, _end_to_end_loss(config, side), config, config.finetune_rate, steps)]
    else:
        flips = settings["flip"] if settings["flip"] is not None else flips_by_default(settings["data"])
        learners = _in_turns(config, step, pair, side, steps, flips)
    identity = _identity(config, step, start, ours, epochs)
    return Trainer(method_of(config, step), identity, path, walk, pair, learners, train, validation, side)


def method_of(config: LDRTrainingConfig, step: int) -> str:
    """The method's name after ``step``: step 3 without the LDR loss is more of CE-T, with bins or without."""
    if step == 3 and config.ldr_weight == 0:
        return "ce" if config.noise == 0 else "ce-noise"
    return METHODS[step]


def _in_turns(
    config: LDRTrainingConfig, step: int, pair: Pair, side: SideBranch, steps: int, flips: bool
) -> list[Learner]:
    """The encoder's learner and the decoder's, for steps 1 and 2."""
    labels = SelfLabels(config.self_images, config.self_views, ViewConfig(flip=flips)) if step == 2 else None
    one = config.epochs[step - 1]
    spans = ((0, one), (one, 2 * one)) if config.alternate == "phase" else (None, None)

    def decoder_loss(pair: Pair, images: Tensor, labels: Tensor) -> StepLoss:
        return _answered(config, pair, images, labels)[0]

    encoder, rate = (*trunk(pair), side), config.rate if step == 1 else config.self_rate
    return [
        _learner("encoder", encoder, _encoder_loss(config, step, side), config, rate, steps, labels, spans[0]),
        _learner("decoder", classifiers(pair), decoder_loss, config, config.rate, steps, None, spans[1]),
    ]


def trunk(pair: Pair) -> tuple[nn.Module, ...]:
    """What makes the latent: the encoder without its head."""
    return pair.encoder.stem, pair.encoder.stages, pair.encoder.bottleneck


def classifiers(pair: Pair) -> tuple[nn.Module, ...]:
    """What answers from the latent: the decoder, and the head where there is one."""
    return (pair.decoder,) if pair.encoder.head is None else (pair.decoder, pair.encoder.head)


def _learner(
    name: str,
    modules: tuple[nn.Module, ...],
    loss: LossFunction,
    config: LDRTrainingConfig,
    rate: float,
    steps: int,
    self_labels: SelfLabels | None = None,
    epochs: tuple[int, int] | None = None,
) -> Learner:
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=config.weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    return Learner(name, modules, loss, optimizer, scheduler, self_labels, epochs)


def _encoder_loss(config: LDRTrainingConfig, step: int, side: SideBranch) -> LossFunction:
    own = (config.gamma1, config.gamma2) if step == 1 else (config.self_gamma1, config.self_gamma2)

    def loss(pair: Pair, images: Tensor, groups: Tensor) -> StepLoss:
        features, groups = whole_batch(side(pair.encoder(images).latent)), whole_batch(groups)
        return StepLoss(ldr_loss(features, groups, config.eps2, *own), None)

    return loss


def _end_to_end_loss(config: LDRTrainingConfig, side: SideBranch) -> LossFunction:
    def loss(pair: Pair, images: Tensor, labels: Tensor) -> StepLoss:
        (entropy, logits), latent = _answered(config, pair, images, labels)
        if config.ldr_weight == 0:
            return StepLoss(entropy, logits)
        features, groups = whole_batch(side(latent)), whole_batch(labels)
        compact = ldr_loss(features, groups, config.eps2, config.gamma1, config.gamma2)
        return StepLoss(entropy + config.ldr_weight * compact, logits)

    return loss


def _answered(config: LDRTrainingConfig, pair: Pair, images: Tensor, labels: Tensor) -> tuple[StepLoss, Tensor]:
    """Cross-entropy of both answers, and the latent (B, d) without noise."""
    encoded = pair.encoder(images)
    logits = pair.decoder(noisy(encoded.latent, config.noise, config.quantizer))
    found = answers_loss(logits, encoded.head_logits, labels, config.label_smoothing, config.head_weight)
    return found, encoded.latent


def noisy(latent: Tensor, most: float, quantizer: Literal["noise", "round"] = "noise") -> Tensor:
    """``latent`` (B, d) in bins of width q sigma, sigma an entry's standard deviation in the batch, q drawn for each
    image from 0 to ``most``: with uniform noise of that width added, or rounded to multiples of it, in which case the
    gradient is that of the latent itself (Bengio et al., 2013)."""
    if most == 0:
        return latent
    sigma = whole_batch(latent.detach()).float().std(0, correction=0)
    width = most * random_rows(latent, 1) * sigma
    if quantizer == "noise":
        return latent + width * (random_rows(latent, latent.shape[1]) - 0.5)
    bins = width.clamp(min=1e-6)
    rounded = bins * torch.round(latent.detach() / bins)
    return latent + (rounded - latent).detach()


def _identity(config: LDRTrainingConfig, step: int, start: Checkpoint, seed: int, epochs: int) -> dict[str, Any]:
    """What makes it this step of this run and no other, as plain values, and what export asks for."""
    settings = {name: value for name, value in asdict(config).items() if name not in _NOT_THE_STEP}
    before = start.config
    inherited = {name: before.get(name) for name in ("data", "size", "validation", "crop", "flip")}
    return {
        **settings,
        **inherited,
        "step": step,
        "epochs": epochs,
        "epochs_before": start.epoch + before.get("epochs_before", 0),
        "seed": seed,
        "split_seed": before.get("split_seed", before["seed"]),
        "source": weights_digest(start),
        "pair": start.pair,
    }


def weights_digest(checkpoint: Checkpoint) -> str:
    """By which a checkpoint's pair is known again (16 hex digits)."""
    digest = hashlib.sha256()
    for name, value in sorted(checkpoint.state["pair"].items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
