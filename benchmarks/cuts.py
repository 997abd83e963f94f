"""What the sensor pays at each cut: ``python -m benchmarks.cuts [--json FILE]``.

Multiply-accumulates and parameters of the encoder (head included) and of the decoder, the encoder's share of both, and
the encoder's processor time an image in ONNX Runtime on one thread, beside cut 2's in the same run. Weights do not
matter to any of it, so none are trained.
"""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.timing import Spread, take_turns
from latentwire.report import Value, write_json
from training.checkpoint import Checkpoint, save_checkpoint
from training.inference import OnnxGraph
from training.models import Pair, PairConfig, decoder_cost, encoder_cost, make_pair
from training.onnx_export import export_onnx

CUTS = (1, 2, 3, 4)
BATCH = 16
ROUNDS = 9


class Design(NamedTuple):
    """A pair but for its cut."""

    name: str
    config: PairConfig


DESIGNS = (
    Design("ResNet-18, quarter width", PairConfig(width=16, d=16)),
    Design("ResNet-18, width 32 on 2 x 2 folded pixels", PairConfig(width=32, patch=2, d=32)),
    Design("ResNet-34, quarter width, 100 classes", PairConfig(backbone="resnet34", width=16, d=64, classes=100)),
    Design("ResNet-18, full width", PairConfig(width=64, d=16)),
)


def main(json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None) -> None:
    """Measure and print."""
    table = Table("pair", "cut", "sensor MACs", "of both", "parameters", "server MACs", "time to cut 2's", box=None)
    rows: list[dict[str, Value]] = []
    for design in DESIGNS:
        pairs = {cut: _pair(design, cut) for cut in CUTS}
        times = _encoder_times(pairs)
        for cut, pair in pairs.items():
            sensor, server = encoder_cost(pair), decoder_cost(pair)
            share, ratio = sensor.macs / (sensor.macs + server.macs), times[cut] / times[2]
            costs: dict[str, Value] = {
                "sensor_macs": sensor.macs,
                "sensor_parameters": sensor.parameters,
                "server_macs": server.macs,
                "sensor_share": share,
            }
            rows.append({"pair": design.name, "cut": cut, **costs, "ratio": ratio, "against": "the encoder of cut 2"})
            figures = (f"{sensor.macs:,}", f"{share:.0%}", f"{sensor.parameters:,}", f"{server.macs:,}", f"{ratio:.2f}")
            table.add_row(design.name, str(cut), *figures)
    Console(width=130).print(table)
    write_json(json, rows)


def _pair(design: Design, cut: int) -> Pair:
    torch.manual_seed(0)
    return make_pair(replace(design.config, cut=cut)).eval()


def _encoder_times(pairs: dict[int, Pair]) -> dict[int, float]:
    """Median processor seconds of a batch through each exported encoder on one thread, taking turns."""
    image = next(iter(pairs.values())).config.image
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *image), np.uint8)
    tasks = {str(cut): partial(_graph(pair, images).run, images) for cut, pair in pairs.items()}
    return {int(cut): Spread.of(seconds).median for cut, seconds in take_turns(tasks, ROUNDS).items()}


def _graph(pair: Pair, images: NDArray[np.uint8]) -> OnnxGraph:
    config = pair.config
    classes = tuple(map(str, range(config.classes)))
    checkpoint = Checkpoint("ce", {"seed": 0}, config.to_dict(), classes, 0, 0, {"pair": pair.state_dict()}, [])
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / "c.pt", checkpoint)
        return OnnxGraph(export_onnx(Path(folder) / "c.pt", Path(folder), images).encoder, 1)


if __name__ == "__main__":
    typer.run(main)
