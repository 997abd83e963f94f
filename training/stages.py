"""The stages of ``latentwire train all`` (``training.full_size``): what is trained from what, and what is measured.

::

    ce ──┬── ldr-1 ── ldr-2 ── ldr ── ldr-cut ──┬── ldr-cut-ce                            by cross-entropy
         │                                      └── ldr-cut-ldr-1 ── -2 ── ldr-cut-ldr    by the three steps
         └── duphil                           step 1 for as many epochs as ldr's three steps have together
    ce-long ── ce-long-cut ── ce-long-cut-ce  CE-T for as many epochs as ce and ldr's steps have together

A cut pair has the first half of the latent's entries. Then each of ce, ce-long, duphil and ldr becomes a bundle, the
cut pairs its variants, and all are measured through the real codec. A training that is done leaves ``pair.pt``, its
weights in 16 bits: what follows starts from that file, whichever machine it is on by then.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from latentwire.bundle import load_bundle
from training.ce import CETrainingConfig, run_train_ce
from training.checkpoint import load_checkpoint, save_checkpoint
from training.devices import on_devices
from training.duphil import LDRTrainingConfig, run_train_ldr
from training.export import ExportConfig, run_export
from training.measuring import MeasureConfig, run_measure
from training.models import PairConfig
from training.thin import thin
from training.truncation import add_variant, truncate

PAIR, RECORDS, BUNDLES = "pair.pt", "records.json", "bundles"
EVALUATED = ("ce", "ce-long", "duphil", "ldr")
VARIANTS = {"ldr": {"cut_ce": "ldr-cut-ce", "cut_ldr": "ldr-cut-ldr"}, "ce-long": {"cut_ce": "ce-long-cut-ce"}}
# The public setting of CE-T (paper.md: SGD 0.1, x0.1 at 50/75/90 %) and the stated rate and batch of the steps; the
# last step's rate is ours, below them as stated.
CE: dict[str, Any] = {"schedule": "steps", "peak_rate": 0.1, "batch": 128}
LDR: dict[str, Any] = {"rate": 1e-4, "finetune_rate": 5e-5, "batch": 1000, "finetune_batch": 256}


@dataclass(frozen=True, slots=True)
class FullSizeConfig:
    """The data set and how long each part trains; the defaults are full size but for the pair (``full_size``).

    ``data`` is read under ``root``; ``out`` is the folder for all that is made. ``epochs`` are CE-T's, ``steps`` those
    of the three steps, ``cut_epochs`` of each of them after truncation (cross-entropy alone gets three times as many).
    ``ce`` and ``ldr`` are other settings of CETrainingConfig and LDRTrainingConfig. ``distorted`` also measures
    distorted images. These make the run; the rest may change between calls: ``seeds``, all of it for each,
    ``minutes`` after which a call saves and ends, ``outbox`` for what changed (``training.thin.pack``), ``device``,
    ``devices`` and ``threads``. ValueError for a setting out of range.
    """

    data: str
    out: Path
    root: Path | None = None
    pair: PairConfig = field(default_factory=PairConfig)
    seeds: tuple[int, ...] = (0,)
    epochs: int = 200
    steps: tuple[int, int, int] = (50, 10, 40)
    cut_epochs: int = 10
    ce: dict[str, Any] = field(default_factory=lambda: dict(CE))
    ldr: dict[str, Any] = field(default_factory=lambda: dict(LDR))
    distorted: bool = True
    minutes: float | None = None
    outbox: Path | None = None
    device: str = "auto"
    devices: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        if not self.seeds or len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds must be different numbers, not {self.seeds}")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be above 0, not {self.minutes}")
        if self.pair.d < 2:
            raise ValueError("d must be at least 2: half of it is cut")
        if len(self.steps) != 3:
            raise ValueError(f"steps must be three numbers of epochs, not {self.steps}")
        if self.cut_epochs < 1:
            raise ValueError(f"cut_epochs must be at least 1, not {self.cut_epochs}")
        self.ce_training("ce", 0, self.epochs)
        for step in (1, 2, 3):
            self.ldr_training(Path(), "ldr", 0, step, self.steps[step - 1])

    def folder(self, name: str, seed: int) -> Path:
        """Where the stage ``name`` of that seed is trained."""
        return self.out / f"seed{seed}" / name

    def ce_training(self, name: str, seed: int, epochs: int) -> CETrainingConfig:
        """A CE-T stage."""
        return CETrainingConfig(
            self.data, self.folder(name, seed), self.root, pair=self.pair, epochs=epochs, seed=seed,
            device=self.device, threads=self.threads, resume=True, **self.ce,
        )  # fmt: skip

    def ldr_training(
        self, source: Path, name: str, seed: int, step: int, epochs: int, **others: Any
    ) -> LDRTrainingConfig:
        """A stage of one of the three steps."""
        return LDRTrainingConfig(
            source, self.folder(name, seed), self.root, (step,), (epochs,) * 3,
            device=self.device, threads=self.threads, resume=True, **{**self.ldr, **others},
        )  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """What makes it this run and no other, as plain values."""
        names = ("data", "epochs", "steps", "cut_epochs", "ce", "ldr", "distorted")
        values = {name: getattr(self, name) for name in names} | {"pair": self.pair.to_dict()}
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain


def full_size(data: str) -> PairConfig:
    """The paper's backbone for a data set at full width: ResNet-34 and d = 64 for CIFAR-100, else ResNet-18 and 16."""
    return PairConfig(backbone="resnet34", d=64) if data == "cifar100" else PairConfig(backbone="resnet18", d=16)


def smoke_config(config: FullSizeConfig) -> FullSizeConfig:
    """The same stages on a tiny pair, an epoch or two each."""
    batch = 64 if not config.data.startswith("cifar") else 256
    ldr = {"batch": 400, "finetune_batch": batch, "self_images": 8, "self_views": 12}
    tiny = PairConfig(width=4, grid=2, hidden=32, d=6)
    ce = {**CE, "batch": batch, "validation": 0.1}
    return replace(config, pair=tiny, epochs=4, steps=(1, 1, 1), cut_epochs=1, ce=ce, ldr=ldr, distorted=False)


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the whole: ``done`` says whether it is, ``run`` does it or goes on with it (raising StoppedError where
    it is ``interruptible``), having saved."""

    name: str
    done: Callable[[], bool]
    run: Callable[[], object]
    interruptible: bool = True


def plan(config: FullSizeConfig, say: Callable[[str], None] = lambda _: None) -> Iterator[Stage]:
    """All stages in their order: trainings first, for they are what a lent GPU is for."""
    for seed in config.seeds:
        yield from _trainings(config, seed)
    for seed in config.seeds:
        for name in EVALUATED:
            yield from _evaluations(config, name, seed, say)


def _trainings(config: FullSizeConfig, seed: int) -> Iterator[Stage]:
    together, cut = sum(config.steps), config.cut_epochs
    yield _train(config, "ce", seed, run_train_ce, config.ce_training("ce", seed, config.epochs))
    yield from _steps(config, "ldr", "ce", seed, config.steps)
    yield _step(config, "duphil", "ce", seed, 1, together)
    yield _train(config, "ce-long", seed, run_train_ce, config.ce_training("ce-long", seed, config.epochs + together))
    for whole in ("ldr", "ce-long"):
        yield _cut(config, whole, seed)
        yield _step(config, f"{whole}-cut-ce", f"{whole}-cut", seed, 3, 3 * cut, ldr_weight=0.0)
    yield from _steps(config, "ldr-cut-ldr", "ldr-cut", seed, (cut,) * 3)


def _steps(config: FullSizeConfig, name: str, source: str, seed: int, epochs: tuple[int, int, int]) -> Iterator[Stage]:
    """The three steps from ``source``'s pair, a stage each; the last is called ``name``."""
    for step in (1, 2, 3):
        target = name if step == 3 else f"{name}-{step}"
        yield _step(config, target, source, seed, step, epochs[step - 1])
        source = target


def _step(config: FullSizeConfig, name: str, source: str, seed: int, step: int, epochs: int, **others: Any) -> Stage:
    pair = config.folder(source, seed) / PAIR
    return _train(config, name, seed, run_train_ldr, config.ldr_training(pair, name, seed, step, epochs, **others))


def _train(config: FullSizeConfig, name: str, seed: int, job: Callable[[Any], Path], training: Any) -> Stage:
    pair = config.folder(name, seed) / PAIR

    def run() -> None:
        checkpoint = on_devices(config.devices, config.device, job, training)
        save_checkpoint(pair, thin(load_checkpoint(checkpoint)))
        checkpoint.unlink()

    return Stage(f"train {name}, seed {seed}", pair.exists, run)


def _cut(config: FullSizeConfig, whole: str, seed: int) -> Stage:
    """The first half of the latent's entries."""
    pair, source = config.folder(f"{whole}-cut", seed) / PAIR, config.folder(whole, seed) / PAIR

    def run() -> None:
        save_checkpoint(pair, truncate(load_checkpoint(source), config.pair.d // 2))

    return Stage(f"cut {whole}, seed {seed}", pair.exists, run)


def _evaluations(config: FullSizeConfig, name: str, seed: int, say: Callable[[str], None]) -> Iterator[Stage]:
    """A bundle of the pair ``name`` and of those cut from it, and their records."""
    bundle = config.out / BUNDLES / f"{name}-seed{seed}"
    model_id = f"{Path(config.data.removeprefix('folder:')).name}-{name}-seed{seed}"
    export = ExportConfig(config.folder(name, seed) / PAIR, bundle, config.root, model_id)
    variants: dict[str, Callable[[], object]] = {"full": partial(run_export, export, say)}
    for variant, trained in VARIANTS.get(name, {}).items():
        pair = config.folder(trained, seed) / PAIR
        variants[variant] = partial(_add, bundle, variant, pair, config.root, say)
    for variant, run in variants.items():
        exported = partial(_holds, bundle, variant)
        yield Stage(f"export {bundle.name}, {variant}", exported, run, interruptible=False)
        measured = config.out / "measured" / f"{bundle.name}-{variant}"
        distorted = config.distorted and variant == "full"
        settings = MeasureConfig(str(bundle), config.data, config.out / RECORDS, config.root, variant, distorted)
        measure = partial(_measure, settings, measured, say)
        yield Stage(f"measure {bundle.name}, {variant}", measured.exists, measure, interruptible=False)


def _add(bundle: Path, variant: str, pair: Path, root: Path | None, say: Callable[[str], None]) -> None:
    add_variant(load_bundle(bundle), variant, pair, root, say)


def _holds(bundle: Path, variant: str) -> bool:
    """Whether the bundle has the variant; quickly, without verifying it."""
    try:
        return variant in json.loads((bundle / "manifest.json").read_text())["variants"]
    except FileNotFoundError:
        return False


def _measure(settings: MeasureConfig, measured: Path, say: Callable[[str], None]) -> None:
    records = run_measure(settings, say)
    measured.parent.mkdir(exist_ok=True)
    measured.write_text(f"{len(records)} records\n")
