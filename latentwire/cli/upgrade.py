"""``latentwire upgrade``: a better decoder for a bundle whose sensors are deployed."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from latentwire.cli import recipe
from latentwire.cli.bundle import measured_table
from latentwire.cli.options import BundleOption, DataRoot, wrong_use


def upgrade(
    start: recipe.From,
    bundle: BundleOption,
    out: recipe.Out,
    data_root: DataRoot = None,
    variant: Annotated[str | None, typer.Option(help="Whose decoder; default: the bundle's own variant.")] = None,
    passes: Annotated[int, typer.Option(min=1, help="Augmentations of the training set to encode.")] = 4,
    epochs: recipe.Epochs = 8,
    batch: recipe.Batch = 256,
    rate: Annotated[float, typer.Option(help="First learning rate.")] = 1e-3,
    teacher: Annotated[list[Path] | None, typer.Option(help="Checkpoints of pairs to learn from, averaged.")] = None,
    teacher_weight: Annotated[float, typer.Option(help="Their share of what is learned; labels are the rest.")] = 0.7,
    decoder_width: Annotated[int | None, typer.Option(min=1, help="Channels it starts from; default: as now.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Default: the checkpoint's.")] = None,
    precision: recipe.Precision = "bf16",
    device: recipe.Device = "auto",
    threads: recipe.Threads = None,
    resume: recipe.Resume = False,
) -> None:
    """Train a decoder that is told level, rate scale and anchor; the sensors of the bundle stay as they are."""
    from training.upgrade import UpgradeConfig, run_upgrade

    with wrong_use():
        config = UpgradeConfig(
            source=start,
            bundle=bundle,
            out=out,
            variant=variant,
            root=data_root,
            passes=passes,
            epochs=epochs,
            batch=batch,
            rate=rate,
            teachers=tuple(teacher or ()),
            teacher_weight=teacher_weight,
            decoder_width=decoder_width,
            seed=seed,
            precision=precision,  # type: ignore[arg-type]  # UpgradeConfig says which there are
            device=device,
            threads=threads,
            resume=resume,
        )
    upgraded = run_upgrade(config, Console(stderr=True, highlight=False).print)
    Console().print(measured_table(upgraded.manifest.variant(variant).table))
    print(f"{upgraded.path}: {upgraded.manifest.model_id}, bundle {upgraded.digest}")
