"""``latentwire train all``: a whole data set at full size, in commands of some minutes."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from latentwire.cli import recipe
from latentwire.cli.options import DataRoot, wrong_use


def train_all(
    data: recipe.Data,
    out: Annotated[Path, typer.Option(help="Folder for all that is made; the same one goes on.")],
    data_root: DataRoot = None,
    seeds: Annotated[str, typer.Option(help="A whole run each.")] = "0",
    epochs: Annotated[int, typer.Option(min=1, help="Of CE-T.")] = 200,
    steps: Annotated[str, typer.Option(help="Epochs of the three steps.")] = "50,10,40",
    cut_epochs: Annotated[int, typer.Option(min=1, help="Of each step after truncation.")] = 10,
    noise: Annotated[float, typer.Option(help="Most noise on the latent in the steps, in standard deviations.")] = 0.0,
    width: recipe.Width = 64,
    distorted: Annotated[bool, typer.Option(help="Also measure rotated, flipped and recoloured pictures.")] = True,
    smoke: Annotated[bool, typer.Option(help="Every stage on a tiny pair, an epoch or so each.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Save and end after so many; the same command goes on.")] = None,
    outbox: Annotated[Path | None, typer.Option(help="Folder for what changed, in files under 16 MiB.")] = None,
    device: recipe.Device = "auto",
    devices: recipe.Devices = 1,
    threads: recipe.Threads = None,
) -> None:
    """CE-T, DuPHiL, LDR-FT, truncated pairs, bundles and their measurement: all of a data set, full size, resumable."""
    from dataclasses import replace

    from training.full_size import run_full_size
    from training.stages import LDR, FullSizeConfig, full_size, smoke_config

    with wrong_use():
        config = FullSizeConfig(
            data, out, data_root, replace(full_size(data), width=width), recipe.numbers(seeds, "--seeds"), epochs,
            recipe.numbers(steps, "--steps"),  # type: ignore[arg-type]  # refused if they are not three
            cut_epochs, ldr={**LDR, "noise": noise}, distorted=distorted, minutes=minutes, outbox=outbox,
            device=device, devices=devices, threads=threads,
        )  # fmt: skip
        config = smoke_config(config) if smoke else config
    status = run_full_size(config, Console(stderr=True, highlight=False).print)
    for name in status.not_packed:
        print(f"did not fit {outbox}, and goes next time: {name}")
    if status.left:
        print(f"{len(status.done)} stages done, {len(status.left)} left: {'; '.join(status.left)}")
        print("the same command goes on")
    else:
        print(f"all {len(status.done)} stages done: {out}")
