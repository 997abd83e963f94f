"""``latentwire report``: the paper's figures and one table, from the records that were measured."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # pictures go to files; there may be no screen

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentwire.bundle import load_bundle
from latentwire.errors import DataError
from training.comparison import bits_of, gains
from training.models import STAGES
from training.records import Record, load_records

METHODS = {"ce": "CE-T", "ce-noise": "CE-T + bins", "duphil": "DuPHiL", "ldr": "LDR-FT", "rate": "rate term"}
MODELS = {"gaussian": "paper's code", "anchored": "anchored code"}


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """``records`` are files of ``latentwire measure``; pictures and the table go to the folder ``out``; ``bundles`` are
    those whose latents' spread is drawn."""

    records: Sequence[Path]
    out: Path
    bundles: Sequence[str] = ()


def run_report(config: ReportConfig) -> list[Path]:
    """Draw a picture a question and data set, and write the table; the files written. DataError without records."""
    records = [record for path in config.records for record in load_records(path)]
    if not records:
        raise DataError(f"no records in {', '.join(map(str, config.records))}: make some with latentwire measure")
    config.out.mkdir(parents=True, exist_ok=True)
    written = []
    for name in sorted({design(record) for record in records}):
        own = [record for record in records if design(record) == name]
        questions = {"rate": _draw_rate, "distortions": _draw_distortions}
        if not any(record.distortion for record in own):
            del questions["distortions"]
        for question, draw in questions.items():
            figure, axes = plt.subplots(1, len(MODELS), figsize=(12, 5.4), sharey=True, layout="constrained")
            for axis, model in zip(axes, MODELS, strict=True):
                draw(axis, [record for record in own if record.model == model])
                if question == "rate":
                    _draw_local(axis, local_classifiers(records, own[0]))
                axis.set_title(f"{name}, {MODELS[model]}")
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
            written.append(_save(figure, config.out / f"{name}-{question}.png"))
        table = config.out / f"{name}-table.md"
        table.write_text(_comparison(own) + _table(own))
        written.append(table)
    if config.bundles:
        figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
        _draw_spread(axis, config.bundles)
        written.append(_save(figure, config.out / "latent-spread.png"))
    return written


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def design(record: Record) -> str:
    """What is alike in pairs that a picture compares: data, backbone, width, folded pixels, cut and bottleneck."""
    folded = f"-p{record.patch}" if record.patch > 1 else ""
    shape = "" if record.bottleneck == "dense" else f"-{record.bottleneck}"
    return f"{record.dataset}-{record.backbone}-w{record.width}{folded}-cut{record.cut}{shape}"


def label(record: Record) -> str:
    """What a curve is called: method and epochs, then the variant where it is no full one."""
    name = f"{METHODS.get(record.method, record.method)}, {record.epochs} epochs"
    return name if record.variant == "full" else f"{name}, {record.variant}"


@dataclass(frozen=True, slots=True)
class Point:
    """One place on a curve: means over ``seeds`` runs, and the standard deviation of the accuracy (0 for one run).

    Bits are the paper's total entropy for its own code and ideal bits for the anchored one.
    """

    rate_scale: float
    bits: float
    accuracy: float
    spread: float
    seeds: int


def over_seeds(records: Iterable[Record]) -> dict[str, list[Point]]:
    """Each curve's points, by rising rate scale."""
    groups: dict[tuple[str, float], list[Record]] = defaultdict(list)
    for record in records:
        groups[label(record), record.rate_scale].append(record)
    curves: dict[str, list[Point]] = defaultdict(list)
    for (name, scale), same in sorted(groups.items()):
        bits = [bits_of(r) for r in same]
        accuracy = [r.accuracy for r in same]
        spread = float(np.std(accuracy, ddof=1)) if len(same) > 1 else 0.0
        curves[name].append(Point(scale, float(np.mean(bits)), float(np.mean(accuracy)), spread, len(same)))
    return curves


def _draw_rate(axis: Axes, records: Sequence[Record]) -> None:
    for name, points in over_seeds(r for r in records if not r.distortion).items():
        bits, accuracy, spread = ([getattr(point, of) for point in points] for of in ("bits", "accuracy", "spread"))
        seeds = max(point.seeds for point in points)
        axis.errorbar(bits, accuracy, yerr=spread, marker="o", ms=3, capsize=2, label=f"{name} (seeds: {seeds})")
    axis.set_xlabel("bits an image (paper's code: total entropy; anchored: ideal)")
    axis.set_ylabel("accuracy")
    axis.grid(alpha=0.3)


def local_classifiers(records: Iterable[Record], beside: Record) -> list[Record]:
    """Whole classifiers on a sensor, on the data of ``beside`` and at its cost to a tenth; one a seed.

    They are pairs cut after the last stage, at the knob's lowest position, where a sensor sends what its head says.
    """
    found: dict[tuple[object, ...], Record] = {}
    for r in records:
        alike = r.dataset == beside.dataset and 0.9 <= r.sensor_macs / beside.sensor_macs <= 1.1
        if alike and r.cut == STAGES and r.cut != beside.cut and r.model == "anchored" and not r.distortion:
            key = (design(r), r.seed, r.epochs)
            found[key] = min(found.get(key, r), r, key=lambda record: record.rate_scale)
    return list(found.values())


def _draw_local(axis: Axes, records: Sequence[Record]) -> None:
    for record in records:
        name = f"a whole classifier on the sensor, {record.sensor_macs / 1e6:.1f} M MACs, its label sent"
        axis.plot(record.ideal_bits, record.accuracy, marker="*", ms=11, ls="", color="black", label=name)


def _draw_distortions(axis: Axes, records: Sequence[Record]) -> None:
    top = max((record.rate_scale for record in records), default=0.0)
    at_top = [record for record in records if record.rate_scale == top]
    kinds = list(dict.fromkeys(record.distortion for record in at_top))
    names = sorted({label(record) for record in at_top})
    width = 0.8 / max(len(names), 1)
    for j, name in enumerate(names):
        each = [[r.accuracy for r in at_top if label(r) == name and r.distortion == kind] for kind in kinds]
        means = [float(np.mean(values)) if values else 0.0 for values in each]
        axis.bar(np.arange(len(kinds)) + j * width, means, width, label=name)
    axis.set_xticks(
        np.arange(len(kinds)) + 0.4 - width / 2, [kind or "as it is" for kind in kinds], rotation=40, ha="right"
    )
    axis.set_ylabel("accuracy at the top of the knob")


def _draw_spread(axis: Axes, bundles: Sequence[str]) -> None:
    for name in bundles:
        bundle = load_bundle(name)
        spread = np.sort(bundle.codec_parameters(bundle.manifest.default_variant, "gaussian").spread[1, 0])[::-1]
        axis.plot(np.arange(1, len(spread) + 1), spread, marker="o", ms=3, label=bundle.manifest.model_id)
    axis.set_xlabel("latent entry, widest first")
    axis.set_ylabel("standard deviation over the training set")
    axis.grid(alpha=0.3)
    axis.legend()


def _comparison(records: Sequence[Record]) -> str:
    """Each method against CE-T trained as long, at equal bits."""
    lines = [
        "| pair | code | bits | CE-T | method | gain (points) | least | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    variants = sorted({record.variant for record in records}, key=lambda name: (name != "full", name))
    for variant, method, model in product(variants, ("ce-noise", "duphil", "ldr"), MODELS):
        name = METHODS[method] if variant == "full" else f"{METHODS[method]}, {variant}"
        for g in gains(records, method, "ce", model, variant):
            gain = f"{100 * g.gain:+.2f}" + (f" ± {100 * g.spread:.2f}" if g.seeds > 1 else "")
            figures = f"{g.bits:g} | {g.baseline:.2%} | {g.method:.2%} | {gain} | {100 * g.least:+.2f} | {g.seeds}"
            lines.append(f"| {name} | {MODELS[model]} | {figures} |")
    return "\n".join([*lines, "", ""]) if len(lines) > 2 else ""


def _table(records: Sequence[Record]) -> str:
    lines = [
        "| pair | code | rate scale | bits | accuracy | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for model, title in MODELS.items():
        own = [record for record in records if record.model == model and not record.distortion]
        for name, points in over_seeds(own).items():
            for p in points:
                give = f" ± {p.spread:.2%}" if p.seeds > 1 else ""
                figures = f"{p.rate_scale:g} | {p.bits:.2f} | {p.accuracy:.2%}{give} | {p.seeds}"
                lines.append(f"| {name} | {title} | {figures} |")
    commits = ", ".join(sorted({record.commit for record in records}))
    machines = ", ".join(sorted({record.machine for record in records}))
    images = max(record.images for record in records)
    lines += ["", f"n = {images} test images; commits {commits}; {machines}.", ""]
    return "\n".join(lines)
