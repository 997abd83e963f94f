"""``latentwire truncate``: drop the last entries of a latent, fine-tune, add the pair to its bundle (paper.md)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from latentwire.bundle import Bundle, load_bundle, write_bundle
from latentwire.errors import BundleError, TrainingError
from training.bundling import make_variant
from training.ce import CHECKPOINT, refuse_to_overwrite
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.duphil import LDRTrainingConfig, run_train_ldr
from training.export import splits_of
from training.onnx_export import export_onnx, load_pair

START = "truncated.pt"


@dataclass(frozen=True, slots=True)
class TruncationConfig:
    """``checkpoint`` is the whole pair's; the first ``keep`` entries of its latent stay. ``finetune`` is plain
    cross-entropy end to end ("ce") or the paper's three steps ("ldr"), an ``epochs`` each. ``out`` gets the
    checkpoints and the logs. ``bundle``, where given, gets the pair as ``variant``. ``settings`` are others of
    LDRTrainingConfig. ValueError for a setting out of range.
    """

    checkpoint: Path
    out: Path
    keep: int
    finetune: Literal["ce", "ldr"] = "ldr"
    epochs: int = 8
    bundle: Path | None = None
    variant: str = "truncated"
    root: Path | None = None
    settings: dict[str, Any] | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, not {self.keep}")
        if self.finetune not in ("ce", "ldr"):
            raise ValueError(f"finetune must be ce or ldr, not {self.finetune!r}")
        if not self.variant.isidentifier():
            raise ValueError(f"variant must be a plain word, not {self.variant!r}")
        self.training()  # refuses what it cannot take

    def training(self) -> LDRTrainingConfig:
        """The fine-tuning's settings."""
        plain: dict[str, Any] = {"steps": (3,), "ldr_weight": 0.0} if self.finetune == "ce" else {}
        return LDRTrainingConfig(
            self.out / START,
            self.out,
            self.root,
            epochs=(self.epochs,) * 3,
            resume=self.resume,
            **{**(self.settings or {}), **plain},
        )


def run_truncate(config: TruncationConfig, progress: Callable[[str], None] = lambda _: None) -> Path:
    """Truncate, fine-tune, and add the pair to the bundle if one is given; the fine-tuned pair's checkpoint.

    Raises TrainingError when nothing would be dropped, BundleError for a bundle of other images or classes, and what
    training and export raise.
    """
    whole = load_checkpoint(config.checkpoint)
    bundle = None if config.bundle is None else load_bundle(config.bundle)
    if bundle is not None:
        _check_fits(bundle, whole, config)
    refuse_to_overwrite(config.out / CHECKPOINT, config.resume)
    save_checkpoint(config.out / START, truncate(whole, config.keep))
    path = run_train_ldr(config.training())
    if bundle is not None:
        add_variant(bundle, config.variant, path, config.root, progress)
    return path


def truncate(whole: Checkpoint, keep: int) -> Checkpoint:
    """The pair without all but the first ``keep`` entries of its latent: the encoder's last rows go, and the columns
    that head and decoder look at them with. TrainingError if it has no more than those.
    """
    d = int(whole.pair["d"])
    if keep >= d:
        raise TrainingError(f"the latent has {d} entries: give --keep below that, not {keep}")
    load_pair(whole)  # refuses weights that are none
    state: dict[str, Tensor] = dict(whole.state["pair"])
    last = max(int(name.split(".")[2]) for name in state if name.startswith("encoder.bottleneck."))
    cells = d // len(state[f"encoder.bottleneck.{last}.bias"])  # entries of a row: the map's, where it is spatial
    if keep % cells:
        raise TrainingError(f"this latent has {cells} cells, which stay together: give --keep a multiple of {cells}")
    for name in (f"encoder.bottleneck.{last}.weight", f"encoder.bottleneck.{last}.bias"):
        state[name] = state[name][: keep // cells].clone()
    for name in ("encoder.head.1.weight", "decoder.grow.0.weight"):
        if name in state:
            state[name] = state[name][:, :keep].clone()
    for name in [name for name in state if name.startswith("encoder.head.0.") and state[name].ndim == 1]:
        state[name] = state[name][:keep].clone()
    config = {**whole.config, "truncated_from": d}
    return replace(whole, config=config, pair={**whole.pair, "d": keep}, state={"pair": state}, history=[])


def add_variant(
    bundle: Bundle, name: str, checkpoint: Path, root: Path | None, progress: Callable[[str], None]
) -> Bundle:
    """``bundle`` with the checkpoint's pair as variant ``name``, in place of an older one of that name."""
    saved = load_checkpoint(checkpoint)
    splits = splits_of(saved.config, root)
    exported = export_onnx(checkpoint, checkpoint.parent / "onnx", splits.train.images[:256])
    variant, files = make_variant(name, exported.encoder, exported.decoder, splits, progress)
    kept = {key: value for key, value in bundle.manifest.variants.items() if key != name}
    manifest = replace(bundle.manifest, variants={**kept, name: variant})
    present = {
        entry.path: (bundle.path / entry.path).read_bytes() for entry in replace(manifest, variants=kept).files()
    }
    return write_bundle(bundle.path, manifest, {**present, **files})


def _check_fits(bundle: Bundle, whole: Checkpoint, config: TruncationConfig) -> None:
    shape = bundle.manifest.input
    if bundle.manifest.classes != whole.classes or (shape.height, shape.width, shape.channels) != tuple(
        whole.pair["image"]
    ):
        raise BundleError(f"{bundle.path} is of other classes or images than {config.checkpoint}: give its own bundle")
    if config.variant == bundle.manifest.default_variant:
        raise BundleError(f"{config.variant!r} is the default variant of {bundle.path}: give another --variant")
