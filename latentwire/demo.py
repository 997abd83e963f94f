"""``latentwire demo``: the main job on this machine, and what it costs beside sending the picture itself."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from latentwire.bundle import ModelEntry, load_bundle
from latentwire.codec.parameters import Frontier
from latentwire.datasets import load_test
from latentwire.local_run import SENSOR, Stream, stream, summarise
from latentwire.report import Value

JPEG_QUALITY = 75
ENDLESS = 2**31 - 1  # images: a sensor goes round and round until it is stopped
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """``data`` is digits, cifar10 or cifar100; ``bundle`` the bundle, by default the shipped one of that name;
    ``rounds`` how often the test images go round at each rate scale, at least."""

    data: str = "digits"
    bundle: str | None = None
    data_root: Path | None = None
    rounds: int = 4
    images_per_message: int = 64


def run_demo(config: DemoConfig, console: Console) -> list[dict[str, Value]]:
    """Stream, turn the knob over its range, print the table; its rows, baselines last."""
    console.width = max(console.width, 100)  # the table needs them, also where the output is no terminal
    name = config.bundle or config.data
    bundle = load_bundle(name)
    dataset = load_test(config.data, config.data_root)
    variant = bundle.manifest.variant()
    entry = variant.model()
    frontier = bundle.codec_parameters(bundle.manifest.default_variant, variant.default_model).frontier
    scales = demo_scales(entry, frontier)
    measured = {row.rate_scale: row.accuracy for row in variant.table if row.model == variant.default_model}
    images = len(dataset.images) * config.rounds
    console.print(
        f"[bold]{bundle.manifest.model_id}[/]: {len(dataset.images)} test images, {config.rounds} times or more at "
        f"each rate scale of {', '.join(f'{s:g}' for s in scales)}; server and sensor are processes of this machine"
    )
    options = ["--rate-scale", repr(scales[0])]
    options += ["--data-root", str(config.data_root)] if config.data_root else []
    with stream(name, config.data, ENDLESS, config.images_per_message, options) as running:
        answered = 0
        for scale in scales[1:]:
            answered = _turn(running, answered + images, scale, console)
        running.wait_for(answered + images)
        results = running.finish(stop=True)
        rows = [
            {"bundle": bundle.manifest.model_id, "manifest_accuracy": measured.get(float(row["rate_scale"]))} | row
            for row in summarise(results, running.relay, len(dataset.images))
        ]
    rows += baselines(dataset.images)
    console.print(_table(rows, config.data))
    return rows


def demo_scales(entry: ModelEntry, frontier: Frontier) -> list[float]:
    """From the range's top to its low end, by way of the default and a knot on each side of it."""
    knots = frontier.rate_scale.tolist()
    default = min(range(len(knots)), key=lambda j: abs(knots[j] - entry.rate_default))
    stops = {0, default // 2, default, (default + len(knots)) // 2, len(knots) - 1}
    return [entry.rate_default if j == default else knots[j] for j in sorted(stops, reverse=True)]


def baselines(images: Pixels) -> list[dict[str, Value]]:
    """What the pictures themselves cost: raw, as PNG, as JPEG."""
    picture: dict[str, Callable[[Pixels], int]] = {
        "raw": lambda image: int(image.size),
        "PNG": lambda image: _size(image, format="PNG", optimize=True),
        f"JPEG q{JPEG_QUALITY}": lambda image: _size(image, format="JPEG", quality=JPEG_QUALITY),
    }
    return [
        {"model": name, "images": len(images), "payload_bits": float(np.mean([8 * size(image) for image in images]))}
        for name, size in picture.items()
    ]


def _turn(running: Stream, images: int, scale: float, console: Console) -> int:
    """Turn the knob once so many images are answered; how many are when the first is at the new rate scale."""
    running.wait_for(images)
    before, after = running.control.set_rate(SENSOR, scale)
    console.print(
        f"  after {images} images: rate scale {before.rate_scale:g} -> {after.rate_scale:g}, "
        f"{before.payload_bits_per_image:.2f} -> {after.payload_bits_per_image:.2f} payload bits an image"
    )
    info = running.info()
    return images if info is None else info.images_answered


def _size(image: Pixels, **options: Any) -> int:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(axis=2) if image.shape[2] == 1 else image).save(buffer, **options)
    return buffer.tell()


_COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("rate", "rate_scale", lambda v: f"{v:g}"),
    ("images", "images", str),
    ("accuracy", "accuracy", lambda v: f"{v:.1%}"),
    ("manifest", "manifest_accuracy", lambda v: f"{v:.1%}"),
    ("refined", "share_refined", lambda v: f"{v:.0%}"),
    ("ideal", "ideal_bits", lambda v: f"{v:.2f}"),
    ("payload", "payload_bits", lambda v: f"{v:.2f}"),
    ("wire", "wire_bits", lambda v: f"{v:.2f}"),
    ("p50 ms", "latency_p50_ms", lambda v: f"{v:.1f}"),
    ("p95 ms", "latency_p95_ms", lambda v: f"{v:.1f}"),
)


def _table(rows: list[dict[str, Value]], data: str) -> Table:
    caption = (
        "manifest: the accuracy that the bundle's export measured; ideal, payload, wire: mean bits an image; wire is "
        "counted at the sensor's socket, framing in"
    )
    table = Table(title=f"{data}: what an image costs", caption=caption, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("sent as")
    for heading, _, _ in _COLUMNS:
        table.add_column(heading, justify="right")
    for row in rows:
        cells = ["" if row.get(name) is None else show(row[name]) for _, name, show in _COLUMNS]
        table.add_row(str(row["model"]), *cells)
    return table
