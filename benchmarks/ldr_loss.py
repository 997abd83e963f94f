"""The LDR loss's time beside the backbone's step it belongs to, in one run: ``python -m benchmarks.ldr_loss``."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from latentwire.report import write_json
from training.ldr_loss import ldr_loss
from training.models import PairConfig, make_pair
from training.side_branch import SideBranch


def main(
    batch: int = 1000,
    repeats: int = 5,
    threads: int = 1,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
) -> None:
    """Forward and backward of the loss and of the quarter-width encoder, milliseconds, the least of the repeats."""
    torch.set_num_threads(threads)
    table = Table("classes", "d", "loss (ms)", "encoder (ms)", "share of the encoder's step", box=None)
    rows = []
    for classes, d in ((10, 16), (100, 64), (100, 128)):
        torch.manual_seed(0)
        encoder, side = make_pair(PairConfig(classes=classes, width=16, d=d)).encoder, SideBranch(d)
        images = torch.randint(0, 256, (batch, 32, 32, 3), dtype=torch.uint8)
        latent, labels = torch.randn(batch, d).requires_grad_(), torch.arange(batch) % classes

        def loss(side: SideBranch = side, latent: Tensor = latent, labels: Tensor = labels) -> Tensor:
            return ldr_loss(side(latent), labels)

        def encode(encoder: torch.nn.Module = encoder, images: Tensor = images) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                made: Tensor = encoder(images).latent
            return made.float().square().mean()

        loss_ms, encoder_ms = _least_ms(loss, repeats), _least_ms(encode, repeats)
        share = loss_ms / encoder_ms
        rows.append(dict(batch=batch, classes=classes, d=d, loss_ms=loss_ms, encoder_ms=encoder_ms, share=share))
        table.add_row(str(classes), str(d), f"{loss_ms:.1f}", f"{encoder_ms:.0f}", f"{share:.1%}")
    Console().print(table)
    write_json(json, rows)


def _least_ms(forward: Callable[[], Tensor], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        started = time.perf_counter()
        forward().backward()  # type: ignore[no-untyped-call]
        times.append(time.perf_counter() - started)
    return 1000 * min(times[1:])


if __name__ == "__main__":
    typer.run(main)
