"""``latentwire bench``: what the code costs and keeps, measured."""

import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from latentwire.cli.options import DataRoot, JsonFile

app = typer.Typer(no_args_is_help=True, help="Measure the code.")

Rows = Sequence[dict[str, Any]]


@app.callback()
def bench() -> None:
    """Measure the code."""


@app.command("codec")
def bench_codec(
    bundle: Annotated[
        list[str] | None, typer.Option(help="Bundle folders or names; default: all that ship with Latentwire.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="digits, cifar10 or cifar100: its test split; default: the bundle's own.")
    ] = None,
    data_root: DataRoot = None,
    speed: Annotated[bool, typer.Option(help="Take times too.")] = True,
    wire: Annotated[bool, typer.Option(help="Send messages of every size between processes too.")] = False,
    compressai: Annotated[
        Path | None, typer.Option(help="Folder that holds compressai (pip install --no-deps --target): its coder too.")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Send the images as JPEG, WebP, AVIF and JPEG XL files too.")] = True,
    network: Annotated[
        Path | None, typer.Option(help="A checkpoint that classifies these pictures; default: the bundle's own pair.")
    ] = None,
    json: JsonFile = None,
) -> None:
    """Accuracy and bits over the whole range of the knob, bits in messages of every size, the codec's speed, and what a
    user would send instead."""
    from benchmarks.codec import CodecBenchConfig, run_codec_bench
    from benchmarks.codec_targets import targets
    from latentwire.bundle import shipped_bundles
    from latentwire.report import write_json

    bundles = tuple(bundle or shipped_bundles())
    config = CodecBenchConfig(bundles, data, data_root, speed, wire, compressai, pictures, network)
    with Console(stderr=True, highlight=False).status("measuring") as status:
        rows = run_codec_bench(config, status.update)
    console = Console(highlight=False)
    console.width = max(console.width, 110)  # the tables need them, also where the output is no terminal
    parts: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        parts[str(row["bundle"]), str(row["part"])].append(row)
    for (name, part), chosen in parts.items():
        if part in _TABLES:
            title, make = _TABLES[part]
            console.print(_table(f"{name}: {title}", make(chosen)))
    verdicts = [
        verdict for name in dict.fromkeys(str(row["bundle"]) for row in rows) for verdict in targets(rows, name)
    ]
    console.print(_table("what was aimed at", verdicts))
    write_json(json, rows + verdicts)


@app.command("server")
def bench_server(
    bundle: Annotated[list[str] | None, typer.Option(help="Bundle folders or names; default: digits.")] = None,
    data_root: DataRoot = None,
    quick: Annotated[bool, typer.Option(help="Seconds instead of minutes, and figures that say nothing.")] = False,
    json: JsonFile = None,
) -> None:
    """Images a second and latencies of the whole server on one core: against a bare loop of entropy decoding and ONNX
    Runtime, and against LitServe, a unary gRPC service and JPEG over HTTP."""
    from benchmarks.server.bench import run_server_bench
    from benchmarks.server.plan import QUICK, Plan
    from benchmarks.server.tables import aims, tables, verdicts
    from latentwire.report import write_json

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of what stops the servers that were started
    rows: list[dict[str, Any]] = []
    with Console(stderr=True, highlight=False).status("measuring") as status:
        for name in bundle or ["digits"]:
            rows += run_server_bench(name, data_root, QUICK if quick else Plan(), status.update)
    console = Console(highlight=False)
    console.width = max(console.width, 110)
    for title, part in tables(rows):
        console.print(_table(title, part))
    for row in rows:
        if row["part"] == "missing":
            console.print(
                f"not compared with {row['server']}: {row['needs']} not installed; pip install "
                "'latentwire[bench-server]'",
                markup=False,
            )
    found = verdicts(rows)
    console.print(_table("what was aimed at", aims(found)))
    write_json(json, rows + found)


def _knob(rows: Rows) -> Rows:
    return [
        {
            "model": row["model"],
            "rate scale": f"{row['rate_scale']:.3g}",
            "refined": f"{row['share_refined']:.1%}",
            "accuracy": f"{row['accuracy']:.2%}",
            "entropy": f"{row['total_entropy_bits']:.2f}",
            "ideal": f"{row['ideal_bits']:.2f}",
            "payload": f"{row['payload_bits']:.2f}",
        }
        for row in rows
    ]


def _message(rows: Rows) -> Rows:
    return [
        {
            "model": row["model"],
            "rate scale": f"{row['rate_scale']:.3g}",
            "images/message": row["images_per_message"],
            "ideal": f"{row['ideal_bits']:.2f}",
            "payload": f"{row['payload_bits']:.2f}",
            "gRPC": f"{row['grpc_bits']:.2f}",
            "payload - ideal, a message": f"{row['overhead_bits_per_message']:.2f}",
        }
        for row in rows
    ]


def _wire(rows: Rows) -> Rows:
    names = ("ideal", "payload", "grpc", "wire")
    return [
        {"model": row["model"], "rate scale": f"{row['rate_scale']:.3g}", "images/message": row["images_per_message"]}
        | {name: f"{row[f'{name}_bits']:.2f}" for name in names}
        for row in rows
    ]


def _speed(rows: Rows) -> Rows:
    return [
        {
            "model": row["model"],
            "rate scale": f"{row['rate_scale']:.3g}",
            "coder": row.get("coder", "constriction"),
            "images/message": row["images_per_message"],
            "ratio": f"{row['ratio']:.3f}",
            "quartiles": f"{row['ratio_low']:.3f} to {row['ratio_high']:.3f}",
            "against": row["against"],
        }
        for row in rows
    ]


def _portable(rows: Rows) -> Rows:
    return [
        {
            "model": row["model"],
            "rate scale": f"{row['rate_scale']:.3g}",
            "symbols": row["symbols"],
            "encoding, µs a symbol": f"{row['encode_us_per_symbol']:.2f}",
            "decoding": f"{row['decode_us_per_symbol']:.2f}",
        }
        for row in rows
    ]


def _picture(rows: Rows) -> Rows:
    return [
        {
            "format": row["format"],
            "quality": "" if row["quality"] is None else row["quality"],
            "bytes an image": f"{row['bytes']:.2f}",
            "accuracy": f"{row['accuracy']:.2%}",
            "classified by": row["classifier"],
        }
        for row in rows
    ]


def _other_coder(rows: Rows) -> Rows:
    return [
        {
            "model": row["model"],
            "rate scale": f"{row['rate_scale']:.3g}",
            "images/message": row["images_per_message"],
            "coder": row["coder"],
            "ideal": f"{row['ideal_bits']:.2f}",
            "payload": f"{row['payload_bits']:.2f}",
            "ratio to ours": "" if row["ratio"] is None else f"{row['ratio']:.3f}",
        }
        for row in rows
    ]


_TABLES: dict[str, tuple[str, Callable[[Rows], Rows]]] = {
    "knob": ("bits an image over the range of the knob, 64 images a message", _knob),
    "message": ("bits an image in messages of every size", _message),
    "wire": ("bits an image between a sensor's and a server's process", _wire),
    "other coder": ("bits an image of the same symbols through other coders", _other_coder),
    "picture": ("what a user would send instead", _picture),
    "sensor time": ("choosing and coding on the sensor", _speed),
    "bulk decoding": ("decoding 10,000 images as one message", _speed),
    "portable coder": ("the coder in plain Python, 64 images a message", _portable),
}


def _table(title: str, rows: Rows) -> Table:
    table = Table(title=title, box=None, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) and name in _WORDS else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table


_WORDS = {"model", "format", "classified by", "coder", "against", "part", "bundle", "target", "found", "verdict"}
_WORDS |= {"server", "data", "aim", "held"}
