"""Bundles and variants switched under load: the longest time without a send, and what became of the images.

    python -m benchmarks.switch [--bundle cifar10] [--rounds 10] [--json FILE]

A server and a sensor as two processes on this machine; the sensor sends as fast as it can. In turn it is pushed a
bundle that it must fetch, set to another variant of it, which it must fetch too, and pushed back to its own bundle;
each round's bundle is a new one. Between the switches as much time passes without one, for comparison.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from latentwire.bundle import Bundle, file_entry, load_bundle, write_bundle
from latentwire.local_run import SENSOR, Stream, stream
from latentwire.report import write_json

IMAGES = 256
CALM_S = 1.0
TARGET_MS = 200.0
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds (monotonic) of one switch, or of none (``what`` is "calm")."""

    what: str
    begin_s: float
    end_s: float


def main(
    bundle: Annotated[str, typer.Option(help="A bundle folder, or a shipped bundle's name.")] = "cifar10",
    rounds: Annotated[int, typer.Option(min=1)] = 10,
    images_per_message: Annotated[int, typer.Option(min=1)] = 16,
    json: Path | None = None,
) -> None:
    """Measure and print."""
    rows = measure(bundle, rounds, images_per_message)
    Console(width=110).print(_table(rows))
    write_json(json, rows)


def measure(bundle: str, rounds: int, images_per_message: int = 16, calm_s: float = CALM_S) -> list[dict[str, Any]]:
    """One row for each kind of switch, one for none, and one for all."""
    own = load_bundle(bundle)
    with tempfile.TemporaryDirectory(prefix="latentwire-") as name:
        folder = Path(name)
        _make_images(folder / "images", own)
        made = [make_other(own, folder / "library" / str(number), number) for number in range(rounds)]
        sensor = ["--bundle-store", str(folder / "store")]
        server = ["--library", str(folder / "library")]
        with stream(bundle, str(folder / "images"), 1 << 40, images_per_message, sensor, server) as pair:
            pair.wait_for(IMAGES)
            spans = [span for other in made for span in _round(pair, own, other, calm_s)]
            results = pair.finish(stop=True)
    return _rows(bundle, spans, results)


def make_other(own: Bundle, folder: Path, number: int) -> Bundle:
    """A bundle of the same pair that is another to sensor and server, with a second variant, OTHER, that is a third."""
    manifest = own.manifest
    files = {entry.path: (own.path / entry.path).read_bytes() for entry in manifest.files()}
    variant = manifest.variant()
    encoder = files[variant.encoder.path]
    variants = {}
    for name in (manifest.default_variant, OTHER):
        path = f"{name}-encoder-{number}.onnx"
        files[path] = _other_bytes(encoder, f"{name} {number}")
        variants[name] = replace(variant, encoder=file_entry(path, files[path]))
    other = replace(manifest, model_id=f"{manifest.model_id}-{number}", variants=variants)
    wanted = {entry.path for entry in other.files()}
    return write_bundle(folder, other, {name: content for name, content in files.items() if name in wanted})


def longest_gap_ms(sent_s: Sequence[float], begin_s: float, end_s: float) -> float:
    """The longest time without a send that lies in a span or reaches into it; ``sent_s`` rises."""
    sent = np.asarray(sent_s)
    first = max(0, int(np.searchsorted(sent, begin_s)) - 1)
    last = min(len(sent), int(np.searchsorted(sent, end_s)) + 1)
    return 1000 * float(np.diff(sent[first:last]).max(initial=0.0))


def _round(pair: Stream, own: Bundle, other: Bundle, calm_s: float) -> list[Span]:
    control = pair.control
    return [
        _span("calm", lambda: time.sleep(calm_s)),
        _span("push, fetched", lambda: control.push_bundle(SENSOR, other.digest)),
        _span("calm", lambda: time.sleep(calm_s)),
        _span("variant, fetched", lambda: control.set_variant(SENSOR, OTHER)),
        _span("calm", lambda: time.sleep(calm_s)),
        _span("push, its own", lambda: control.push_bundle(SENSOR, own.digest)),
    ]


def _span(what: str, do: Callable[[], object]) -> Span:
    begin_s = time.monotonic()
    do()
    return Span(what, begin_s, time.monotonic())


def _rows(bundle: str, spans: list[Span], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sent_s = [row["sent_s"] for row in results if row["sequence"] == row["message"]]  # one an message
    sequences = [row["sequence"] for row in results]
    lost = max(sequences) + 1 - len(set(sequences))
    doubled = len(sequences) - len(set(sequences))
    rows = []
    for what in dict.fromkeys(span.what for span in spans):
        of = [span for span in spans if span.what == what]
        gaps = [longest_gap_ms(sent_s, span.begin_s, span.end_s) for span in of]
        took_ms = [1000 * (span.end_s - span.begin_s) for span in of]
        rows.append(
            {
                "bundle": bundle,
                "switch": what,
                "switches": len(of),
                "gap_max_ms": max(gaps),
                "gap_p50_ms": float(np.median(gaps)),
                "took_p50_ms": float(np.median(took_ms)),
                "images": len(sequences),
                "images_lost": lost,
                "images_doubled": doubled,
                "images_per_s": len(sequences) / (sent_s[-1] - sent_s[0]),
            }
        )
    return rows


def _other_bytes(model: bytes, text: str) -> bytes:
    """The same ONNX model with another documentation string (field 6 of ModelProto), so other bytes."""
    assert len(text) < 128, "its length is one byte"
    return model + bytes([6 << 3 | 2, len(text)]) + text.encode()


def _make_images(folder: Path, own: Bundle) -> None:
    spec = own.manifest.input
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = random.integers(0, 256, (spec.height, spec.width, spec.channels)).astype(np.uint8)
        Image.fromarray(pixels.squeeze()).save(folder / f"{number:03}.png")


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="the longest time without a send, in milliseconds", box=None)
    for name in ("switch", "switches", "longest", "median", "switch took"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["switch"],
            str(row["switches"]),
            f"{row['gap_max_ms']:.0f}",
            f"{row['gap_p50_ms']:.0f}",
            f"{row['took_p50_ms']:.0f}",
        )
    worst = max(row["gap_max_ms"] for row in rows if row["switch"] != "calm")
    first = rows[0]
    table.caption = (
        f"{first['bundle']}: {first['images']} images at {first['images_per_s']:.0f} a second, {first['images_lost']} "
        f"lost, {first['images_doubled']} doubled; wanted at a switch: at most {TARGET_MS:g} ms; found {worst:.0f}"
    )
    return table


if __name__ == "__main__":
    typer.run(main)
