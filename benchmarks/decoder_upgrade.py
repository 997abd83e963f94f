"""What a decoder upgrade gains, over the whole range of every knob: a bundle before and after ``latentwire upgrade``.

    python -m benchmarks.decoder_upgrade BEFORE AFTER [--split test|validation] [--data-root DIR] [--json FILE]

Both decode the very same messages, for sensor and codec are the same; so beside the accuracies stands how many images
the new decoder answers right that the old one did not (gained), and the other way round (lost).
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from latentwire.bundle import load_bundle
from latentwire.datasets import Dataset
from latentwire.operating_point import OperatingPoint
from latentwire.report import write_json
from training.data import load_split, split_validation
from training.evaluation import decoder, encode_dataset, measure

Row = dict[str, Any]


def main(
    before: str,
    after: str,
    split: Annotated[str, typer.Option(help="test, or the validation images of the training.")] = "test",
    data_root: Annotated[Path | None, typer.Option(envvar="LATENTWIRE_DATA")] = None,
    json: Path | None = None,
) -> None:
    """Measure and print."""
    rows = compare(before, after, split, data_root)
    Console(width=110).print(_table(rows))
    write_json(json, rows)


def compare(before: str, after: str, split: str, data_root: Path | None) -> list[Row]:
    """A row a knot of each entropy model; ValueError if the bundles are not of the same sensor."""
    old, new = load_bundle(before), load_bundle(after)
    if old.sensor_digest != new.sensor_digest:
        raise ValueError(f"{before} and {after} are not of the same sensor: nothing can be compared")
    variant = old.manifest.default_variant
    encoded = encode_dataset(old, variant, _images(old.manifest.training, split, data_root))
    decoders = [decoder(bundle, variant) for bundle in (old, new)]
    rows: list[Row] = []
    for model in old.manifest.variant().models:
        parameters = old.codec_parameters(variant, model)
        for scale in parameters.frontier.rate_scale.tolist():
            point = OperatingPoint.derive(parameters, variant, model, scale)
            first, second = (measure(point, encoded, decode) for decode in decoders)
            was, now = (measured.answers == encoded.labels for measured in (first, second))
            row = second.row
            rows.append(
                {"part": "decoder upgrade", "bundle": new.manifest.model_id, "variant": variant, "split": split}
                | {"model": model, "rate_scale": scale, "images": row.images, "accuracy": row.accuracy}
                | {"accuracy_before": first.row.accuracy, "gained": int((now & ~was).sum())}
                | {"lost": int((was & ~now).sum()), "share_refined": row.share_refined}
                | {"total_entropy_bits": row.total_entropy_bits, "ideal_bits": row.ideal_bits}
                | {"payload_bits": row.payload_bits}
            )
    return rows


def _images(trained: dict[str, Any], split: str, root: Path | None) -> Dataset:
    if split == "test":
        return load_split(trained["data"], root, "test")
    held, kept = int(trained["validation_images"]), int(trained["train_images"])
    return split_validation(load_split(trained["data"], root, "train"), held / (held + kept), int(trained["seed"]))[1]


def _table(rows: list[Row]) -> Table:
    table = Table(title=f"{rows[0]['bundle']}, {rows[0]['images']} {rows[0]['split']} images", box=None)
    for name in ("model", "rate scale", "refined", "ideal bits", "before", "after", "points", "gained", "lost"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        points = 100 * (row["accuracy"] - row["accuracy_before"])
        table.add_row(
            row["model"],
            f"{row['rate_scale']:g}",
            f"{row['share_refined']:.1%}",
            f"{row['ideal_bits']:.2f}",
            f"{row['accuracy_before']:.2%}",
            f"{row['accuracy']:.2%}",
            f"{points:+.2f}",
            str(row["gained"]),
            str(row["lost"]),
        )
    anchored = [row for row in rows if row["model"] == "anchored"]
    mean = np.mean([row["accuracy"] - row["accuracy_before"] for row in anchored]) if anchored else 0.0
    table.caption = f"the anchored code's mean gain: {100 * mean:+.2f} points"
    return table


if __name__ == "__main__":
    typer.run(main)
