"""``latentwire upgrade``: a decoder that is told of the message, for a bundle whose sensors are deployed.

::

    the bundle's encoder and codec, as they are --> training.messages --> latent, conditions --> the new decoder

The encoder stays as it is: only the server's half learns, and only its file in the bundle changes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from latentwire.bundle import Bundle, load_bundle
from latentwire.datasets import Dataset
from latentwire.errors import BundleError, CheckpointError
from latentwire.operating_point import OperatingPoint
from training.ce import CHECKPOINT, LOG, find_device, make_walk, refuse_to_overwrite, walk_to_the_end
from training.checkpoint import Checkpoint, load_checkpoint
from training.duphil import source_data, weights_digest
from training.evaluation import Encoded, ToldDecoder, measure
from training.export import splits_of
from training.inference import OnnxGraph
from training.loop import WHOLE, Learner, LossFunction, StepLoss, Trainer
from training.messages import Messages, encode_passes
from training.models import Pair, PairConfig
from training.onnx_export import UPGRADE, load_pair
from training.progress import Progress
from training.told import Told, upgraded_bundle

COMPARED = 64  # images by which a bundle's encoder is known to be the checkpoint's
SAME = 0.2  # of the latents' size: weights of 8 bits differ by less, another pair by more
_NOT_THE_RUN = ("source", "bundle", "teachers", "out", "root", "device", "threads", "resume")


@dataclass(frozen=True, slots=True)
class UpgradeConfig:
    """A decoder for a variant of ``bundle`` (a folder, or a shipped bundle's name), whose pair is ``source``'s.

    Data, validation images and augmentation are the source's, read under ``root``. ``out`` gets checkpoint.pt, log.csv
    and the new bundle, ``out``/bundle. ``passes`` are the augmentations of the training set that are encoded; an epoch
    walks one of them. ``rate`` is AdamW's first learning rate, which falls to nothing along a cosine. ``teachers`` are
    checkpoints of pairs of the same images and classes, whose mean probabilities are ``teacher_weight`` of what is
    learned, the labels being the rest. ``decoder_width`` is the channels the decoder starts from; another than the
    pair's starts it anew instead of from the pair's weights. ``seed`` None is the source's. ValueError for a setting
    out of range.
    """

    source: Path
    bundle: str | Path
    out: Path
    variant: str | None = None
    root: Path | None = None
    passes: int = 4
    epochs: int = 8
    batch: int = 256
    rate: float = 1e-3
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    teachers: tuple[Path, ...] = ()
    teacher_weight: float = 0.7
    decoder_width: int | None = None
    seed: int | None = None
    precision: Literal["bf16", "fp32"] = "bf16"
    device: str = "auto"
    threads: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        checks = {
            "passes must be at least 1": self.passes >= 1,
            "epochs must be at least 1": self.epochs >= 1,
            "batch must be at least 2 (batch normalisation needs two images)": self.batch >= 2,
            "rate must be above 0": 0 < self.rate < float("inf"),
            "weight_decay must be at least 0": 0 <= self.weight_decay < float("inf"),
            "label_smoothing must be at least 0 and below 1": 0 <= self.label_smoothing < 1,
            "teacher_weight must be above 0 and at most 1": 0 < self.teacher_weight <= 1,
            "decoder_width must be at least 1": self.decoder_width is None or self.decoder_width >= 1,
            "seed must be at least 0": self.seed is None or self.seed >= 0,
            "precision must be bf16 or fp32": self.precision in ("bf16", "fp32"),
            "threads must be at least 1": self.threads is None or self.threads >= 1,
        }
        for rule, held in checks.items():
            if not held:
                raise ValueError(rule)


def run_upgrade(
    config: UpgradeConfig, say: Callable[[str], None] = lambda _: None, progress: Progress | None = None
) -> Bundle:
    """Train the decoder and write the upgraded bundle, ``out``/bundle.

    Raises BundleError when the bundle is not of the source's pair, CheckpointError for a source or teacher that fits
    not, and what training and measuring raise.
    """
    path = config.out / CHECKPOINT
    refuse_to_overwrite(path, config.resume)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    bundle, start = load_bundle(config.bundle), load_checkpoint(config.source)
    variant = config.variant or bundle.manifest.default_variant
    train, validation = source_data(start, config.source, config.root)
    _check_encoder(bundle, variant, load_pair(start), train.images[:COMPARED], config.source)
    trainer = upgrade_trainer(config, bundle, variant, start, train, validation, say)
    walk_to_the_end(trainer, config.out / LOG, f"{UPGRADE} {start.config['data']}", progress)
    told = trainer.side
    assert isinstance(told, Told)
    about = {
        "upgrade_epochs": config.epochs,
        "upgrade_seed": trainer.walk.seed,
        "teachers": len(config.teachers),
        "decoder_width": config.decoder_width,
    }
    test = splits_of(start.config, config.root).test
    return upgraded_bundle(config.out / "bundle", bundle, variant, told.cpu().eval(), test, about, say)


def upgrade_trainer(
    config: UpgradeConfig,
    bundle: Bundle,
    variant: str,
    start: Checkpoint,
    train: Dataset,
    validation: Dataset,
    say: Callable[[str], None] = lambda _: None,
) -> Trainer:
    """The run at its start; the pair is frozen, and the decoder that learns is the trainer's ``side``."""
    seed = start.config["seed"] if config.seed is None else config.seed
    device = find_device(config.device)
    encoder = OnnxGraph(bundle.encoder_path(variant), config.threads)
    teachers, names = _teachers(config, start, device)
    settings = {"crop": None, "flip": None, **start.config}
    size = (train.images.shape[1], train.images.shape[2])
    walk = make_walk(settings, size, config.epochs, config.batch, seed, config.precision)
    passes = encode_passes(encoder, teachers, train, config.passes, walk.crop, walk.flip, seed, say)
    messages = Messages(bundle, variant, passes, device)
    torch.manual_seed(seed)
    pair = load_pair(start).to(device)
    told = Told(pair.config, messages.width, config.decoder_width)
    if config.decoder_width in (None, pair.config.decoder_width):
        told.start_from(pair.decoder)
    told.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(told.parameters(), config.rate, weight_decay=config.weight_decay)
    steps = config.epochs * (len(train) // min(config.batch, len(train)))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    loss = _loss_function(config, told, pair.config, messages.width)
    learner = Learner(WHOLE, (told,), loss, optimizer, scheduler, inputs=messages.draw)
    identity = _identity(config, bundle, variant, start, seed, names)
    figures = _figures(bundle, variant, encoder, told, messages.width, validation)
    walk = replace(walk, crop=0, flip=False)  # the passes have them already
    return Trainer(UPGRADE, identity, config.out / CHECKPOINT, walk, pair, [learner], train, validation, told, figures)


def _check_encoder(bundle: Bundle, variant: str, pair: Pair, images: NDArray[np.uint8], source: Path) -> None:
    """The bundle's encoder is the pair's, but for what fewer bits a weight do to it; BundleError if not."""
    spec = bundle.manifest.input
    if (spec.height, spec.width, spec.channels) == pair.config.image:
        latent = OnnxGraph(bundle.encoder_path(variant)).run(images)["latent"]
        with torch.inference_mode():
            ours = pair.encoder(torch.from_numpy(images)).latent.numpy()
        if latent.shape == ours.shape and np.linalg.norm(latent - ours) <= SAME * np.linalg.norm(ours):
            return
    raise BundleError(f"{bundle.path}: the encoder of {variant!r} is not that of {source}: give the pair's own bundle")


def _teachers(config: UpgradeConfig, start: Checkpoint, device: torch.device) -> tuple[list[Pair], list[str]]:
    """The teachers, and by what they are known again."""
    teachers, names = [], []
    for path in config.teachers:
        checkpoint = load_checkpoint(path)
        teacher = load_pair(checkpoint)
        if checkpoint.classes != start.classes or teacher.config.image != tuple(start.pair["image"]):
            raise CheckpointError(f"the teacher {path} knows other classes or images than {config.source}")
        teachers.append(teacher.to(device))
        names.append(weights_digest(checkpoint))
    return teachers, names


def _loss_function(config: UpgradeConfig, told: Told, pair: PairConfig, width: int) -> LossFunction:
    """Cross-entropy with the labels, and with the teachers' probabilities where there are any."""
    share = config.teacher_weight if config.teachers else 0.0

    def loss(_: Pair, inputs: Tensor, labels: Tensor) -> StepLoss:
        latent, conditions, taught = torch.split(inputs, [pair.d, width, inputs.shape[1] - pair.d - width], 1)
        logits = told(latent, conditions)
        value = (1 - share) * F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
        if share > 0:
            value = value + share * F.cross_entropy(logits.float(), taught)
        return StepLoss(value, logits)

    return loss


def _figures(
    bundle: Bundle, variant: str, encoder: OnnxGraph, told: Told, width: int, validation: Dataset
) -> Callable[[], dict[str, float]]:
    """An epoch's accuracy on validation images, through the codec: at the default model's ends and default."""
    if not len(validation):
        return dict
    entry = bundle.manifest.variant(variant)
    model, parameters = entry.model(), bundle.codec_parameters(variant, entry.default_model)
    scales = sorted({model.rate_min, model.rate_default, model.rate_max})
    points = [OperatingPoint.derive(parameters, variant, entry.default_model, scale) for scale in scales]
    outputs = encoder.run(validation.images)
    encoded = Encoded(outputs["latent"], outputs.get("head_logits"), validation.labels)

    def figures() -> dict[str, float]:
        rows = [measure(point, encoded, ToldDecoder(told.answer, width)).row for point in points]
        return {f"validation_accuracy_at_{row.rate_scale:g}": row.accuracy for row in rows}

    return figures


def _identity(
    config: UpgradeConfig, bundle: Bundle, variant: str, start: Checkpoint, seed: int, teachers: list[str]
) -> dict[str, Any]:
    """What makes it this run and no other, as plain values."""
    settings = {name: value for name, value in asdict(config).items() if name not in _NOT_THE_RUN}
    return {
        **settings,
        **{name: start.config.get(name) for name in ("data", "size", "validation", "crop", "flip")},
        "variant": variant,
        "seed": seed,
        "split_seed": start.config.get("split_seed", start.config["seed"]),
        "source": weights_digest(start),
        "deployed": bundle.sensor_digest,
        "teachers": teachers,
    }
