"""The picture of a run over a thin link.

python -m benchmarks.link_picture docs/results/link.json docs/results/link.png
"""

import json
from pathlib import Path

import matplotlib
import typer

from benchmarks.link_report import Rows, steps_of

matplotlib.use("Agg")
from matplotlib import pyplot  # only after the back end is chosen
from matplotlib.ticker import FuncFormatter, PercentFormatter

BLUE, RED, GREY = "#1f5fa8", "#c0504d", "#666666"


def main(figures: Path, picture: Path) -> None:
    """Draw the picture of a JSON file of ``benchmarks.link``."""
    draw(json.loads(figures.read_text())["rows"], picture)


def draw(rows: Rows, path: Path) -> None:
    """The link and what is used of it, the age of images, the rate scale, and accuracy, over time."""
    (run,) = (row for row in rows if row["part"] == "run")
    bins = [row for row in rows if row["part"] == "bin"]
    times = [row["from_s"] for row in bins]
    figure, (link, age, knob, accuracy) = pyplot.subplots(4, 1, figsize=(9, 10), sharex=True)
    for start, end, rate in steps_of(rows):
        link.plot([start, end], [rate / 1000] * 2, color="black", linewidth=1.6)
    link.step(times, [row["used_bits_per_s"] / 1000 for row in bins], where="post", color=BLUE, label="used")
    link.set_yscale("log", base=2)
    link.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    link.set_ylabel("kbit/s: the link, and used")
    age.step(times, [row["age_p95_s"] for row in bins], where="post", color=BLUE)
    age.axhline(run["max_age_s"], color=RED, linewidth=1, linestyle="--")
    age.set_ylim(0, None)
    age.set_ylabel("age of images, p95, s")
    knob.step(times, [row["rate_scale"] for row in bins], where="post", color=BLUE)
    knob.set_yscale("log")
    knob.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    knob.set_ylabel("rate scale, median")
    accuracy.step(times, [row["accuracy_in_time"] for row in bins], where="post", color=BLUE, label="automatic")
    fixed = [row for row in rows if row["part"] == "fixed"]
    if fixed:
        best = max(fixed, key=lambda row: float(row["accuracy_in_time"]))
        said = f"best fixed rate in hindsight ({best['rate_scale']:g}): {best['accuracy_in_time']:.1%}"
        accuracy.axhline(best["accuracy_in_time"], color=GREY, linestyle="--", label=said)
    accuracy.plot([], [], " ", label=f"automatic, all the while: {run['accuracy_in_time']:.1%}")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    accuracy.set_ylabel("right, and in time")
    accuracy.set_xlabel("s")
    accuracy.legend(fontsize=8, loc="lower left")
    for axis in (link, age, knob, accuracy):
        axis.grid(alpha=0.25)
    link.set_title(f"{run['bundle']}, {run['model']}: {run['images_per_s']:.0f} images a second over a thin link")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    typer.run(main)
