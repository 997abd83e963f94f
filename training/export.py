"""From a checkpoint to a bundle: both halves to ONNX, entropy models fitted, the knob measured."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentwire.bundle import Bundle
from latentwire.datasets import Dataset
from training.bundling import Splits, make_bundle
from training.checkpoint import load_checkpoint
from training.data import load_split, split_validation
from training.models import PairConfig, decoder_cost, encoder_cost
from training.onnx_export import export_onnx, load_pair
from training.quantization import add_int8
from training.steps import STEP_RULES, StepRule


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """``checkpoint`` is a training command's; ``out`` the bundle's folder; ``root`` where the data set lies;
    ``model_id`` names the bundle, by default after data, backbone, width and d; ``step_rule`` is how the anchored
    code's step sizes are shared out among the latent's entries; ``clusters`` makes its anchors so many clusters of
    the latents instead of the classes' means; ``int8`` adds the encoder in 8 bits as a variant."""

    checkpoint: Path
    out: Path
    root: Path | None = None
    model_id: str | None = None
    step_rule: StepRule = "entropy"
    clusters: int | None = None
    int8: bool = False

    def __post_init__(self) -> None:
        """Refuse a rule that is none."""
        if self.step_rule not in STEP_RULES:
            raise ValueError(f"step_rule must be one of {', '.join(STEP_RULES)}, not {self.step_rule!r}")
        if self.clusters is not None and self.clusters < 2:
            raise ValueError(f"clusters must be at least 2, not {self.clusters}; leave it out for an anchor a class")


def run_export(config: ExportConfig, progress: Callable[[str], None] = lambda _: None) -> Bundle:
    """Write the bundle; DataError, CheckpointError, InferenceError, TrainingError or BundleError say what is wrong."""
    checkpoint = load_checkpoint(config.checkpoint)
    trained = checkpoint.config
    pair = PairConfig.from_dict(checkpoint.pair).to_dict()  # with what older checkpoints do not say
    splits = splits_of(trained, config.root)
    name = Path(str(trained["data"]).removeprefix("folder:")).name
    model_id = config.model_id or f"{name}-{pair['backbone']}-w{pair['width']}-d{pair['d']}"
    training = {
        "method": checkpoint.method,
        "data": name,
        "train_images": len(splits.train),
        "validation_images": len(splits.validation),
        "test_images": len(splits.test),
        "epochs": checkpoint.epoch + trained.get("epochs_before", 0),
        "seed": trained["seed"],
        "step_rule": config.step_rule,
        "clusters": config.clusters,
        **{key: value for key, value in pair.items() if key not in ("image", "classes", "d")},  # the bundle says those
    }
    halves = load_pair(checkpoint)
    for side, cost in (("sensor", encoder_cost(halves)), ("server", decoder_cost(halves))):
        training |= {f"{side}_macs": cost.macs, f"{side}_parameters": cost.parameters}
    with tempfile.TemporaryDirectory(prefix="latentwire-export-") as folder:
        progress("exporting both halves to ONNX")
        exported = export_onnx(config.checkpoint, Path(folder), splits.train.images[:256])
        bundle = make_bundle(
            config.out,
            model_id,
            exported.encoder,
            exported.decoder,
            splits,
            training,
            progress,
            config.step_rule,
            config.clusters,
        )
    return add_int8(bundle, splits, progress, config.step_rule, config.clusters) if config.int8 else bundle


def splits_of(trained: dict[str, Any], root: Path | None) -> Splits:
    """The very splits a run was trained on. Without a validation share, the knob is measured on training images."""
    size = tuple(trained["size"]) if trained["size"] else None
    whole = load_split(trained["data"], root, "train", size)
    train, validation = split_validation(whole, trained["validation"], trained.get("split_seed", trained["seed"]))
    test: Dataset = load_split(trained["data"], root, "test", size)
    return Splits(train, validation if len(validation) else train, test)
