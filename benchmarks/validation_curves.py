"""Checkpoints compared on their validation images: what every choice of a training setting was made on.

    python -m benchmarks.validation_curves CHECKPOINT... [--data-root DIR] [--bits 6,8,12,16,24,32] [--json FILE]

Models are fitted on training images and validation images are coded by the real codec. Printed is the accuracy at equal
total entropy by the paper's code, linearly between its measured operating points, at the top of its knob, of the head
alone, and of the anchored code at its lowest position and with a tenth refined. The test set is not read.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from latentwire.codec.parameters import CodecParameters
from latentwire.datasets import Dataset
from latentwire.report import Value, write_json
from training.checkpoint import load_checkpoint
from training.duphil import source_data
from training.evaluation import Encoded, sweep
from training.fit import fit_gaussian
from training.fit_anchored import fit_anchored
from training.models import Pair
from training.onnx_export import load_pair

SCALES = tuple(2.0 ** (k / 2) for k in range(-8, 7))
BATCH = 512
TRAIN_IMAGES = 20_000  # enough to fit a model on


def main(
    checkpoints: list[Path],
    data_root: Annotated[Path | None, typer.Option(envvar="LATENTWIRE_DATA")] = None,
    bits: Annotated[str, typer.Option(help="Total entropies to compare at.")] = "6,8,12,16,24,32",
    threads: int = 1,
    json: Path | None = None,
) -> None:
    """Measure and print."""
    torch.set_num_threads(threads)
    at = [float(part) for part in bits.split(",")]
    table = Table("checkpoint", *(f"{b:g} bits" for b in at), "top", "head", "anchors", "a tenth refined", box=None)
    rows = []
    for path in checkpoints:
        row = _row(path, data_root, at)
        rows.append(row)
        table.add_row(str(path.parent), *(f"{v:.2%}" for v in list(row.values())[2:] if isinstance(v, float)))
        Console(width=160).print(table)
    write_json(json, rows)


def _row(path: Path, root: Path | None, at: list[float]) -> dict[str, Value]:
    checkpoint = load_checkpoint(path)
    pair = load_pair(checkpoint).eval()
    train, validation = source_data(checkpoint, path, root)
    fitted, held = _encode(pair, train, TRAIN_IMAGES), _encode(pair, validation, len(validation))
    decode = partial(_decode, pair)
    paper = sweep(fit_gaussian(fitted.latent), "gaussian", "full", held, decode, SCALES)
    entropy, accuracy = [r.total_entropy_bits for r in paper], [r.accuracy for r in paper]
    anchored: CodecParameters = fit_anchored(fitted, held, decode)
    low, tenth = sweep(anchored, "anchored", "full", held, decode, [anchored.rate_min, 0.1])
    head = held.latent if held.head_logits is None else held.head_logits
    return {
        "checkpoint": str(path),
        "images": len(validation),
        **{f"accuracy_at_{b:g}_bits": float(np.interp(b, entropy, accuracy)) for b in at},
        "accuracy_top": accuracy[-1],
        "accuracy_head": float(np.mean(head.argmax(1) == held.labels)),
        "accuracy_anchors": low.accuracy,
        "accuracy_tenth_refined": tenth.accuracy,
    }


def _encode(pair: Pair, dataset: Dataset, most: int) -> Encoded:
    latent, logits = [], []
    with torch.inference_mode():
        for start in range(0, min(most, len(dataset)), BATCH):
            encoded = pair.encoder(torch.from_numpy(dataset.images[start : min(start + BATCH, most)]))
            latent.append(encoded.latent.numpy())
            logits.append(None if encoded.head_logits is None else encoded.head_logits.numpy())
    head = None if logits[0] is None else np.concatenate([part for part in logits if part is not None])
    stacked = np.concatenate(latent)
    return Encoded(stacked, head, dataset.labels[: len(stacked)])


def _decode(pair: Pair, latent: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        parts = [pair.decoder(part).numpy() for part in torch.split(torch.from_numpy(latent), BATCH)]
    return np.concatenate(parts)


if __name__ == "__main__":
    typer.run(main)
