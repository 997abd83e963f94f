"""``latentwire train ldr --smoke``: the whole method on a tiny pair, to see that every step runs here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from latentwire.bundle import Bundle
from training.ce import CETrainingConfig
from training.duphil import LDRTrainingConfig, run_train_ldr
from training.export import ExportConfig, run_export
from training.models import PairConfig

PAIR = PairConfig(width=8, grid=4, hidden=64, d=8)


@dataclass(frozen=True, slots=True)
class SmokeConfig:
    """``data`` is a data set read under ``root``; ``out`` gets the checkpoints, the logs and the bundle; ``resume``
    goes on from them; ``threads`` are torch's."""

    data: str
    out: Path
    root: Path | None = None
    device: str = "auto"
    threads: int | None = None
    resume: bool = False


def run_smoke(config: SmokeConfig, progress: Callable[[str], None] = lambda _: None) -> Bundle:
    """CE-T, the three steps, export and evaluation, an epoch or two each: minutes on two cores for CIFAR.

    Returns the bundle ``out``/bundle, whose table holds the evaluation on the whole test set. Errors as the commands
    that it runs.
    """
    small = not config.data.startswith("cifar")
    ce = CETrainingConfig(
        config.data,
        config.out / "ce",
        config.root,
        pair=PAIR,
        epochs=4 if small else 1,
        batch=32 if small else 128,
        peak_rate=0.1,
        validation=0.1,
        device=config.device,
        threads=config.threads,
        resume=config.resume,
    )
    ldr = LDRTrainingConfig(
        ce,
        config.out,
        config.root,
        epochs=(1, 1, 1),
        batch=256,
        self_images=10,
        self_views=25,
        finetune_batch=ce.batch,
        device=config.device,
        threads=config.threads,
        resume=config.resume,
    )
    checkpoint = run_train_ldr(ldr)
    return run_export(ExportConfig(checkpoint, config.out / "bundle", config.root, f"{config.data}-smoke"), progress)
