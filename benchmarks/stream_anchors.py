"""A stream is not a shuffled test set: what anchors cost, and what is answered, when neighbours show the same class.

    python -m benchmarks.stream_anchors [--bundle digits --bundle cifar10] [--data-root DIR] [--json FILE]

Test images in an order in which the class persists with probability 0.95 and otherwise becomes any other, 64 images a
message, at the knob's lowest position: nothing is refined. Three ways to code the same images: each anchor by itself;
the same anchors in runs; and anchors and runs chosen together, as the sensor does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.codec import Subject, load_subject
from latentwire.bundle import shipped_bundles
from latentwire.codec import runs
from latentwire.codec.choice import Choice, log_posterior
from latentwire.codec.latent_codec import LatentCodec
from latentwire.operating_point import OperatingPoint
from latentwire.report import write_json
from training.evaluation import at_point

IMAGES_PER_MESSAGE = 64
MESSAGES = 400
TARGET = 1.2

Latents = NDArray[np.float32]
Choose = Callable[[LatentCodec, Latents, Latents | None], Choice]


def main(
    bundle: Annotated[list[str] | None, typer.Option()] = None,
    data_root: Annotated[Path | None, typer.Option(envvar="LATENTWIRE_DATA")] = None,
    persistence: float = 0.95,
    seed: int = 0,
    json: Path | None = None,
) -> None:
    """Measure and print."""
    rows = []
    for name in bundle or shipped_bundles():
        rows += _measure(load_subject(name, None, data_root), persistence, seed)
    Console(width=110).print(_table(rows))
    write_json(json, rows)


def stream_order(labels: NDArray[np.int64], persistence: float, images: int, seed: int) -> NDArray[np.intp]:
    """Which image comes when, (images,): each class's own go round, shuffled anew each time."""
    random = np.random.default_rng(seed)
    classes = int(labels.max()) + 1
    stays = random.random(images) < persistence
    moves = random.integers(1, classes, images)  # to another class, any alike
    shown = np.cumsum(np.where(stays, 0, moves)) % classes
    order = np.empty(images, np.intp)
    for label in range(classes):
        frames, own = np.flatnonzero(shown == label), np.flatnonzero(labels == label)
        rounds = -(-len(frames) // len(own))
        order[frames] = np.concatenate([own[:0], *(random.permutation(own) for _ in range(rounds))])[: len(frames)]
    return order


def source_entropy_bits(persistence: float, classes: int) -> float:
    """Entropy of the stream's class, given the one before, in bits an image."""
    change = 1 - persistence
    return float(-persistence * np.log2(persistence) - change * np.log2(change / (classes - 1)))


def by_itself(codec: LatentCodec, latent: Latents, head: Latents | None) -> Choice:
    """The likeliest anchors, each coded by itself."""
    anchor = log_posterior(codec.parameters, latent, head).argmax(axis=1).astype(np.int32)
    return Choice(anchor, np.zeros_like(anchor))


def in_runs(codec: LatentCodec, latent: Latents, head: Latents | None) -> Choice:
    """The likeliest anchors, in the run mode that codes them in the fewest bits."""
    plain = by_itself(codec, latent, head)
    tried = [Choice(plain.anchor, plain.level, mode) for mode in range(runs.MODES)]
    return min(tried, key=lambda choice: codec.encode(latent, choice).ideal_bits)


def together(codec: LatentCodec, latent: Latents, head: Latents | None) -> Choice:
    """What the sensor does."""
    return codec.choose(latent, head)


WAYS: dict[str, Choose] = {"each by itself": by_itself, "in runs": in_runs, "chosen with the runs": together}


def _measure(subject: Subject, persistence: float, seed: int) -> list[dict[str, Any]]:
    entry = subject.bundle.manifest.variant()
    lowest = entry.model().rate_min
    point = OperatingPoint.derive(subject.parameters(entry.default_model), subject.variant, entry.default_model, lowest)
    codec = point.codec
    encoded = subject.encoded
    order = stream_order(encoded.labels, persistence, MESSAGES * IMAGES_PER_MESSAGE, seed)
    entropy = source_entropy_bits(persistence, int(encoded.labels.max()) + 1)
    every = np.arange(len(codec.anchors), dtype=np.int32)
    answer_to = at_point(subject.decode, point)(codec.anchors, every, np.zeros_like(every)).argmax(axis=1)
    rows = []
    for way, choose in WAYS.items():
        beyond_first, payload, right = 0.0, 0, 0
        for frames in np.split(order, MESSAGES):
            latent, head = encoded.latent[frames], None if encoded.head_logits is None else encoded.head_logits[frames]
            message = codec.encode(latent, choose(codec, latent, head))
            beyond_first += float(message.image_bits[1:].sum())
            payload += message.payload_bits
            right += int((answer_to[message.anchor] == encoded.labels[frames]).sum())
        bits = beyond_first / (MESSAGES * (IMAGES_PER_MESSAGE - 1))
        rows.append(
            subject.row("stream")
            | {"model": entry.default_model, "rate_scale": entry.model().rate_min, "images": len(order)}
            | {"images_per_message": IMAGES_PER_MESSAGE, "persistence": persistence, "seed": seed, "way": way}
            | {"accuracy": right / len(order), "payload_bits": payload / len(order)}
            | {"anchor_bits_beyond_first": bits, "source_entropy_bits": entropy}
            | {"ratio": bits / entropy, "against": "the source's entropy"}
        )
    return rows


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title=f"anchors in a stream, {IMAGES_PER_MESSAGE} images a message: bits an image", box=None)
    for name in ("data", "anchors", "bits beyond the first", "the source's", "ratio", "payload", "accuracy"):
        table.add_column(name, justify="left" if name in ("data", "anchors") else "right")
    for row in rows:
        table.add_row(
            row["data"],
            row["way"],
            f"{row['anchor_bits_beyond_first']:.3f}",
            f"{row['source_entropy_bits']:.3f}",
            f"{row['ratio']:.2f}",
            f"{row['payload_bits']:.3f}",
            f"{row['accuracy']:.2%}",
        )
    table.caption = f"wanted: a ratio of at most {TARGET}"
    return table


if __name__ == "__main__":
    typer.run(main)
