"""The pictures of docs/results, from the JSON files beside them.

python -m benchmarks.figures [--results docs/results]
"""

import json
from pathlib import Path
from typing import Any

import matplotlib
import typer

from benchmarks.codec_targets import bits_at

matplotlib.use("Agg")
from matplotlib import pyplot  # only after the back end is chosen
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MultipleLocator, PercentFormatter

Rows = list[dict[str, Any]]
LOOKS = {
    "gaussian": ("#c0504d", "s", "the paper's code: rounding around zero, Gaussian"),
    "histogram": ("#e0a030", "D", "the same indices, a histogram an entry"),
    "anchored": ("#1f5fa8", "o", "anchored (the default)"),
}
PICTURES = {
    "raw": "black",
    "JPEG": "#8c6d31",
    "JPEG, its coded data alone": "#d6b656",
    "WebP": "#3a7d34",
    "AVIF": "#7b5aa6",
    "JPEG XL": "#2a9d9d",
    "Latentwire, anchored": "#1f5fa8",
    "the paper's code, in real bytes": "#c0504d",
}
BITS = (3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
POINTS_BELOW = ((0.0025, 8.0), (0.005, 6.0))  # of full-rate accuracy, at so many ideal bits: CIFAR-10's targets
PAPER_POINTS = 0.005


def main(results: Path = Path("docs/results")) -> None:
    """Draw what there are figures for."""
    if (results / "codec.json").exists():
        codec_picture(_rows(results / "codec.json"), results / "codec.png")
    if (results / "pictures.json").exists():
        pictures_picture(_rows(results / "pictures.json"), results / "pictures.png")


def codec_picture(rows: Rows, path: Path) -> None:
    """Accuracy against ideal bits for every code, whole and close up, a column a data set."""
    data = [row["data"] for row in rows if row["part"] == "pair"]
    figure, axes = pyplot.subplots(2, len(data), figsize=(6.2 * len(data), 8.2), squeeze=False)
    for column, name in enumerate(data):
        own = [row for row in rows if row.get("data") == name]
        full = next(row for row in own if row["part"] == "pair")
        knob = [row for row in own if row["part"] == "knob"]
        for axis in axes[:, column]:
            _curves(axis, knob)
        axes[0, column].set_title(f"{name}, {full['images']:,} test images", fontsize=11)
        _close_up(axes[1, column], knob, float(full["accuracy"]), name)
    axes[0, 0].legend(loc="lower right", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy, through the real codec")
    for axis in axes[1]:
        axis.set_xlabel("ideal bits an image")
    figure.suptitle("One knob from a label's bits up to the whole latent", fontsize=13)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _curves(axis: Axes, knob: Rows) -> None:
    for model, (colour, marker, label) in LOOKS.items():
        curve = sorted((r for r in knob if r["model"] == model), key=lambda r: float(r["ideal_bits"]))
        bits = [row["ideal_bits"] for row in curve]
        accuracy = [row["accuracy"] for row in curve]
        axis.plot(bits, accuracy, marker=marker, markersize=4, color=colour, label=label, linewidth=1.6)
    axis.set_xscale("log")
    most = 1.12 * max(96.0, *(row["ideal_bits"] for row in knob))
    axis.set_xlim(2.7, most)
    axis.set_xticks([bits for bits in BITS if bits < most], minor=False)
    axis.minorticks_off()
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(alpha=0.25)


def _close_up(axis: Axes, knob: Rows, full: float, name: str) -> None:
    """The top of the curves, with what was aimed at."""
    axis.set_ylim(full - 0.016, full + 0.006)
    axis.yaxis.set_major_locator(MultipleLocator(0.005))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    axis.axhline(full, color="black", linewidth=0.8)
    right = 0.95 * axis.get_xlim()[1]
    axis.text(right, full + 0.0003, f"full rate {full:.2%}", ha="right", va="bottom", fontsize=8)
    level = full - PAPER_POINTS
    ours = bits_at([r for r in knob if r["model"] == "anchored"], level, "ideal_bits")
    paper = bits_at([r for r in knob if r["model"] == "gaussian"], level, "total_entropy_bits")
    axis.axhline(level, color="black", linewidth=0.8, linestyle=":")
    axis.annotate("", (ours, level), (paper, level), arrowprops={"arrowstyle": "->", "color": "black"})
    said = f"0.5 points below full rate:\n{paper:.1f} bits by the paper's count,\n"
    said += f"{ours:.1f} ideal bits here: {1 - ours / paper:.0%} fewer"
    axis.text(3.0, level - 0.0007, said, ha="left", va="top", fontsize=8)
    image = f"one image is {100 / knob[0]['images']:.2g} points"
    axis.text(right, full - 0.0155, image, ha="right", va="bottom", fontsize=8, color="#666666")
    if name == "cifar10":
        for points, bits in POINTS_BELOW:
            axis.plot([bits], [full - points], marker="v", color="#3a7d34", markersize=9, linestyle="none")
            wanted = f"wanted: this by {bits:g} bits"
            axis.text(bits * 1.07, full - points + 0.0002, wanted, fontsize=8, va="bottom", color="#3a7d34")


def pictures_picture(rows: Rows, path: Path) -> None:
    """Accuracy against bytes: pictures in each format at several qualities, and our payloads."""
    figure, axis = pyplot.subplots(figsize=(9, 5.6))
    for name in dict.fromkeys(row["format"] for row in rows):
        curve = sorted((row for row in rows if row["format"] == name), key=lambda row: float(row["bytes"]))
        width, marker = (2.4, "o") if name.startswith("Latentwire") else (1.4, "s")
        sizes, accuracy = [row["bytes"] for row in curve], [row["accuracy"] for row in curve]
        colour = PICTURES[name]
        axis.plot(sizes, accuracy, markersize=4, label=name, linewidth=width, marker=marker, color=colour)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_xlabel("bytes an image")
    axis.set_ylabel("accuracy")
    axis.set_title(f"What a user would send instead: {rows[0]['images']:,} CIFAR-10 test images")
    axis.grid(alpha=0.25, which="both")
    axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.3, 0.06))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _rows(path: Path) -> Rows:
    rows: Rows = json.loads(path.read_text())["rows"]
    return rows


if __name__ == "__main__":
    typer.run(main)
