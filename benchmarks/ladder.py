"""What a message's bits are made of: ideal -> payload -> gRPC -> socket, for messages of 1 to 256 images.

    python -m benchmarks.ladder [--bundle digits] [--source digits] [--images 4096] [--json FILE]

Each row is a real server and a real sensor on this machine, their bytes counted by a relay between them.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from latentwire.bundle import load_bundle
from latentwire.local_run import stream, summarise
from latentwire.report import write_json

SIZES = (1, 4, 16, 64, 256)


def main(
    bundle: str = "digits",
    source: str = "digits",
    images: int = 4096,
    data_root: Annotated[Path | None, typer.Option(envvar="LATENTWIRE_DATA")] = None,
    json: Path | None = None,
) -> None:
    """Measure and print the ladder."""
    model_id = load_bundle(bundle).manifest.model_id
    options = ["--data-root", str(data_root)] if data_root else []
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        with stream(bundle, source, images, size, options) as running:
            results = running.finish()
            (row,) = summarise(results, running.relay)
        over = {"payload_over_ideal_bits_per_message": (row["payload_bits"] - row["ideal_bits"]) * size}
        rows.append({"bundle": model_id} | row | over)
    Console().print(_table(rows, model_id))
    write_json(json, rows)


def _table(rows: list[dict[str, Any]], model_id: str) -> Table:
    table = Table(title=f"{model_id}, {rows[0]['model']}, rate scale {rows[0]['rate_scale']:g}: bits an image")
    for name in ("images/message", "ideal", "payload", "gRPC", "socket", "payload - ideal, a message"):
        table.add_column(name, justify="right")
    for row in rows:
        bits = [f"{row[f'{name}_bits']:.2f}" for name in ("ideal", "payload", "grpc", "wire")]
        over = row["payload_over_ideal_bits_per_message"]
        whole = row["ideal_bits"] * row["images_per_message"]
        table.add_row(str(row["images_per_message"]), *bits, f"{over:.2f} bits ({over / whole:.2%})")
    return table


if __name__ == "__main__":
    typer.run(main)
