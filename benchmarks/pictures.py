"""What a user would send instead: the picture itself, in ordinary formats, classified by a full network.

    python -m benchmarks.pictures CHECKPOINT [--data-root DIR] [--codec docs/results/codec.json] [--json FILE]

The test images as JPEG, WebP, AVIF and JPEG XL files at several qualities, decoded, and classified. ``latentwire bench
codec`` does so for each bundle, by its own pair with nothing quantized in between; this program for CIFAR-10 by a
checkpoint's network, which was trained as ours was but with all its stages in one piece, beside our payloads from the
rows of that command. Bytes are whole files, headers in; for JPEG also without what an agreed header and tables would
save: a user who cares can leave these out.
"""

import io
import json as json_module
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from latentwire.datasets import Dataset, load_test
from latentwire.errors import LatentwireError
from latentwire.report import Value, write_json
from training.inference import OnnxGraph

Images = NDArray[np.uint8]
Classify = Callable[[Images], NDArray[np.int64]]

QUALITIES: dict[str, tuple[int, ...]] = {
    "JPEG": (5, 10, 20, 35, 50, 75, 90, 95),
    "WEBP": (1, 5, 10, 25, 50, 75, 90),
    "AVIF": (10, 20, 35, 50, 65, 80, 90),
    "JXL": (5, 15, 30, 50, 70, 85, 95),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "JPEG": {"optimize": True},
    "WEBP": {"method": 6},
    "AVIF": {"speed": 4, "max_threads": 1},
    "JXL": {"effort": 7, "num_threads": 1},
}
BARE = ", its coded data alone"
NAMES = {"JPEG": "JPEG", "WEBP": "WebP", "AVIF": "AVIF", "JXL": "JPEG XL"}


def main(
    checkpoint: Path,
    data_root: Annotated[Path | None, typer.Option(envvar="LATENTWIRE_DATA")] = None,
    codec: Path = Path("docs/results/codec.json"),
    json: Path | None = None,
) -> None:
    """Measure and print."""
    dataset = load_test("cifar10", data_root)
    start: dict[str, Value] = {"data": dataset.name}
    with Progress() as bar:
        task = bar.add_task("pictures", total=None)
        found = pictures(dataset, whole_network(checkpoint, dataset), lambda said: bar.update(task, description=said))
    rows = [start | row for row in found]
    rows += [start | row for row in _payloads(json_module.loads(codec.read_text())["rows"])]
    Console(width=110).print(_table(rows))
    write_json(json, rows)


def need_jpeg_xl() -> None:
    """Teach Pillow JPEG XL; LatentwireError where the plugin is not installed."""
    try:
        import pillow_jxl  # noqa: F401
    except ImportError:
        raise LatentwireError("JPEG XL needs a plugin: pip install 'latentwire[bench]', or --no-pictures") from None


def whole_network(checkpoint: Path, dataset: Dataset) -> Classify:
    """A checkpoint's encoder and decoder in one go."""
    from training.onnx_export import export_onnx  # with torch

    with TemporaryDirectory() as folder:
        exported = export_onnx(checkpoint, Path(folder), dataset.images[:256])
        encoder, decoder = OnnxGraph(exported.encoder, 1), OnnxGraph(exported.decoder, 1)

    def classify(images: Images) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = decoder.run(encoder.run(images)["latent"])["logits"].argmax(axis=1)
        return labels

    return classify


def pictures(dataset: Dataset, classify: Classify, progress: Callable[[str], None]) -> Iterator[dict[str, Value]]:
    """Bytes and accuracy of the test images as they are, and as files of each format and quality."""
    need_jpeg_xl()
    images: dict[str, Value] = {"images": len(dataset)}
    raw = float(np.mean(classify(dataset.images) == dataset.labels))
    yield images | {"format": "raw", "quality": None, "bytes": float(dataset.images[0].size), "accuracy": raw}
    for kind, quality in ((kind, quality) for kind, qualities in QUALITIES.items() for quality in qualities):
        progress(f"{dataset.name}: {NAMES[kind]}, quality {quality}")
        files = [_file(image, kind, quality) for image in dataset.images]
        decoded = np.stack([_read(file, dataset.images.shape[3]) for file in files])
        right = float(np.mean(classify(decoded) == dataset.labels))
        sizes = float(np.mean([len(file) for file in files]))
        yield images | {"format": NAMES[kind], "quality": quality, "bytes": sizes, "accuracy": right}
        if kind == "JPEG":
            bare = float(np.mean([_entropy_coded_bytes(file) for file in files]))
            yield images | {"format": f"{kind}{BARE}", "quality": quality, "bytes": bare, "accuracy": right}


def _file(image: Images, kind: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(axis=2) if image.shape[2] == 1 else image).save(
        buffer, format=kind, quality=quality, **SETTINGS[kind]
    )
    return buffer.getvalue()


def _read(file: bytes, channels: int) -> Images:
    pixels: Images = np.asarray(Image.open(io.BytesIO(file)).convert("RGB" if channels == 3 else "L"))
    return pixels.reshape(*pixels.shape[:2], channels)


def _entropy_coded_bytes(file: bytes) -> int:
    """What follows a JPEG file's scan header, up to its end marker."""
    scan = file.index(b"\xff\xda")
    header = int.from_bytes(file[scan + 2 : scan + 4], "big")
    return len(file) - 2 - (scan + 2 + header)


def _payloads(rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Value]]:
    """Ours, in messages of 64 images, from ``latentwire bench codec``."""
    for row in rows:
        if row["part"] == "knob" and row["data"] == "cifar10" and row["model"] != "histogram":
            name = "Latentwire, anchored" if row["model"] == "anchored" else "the paper's code, in real bytes"
            bits = {"bytes": row["payload_bits"] / 8, "accuracy": row["accuracy"]}
            yield {"format": name, "quality": None, "rate_scale": row["rate_scale"]} | bits


def _table(rows: Iterable[dict[str, Value]]) -> Table:
    table = Table(title="accuracy against bytes an image", box=None)
    for name in ("format", "quality or rate scale", "bytes", "accuracy"):
        table.add_column(name, justify="left" if name == "format" else "right")
    for row in rows:
        knob = row["quality"] if row["quality"] is not None else row.get("rate_scale")
        table.add_row(
            str(row["format"]),
            "" if knob is None else f"{knob:.3g}",
            f"{row['bytes']:.2f}",
            f"{row['accuracy']:.2%}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
