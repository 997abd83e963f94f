"""What the encoder costs a sensor in floats and in 8 bits, beside running the whole classifier there.

    python -m benchmarks.encoder_variants [--bundle digits --bundle cifar10] [--data-root DIR] [--json FILE]

A bundle that has no int8 variant gets one in a temporary folder, as ``latentwire export --int8`` makes it. Accuracy and
bits are those of the whole test set through the real codec at the default model's default rate scale; of the whole
classifier, of its own answers. Times are processor time, the rows taking turns, one thread; memory is what each adds to
a process of its own that has ONNX Runtime loaded, after 100 batches of 16.
"""

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
import psutil
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.timing import Spread, take_turns
from latentwire.bundle import Bundle, load_bundle, shipped_bundles
from latentwire.datasets import Dataset, load_test
from latentwire.report import write_json

ROUNDS = 25
RUNS = 40  # of one image, or of one batch, in a round
BATCH = 16  # what a sensor encodes at once, by default
MEMORY_RUNS = 100

Chain = tuple[Path, ...]  # graphs that run one after the other: an encoder, or that and a decoder


def main(
    bundle: Annotated[list[str] | None, typer.Option()] = None,
    data_root: Annotated[Path | None, typer.Option(envvar="LATENTWIRE_DATA")] = None,
    json: Path | None = None,
) -> None:
    """Measure and print."""
    rows: list[dict[str, Any]] = []
    for name in bundle or shipped_bundles():
        with _with_int8(name, data_root) as whole:
            rows += _measure(name, whole, load_test(name, data_root))
    Console(width=120).print(_table(rows))
    write_json(json, rows)


@contextmanager
def _with_int8(name: str, data_root: Path | None) -> Iterator[Bundle]:
    bundle = load_bundle(name)
    if "int8" in bundle.manifest.variants:
        yield bundle
        return
    from training.bundling import Splits  # late: the processes that measure memory import this module
    from training.data import load_split, split_validation
    from training.quantization import add_int8

    about = bundle.manifest.training
    train, validation = (int(str(about[f"{part}_images"])) for part in ("train", "validation"))
    splits = split_validation(
        load_split(name, data_root, "train"), validation / (train + validation), int(str(about["seed"]))
    )
    with tempfile.TemporaryDirectory(prefix="latentwire-int8-") as folder:
        shutil.copytree(bundle.path, Path(folder) / name)
        yield add_int8(load_bundle(Path(folder) / name), Splits(*splits, load_test(name, data_root)))


def _measure(name: str, bundle: Bundle, test: Dataset) -> list[dict[str, Any]]:
    chains: dict[str, Chain] = {
        "encoder, float32": (bundle.encoder_path(),),
        "encoder, int8": (bundle.encoder_path("int8"),),
        "whole classifier, float32": (bundle.encoder_path(), bundle.decoder_path()),
        "whole classifier, encoder int8": (bundle.encoder_path("int8"), bundle.decoder_path("int8")),
    }
    seconds = {images: _seconds(chains, test.images[:images]) for images in (1, BATCH)}
    against = next(iter(chains))
    rows: list[dict[str, Any]] = []
    for what, chain in chains.items():
        variant = "int8" if "int8" in what else bundle.manifest.default_variant
        row = {"bundle": name, "variant": variant, "what": what, "images": len(test)}
        row |= _accuracy(bundle, variant, test) if len(chain) == 1 else {"accuracy": _whole(chain, test)}
        row |= {"file_bytes": sum(path.stat().st_size for path in chain), "memory_bytes": _memory(chain, test)}
        for images, taken in seconds.items():
            row[f"encode_ms_of_{images}"] = 1000 * Spread.of(taken[what]).median / images
        ratio = Spread.of(seconds[BATCH][what] / seconds[BATCH][against])
        row |= {"ratio": ratio.median, "ratio_low": ratio.low, "ratio_high": ratio.high, "against": against}
        rows.append(row | {"vnni": _has_byte_products()})
    return rows


def _accuracy(bundle: Bundle, variant: str, test: Dataset) -> dict[str, Any]:
    """Through the codec, at the defaults."""
    from training.evaluation import evaluate_bundle

    spec = bundle.manifest.variant(variant)
    scale = spec.model().rate_default
    (row,) = evaluate_bundle(bundle, variant, test, [spec.default_model], [scale])
    bits = {"ideal_bits": row.ideal_bits, "payload_bits": row.payload_bits}
    return {"model": row.model, "rate_scale": scale, "accuracy": row.accuracy, **bits}


def _whole(chain: Chain, test: Dataset) -> float:
    sessions = [_session(path) for path in chain]
    parts = [test.images[i : i + 256] for i in range(0, len(test), 256)]
    labels = np.concatenate([_run(sessions, part).argmax(1) for part in parts])
    return float(np.mean(labels == test.labels))


def _seconds(chains: dict[str, Chain], images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Processor seconds of each chain for ``images``, (rounds,)."""
    tasks = {what: partial(_repeat, [_session(path) for path in chain], images) for what, chain in chains.items()}
    return {what: taken / RUNS for what, taken in take_turns(tasks, ROUNDS).items()}


def _repeat(sessions: list[Any], images: NDArray[np.uint8], runs: int = RUNS) -> None:
    for _ in range(runs):
        _run(sessions, images)


def _run(sessions: list[Any], values: NDArray[Any]) -> NDArray[np.float32]:
    """The last graph's first output (N, ...) float32, each graph fed with the first output of the one before."""
    for session in sessions:
        values = session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: values})[0]
    return values


def _session(path: Path) -> Any:
    """As the sensor makes them, with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _memory(chain: Chain, test: Dataset) -> int:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_added, chain, test.images[:BATCH]).result()


def _added(chain: Chain, images: NDArray[np.uint8]) -> int:
    process = psutil.Process()
    before = process.memory_info().rss
    sessions = [_session(path) for path in chain]
    _repeat(sessions, images, MEMORY_RUNS)
    return int(process.memory_info().rss - before)


def _has_byte_products() -> bool:
    """Whether this CPU multiplies and adds bytes in one step: VNNI on x86-64, dot products on ARM64."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return bool({"avx512_vnni", "avx_vnni", "asimddp"} & set(flags))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title=f"one thread; a CPU with byte products: {'yes' if rows[0]['vnni'] else 'no'}")
    for heading in (
        "bundle",
        "on the sensor",
        "accuracy",
        "ideal bits",
        "file",
        "memory",
        "ms, 1",
        f"ms, {BATCH}",
        "time",
    ):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            str(row["bundle"]),
            str(row["what"]),
            f"{row['accuracy']:.2%}",
            f"{row['ideal_bits']:.2f}" if "ideal_bits" in row else "",
            f"{row['file_bytes'] / 1024:.0f} KiB",
            f"{row['memory_bytes'] / 2**20:.1f} MiB",
            f"{row['encode_ms_of_1']:.3f}",
            f"{row[f'encode_ms_of_{BATCH}']:.3f}",
            f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
