"""What a run over a thin link is judged by."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from benchmarks.link import Plan

Rows = list[dict[str, Any]]
Floats = NDArray[np.float64]

AFTER_STEP_S = 3.0  # so long after a step images may be too old
WAITING_S = 0.2  # an image that waited longer to be sent than a message stays open by itself waits for the link
WINDOW_S = 2.0  # in which the link's bytes are counted


@dataclass(frozen=True, slots=True)
class Sample:
    """The bucket's counts at a moment (monotonic)."""

    at_s: float
    sent_bytes: int
    waiting_bytes: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A run: ``answered`` are the sensor's result lines in order, ``dropped`` counts images without one."""

    plan: "Plan"
    start_s: float
    samples: tuple[Sample, ...]
    answered: Rows
    dropped: int

    def column(self, name: str) -> Floats:
        """One field of all answered images, float64."""
        return np.array([row[name] for row in self.answered], np.float64)

    @property
    def captured_s(self) -> Floats:
        """Seconds since the first step began."""
        return self.column("captured_s") - self.start_s

    @property
    def ages_s(self) -> Floats:
        """From capture to answer."""
        return self.column("latency_ms") / 1000

    @property
    def right(self) -> NDArray[np.bool_]:
        """Answered with the true class."""
        return np.array([row["label"] == row["truth"] for row in self.answered])


def report(measured: Measured) -> Rows:
    """One row for the run, one for each step, one for each bin of the curves."""
    plan = measured.plan
    captured, ages = measured.captured_s, measured.ages_s
    answered = captured + ages
    rungs = np.searchsorted(np.unique(measured.column("rate_scale")), measured.column("rate_scale"))
    waited = _waiting(measured)
    steps: Rows = []
    for number, rate in enumerate(plan.rates):
        start, end = number * plan.each_s, (number + 1) * plan.each_s
        judged = (answered >= start + (AFTER_STEP_S if number else 0)) & (answered < end)
        still = (answered >= start + plan.settle_s) & (answered < end)
        used, backlogged = _use(measured, waited, start + (AFTER_STEP_S if number else 0), end, rate)
        steps.append(
            {
                "part": "step",
                "link_bits_per_s": rate,
                "from_s": start,
                "images": int(judged.sum()),
                "age_p95_s": _percentile(ages[judged], 95),
                "age_max_s": _percentile(ages[judged], 100),
                "age_max_first_s": _percentile(ages[(answered >= start) & (answered < start + AFTER_STEP_S)], 100),
                "swing": swing(rungs[still].tolist()),
                "rate_scale": float(np.median(measured.column("rate_scale")[still])) if still.any() else None,
                "images_per_message": float(measured.column("images_per_message")[judged].mean()),
                "payload_bits": float(measured.column("payload_bits")[judged].mean()),
                "share_refined": float(np.mean([row["level"] > 0 for row in _those(measured.answered, judged)])),
                "accuracy": float(measured.right[judged].mean()),
                "share_used": _share(measured, start + (AFTER_STEP_S if number else 0), end, rate),
                "share_used_backlogged": used,
                "share_backlogged": backlogged,
            }
        )
    return [_run_row(measured, steps), *steps, *_bins(measured, rungs)]


def _run_row(measured: Measured, steps: Rows) -> dict[str, Any]:
    plan, ages, captured = measured.plan, measured.ages_s, measured.captured_s
    answered = captured + ages
    judged = answered >= 0
    for number in range(1, len(plan.rates)):
        judged &= ~((answered >= number * plan.each_s) & (answered < number * plan.each_s + AFTER_STEP_S))
    weights = [step["share_backlogged"] * step["link_bits_per_s"] for step in steps]
    used = [step["share_used_backlogged"] or 0.0 for step in steps]
    images, wire_bits = len(measured.answered), 8 * (measured.samples[-1].sent_bytes - measured.samples[0].sent_bytes)
    return {
        "part": "run",
        "bundle": plan.bundle,
        "model": measured.answered[0]["model"],
        "data": plan.data,
        "images": images,
        "dropped": measured.dropped,
        "images_per_s": images / (captured[-1] - captured[0]),
        "seconds": plan.seconds,
        "max_age_s": plan.max_age_s,
        "age_p95_s": _percentile(ages[judged], 95),
        "share_over_limit": float((ages[judged] > plan.max_age_s).mean()),
        "steps_over_limit": sum(step["age_p95_s"] > plan.max_age_s for step in steps),
        "share_used_backlogged": float(np.average(used, weights=weights)) if sum(weights) else None,
        "swing": max(step["swing"] for step in steps),
        "payload_bits": float(measured.column("payload_bits").mean()),
        "link_bits": wire_bits / images,
        "accuracy": float(measured.right.mean()),
        "accuracy_in_time": float((measured.right & (ages <= plan.max_age_s)).sum() / (images + measured.dropped)),
    }


def swing(rungs: Sequence[int]) -> int:
    """How many rungs it went up and came down again, or the other way: 0 for a climb, 1 between two neighbours."""
    turns = [rung for rung, before in zip(rungs, [None, *rungs], strict=False) if rung != before]
    farthest = 0
    for middle in range(1, len(turns) - 1):
        here, before, after = turns[middle], turns[:middle], turns[middle + 1 :]
        rise, fall = here - min(before), here - min(after)
        farthest = max(farthest, min(rise, fall), min(max(before) - here, max(after) - here))
    return farthest


def _bins(measured: Measured, rungs: NDArray[np.intp]) -> Rows:
    """The curves: what became of the images captured in each bin."""
    plan, captured, ages = measured.plan, measured.captured_s, measured.ages_s
    in_time = measured.right & (ages <= plan.max_age_s)
    rows: Rows = []
    bin_s = plan.each_s / 11
    for start in np.arange(0, plan.seconds, bin_s):
        inside = (captured >= start) & (captured < start + bin_s)
        if inside.any():
            rows.append(
                {
                    "part": "bin",
                    "from_s": float(start),
                    "link_bits_per_s": plan.rate_at(float(start)),
                    "used_bits_per_s": _share(measured, start, start + bin_s, 1.0),
                    "age_p95_s": _percentile(ages[inside], 95),
                    "rate_scale": float(np.median(measured.column("rate_scale")[inside])),
                    "rung": float(np.median(rungs[inside])),
                    "accuracy_in_time": float(in_time[inside].mean()),
                }
            )
    return rows


def _waiting(measured: Measured) -> tuple[Floats, Floats]:
    """At times a tenth of a second apart: how long the oldest image that is not sent has waited."""
    captured, sent = measured.captured_s, measured.column("sent_s") - measured.start_s
    times = np.arange(0, measured.plan.seconds, 0.1)
    oldest = np.searchsorted(sent, times, side="right")  # images are sent in order: the first that is not yet
    inside = oldest < len(captured)
    waited = np.zeros_like(times)
    waited[inside] = np.maximum(0.0, times[inside] - captured[oldest[inside]])
    return times, waited


def _use(
    measured: Measured, waited: tuple[Floats, Floats], start: float, end: float, rate: float
) -> tuple[float | None, float]:
    """Share of the link used in windows in which images waited for it, and the share of such windows."""
    times, waits = waited
    windows = np.arange(start, end - WINDOW_S + 1e-9, WINDOW_S)
    backlogged = [
        first for first in windows if (waits[(times >= first) & (times < first + WINDOW_S)] > WAITING_S).mean() >= 0.5
    ]
    if not backlogged:
        return None, 0.0
    return float(np.mean([_share(measured, w, w + WINDOW_S, rate) for w in backlogged])), len(backlogged) / len(windows)


def _share(measured: Measured, start: float, end: float, rate: float) -> float:
    """Bits a second that went up between two times, over ``rate``; between samples along a straight line."""
    at = [sample.at_s - measured.start_s for sample in measured.samples]
    sent = [8.0 * sample.sent_bytes for sample in measured.samples]
    first, last = np.interp([start, end], at, sent)
    return float((last - first) / (end - start) / rate)


def _percentile(values: Floats, percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else float("inf")


def _those(rows: Rows, chosen: NDArray[np.bool_]) -> Rows:
    return [row for row, yes in zip(rows, chosen, strict=True) if yes]


def show(rows: Rows) -> None:
    """Print the run, its steps, and the best fixed rate in hindsight."""
    (run,) = (row for row in rows if row["part"] == "run")
    table = Table(
        title=f"{run['bundle']}, {run['model']}: automatic rate control, images at most {run['max_age_s']:g} s old"
    )
    for name in (
        "kbit/s",
        "p95 s",
        "max s",
        "max s, first 3 s",
        "swing",
        "rate scale",
        "images/message",
        "payload bits",
    ):
        table.add_column(name, justify="right")
    for name in ("accuracy", "link used", "used while backlogged", "backlogged"):
        table.add_column(name, justify="right")
    for row in rows:
        if row["part"] == "step":
            used, scale = row["share_used_backlogged"], row["rate_scale"]
            table.add_row(
                f"{row['link_bits_per_s'] / 1000:g}",
                *(f"{row[name]:.2f}" for name in ("age_p95_s", "age_max_s", "age_max_first_s")),
                str(row["swing"]),
                "" if scale is None else f"{scale:g}",
                f"{row['images_per_message']:.0f}",
                f"{row['payload_bits']:.2f}",
                f"{row['accuracy']:.1%}",
                f"{row['share_used']:.0%}",
                "" if used is None else f"{used:.0%}",
                f"{row['share_backlogged']:.0%}",
            )
    console = Console(width=150, highlight=False)
    console.print(table)
    used = run["share_used_backlogged"]
    said = "never backlogged" if used is None else f"{used:.0%}"
    console.print(
        f"p95 age outside {AFTER_STEP_S:g} s after a step: {run['age_p95_s']:.2f} s (limit {run['max_age_s']:g} s; "
        f"{run['steps_over_limit']} steps over it); link used while backlogged: "
        f"{said}; swing when still: {run['swing']} rungs; "
        f"{run['images']} images answered, {run['images_per_s']:.0f} a second, {run['dropped']} dropped"
    )
    fixed = [row for row in rows if row["part"] == "fixed"]
    if fixed:
        best = max(fixed, key=lambda row: float(row["accuracy_in_time"]))
        console.print(
            f"answered right and in time: {run['accuracy_in_time']:.2%} automatic; the best fixed rate in hindsight, "
            f"rate scale {best['rate_scale']:g}: {best['accuracy_in_time']:.2%}; the finest: "
            f"{fixed[-1]['accuracy_in_time']:.2%}"
        )


def steps_of(rows: Rows) -> list[tuple[float, float, float]]:
    """(from, to, bits a second) of each step."""
    steps = [row for row in rows if row["part"] == "step"]
    (run,) = (row for row in rows if row["part"] == "run")
    ends = [*(row["from_s"] for row in steps[1:]), run["seconds"]]
    assert all(a["from_s"] < b["from_s"] for a, b in pairwise(steps)), "steps are in order"
    return [(row["from_s"], end, row["link_bits_per_s"]) for row, end in zip(steps, ends, strict=True)]
