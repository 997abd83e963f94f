"""Options of the commands that train a new pair: ``train ce``, ``train rate`` and ``screen``."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[str, typer.Option(help="digits, cifar10, cifar100, or folder:PATH of class folders.")]
Out = Annotated[Path, typer.Option(help="Folder for the checkpoint and the log.")]
Backbone = Annotated[str, typer.Option(help="resnet18 or resnet34.")]
Width = Annotated[int, typer.Option(min=1, help="Channels of the first stage; 64 is full width.")]
Cut = Annotated[int, typer.Option(min=1, max=4, help="Stages on the sensor.")]
Grid = Annotated[int, typer.Option(min=1, help="Side of the pooled map before the bottleneck.")]
Bottleneck = Annotated[str, typer.Option(help="dense, or spatial: each cell of the map keeps entries of its own.")]
Hidden = Annotated[int, typer.Option(min=1, help="The bottleneck's inner width.")]
Entries = Annotated[int, typer.Option(min=1, help="Entries of the latent.")]
Head = Annotated[bool, typer.Option(help="A classifier on the latent, which names the anchor.")]
Patch = Annotated[int, typer.Option(min=1, help="Pixels a side that are folded into channels before the stem.")]
DecoderKind = Annotated[str, typer.Option(help="How it grows back: linear or transposed.")]
DecoderWidth = Annotated[int | None, typer.Option(min=1, help="Channels it starts from; default: the encoder's last.")]
Size = Annotated[tuple[int, int] | None, typer.Option(help="Height and width for a folder's images.")]
Epochs = Annotated[int, typer.Option(min=1)]
Batch = Annotated[int, typer.Option(min=2)]
PeakRate = Annotated[float, typer.Option(help="The highest learning rate.")]
Schedule = Annotated[str, typer.Option(help="Its course: one-cycle, or steps: x 0.1 at 50, 75 and 90 %.")]
Validation = Annotated[float, typer.Option(help="Share of the training set to measure on.")]
Precision = Annotated[str, typer.Option(help="bf16 or fp32.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
Devices = Annotated[int, typer.Option(min=1, help="How many GPUs (with --device cpu: processes) train together.")]
Threads = Annotated[int | None, typer.Option(min=1, help="torch's threads on the CPU.")]
Resume = Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")]
From = Annotated[Path, typer.Option("--from", help="A training command's checkpoint.")]


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers from "1,2,3"; typer's wrong use if they are none."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} takes whole numbers with commas between, not {text!r}") from None
