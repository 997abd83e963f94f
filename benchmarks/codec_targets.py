"""What the code was to reach (docs/results/README.md), checked on the rows of ``latentwire bench codec``."""

from collections.abc import Iterable, Sequence
from typing import Any

from latentwire.report import Value

FEWER_BITS = 0.75  # than the paper's Gaussian count of the paper's code, at 0.5 points below full rate
CODEC_SHARE = 0.1  # of the encoder's time
BULK_SPEED = 0.5  # of constriction's own
ONE_IMAGE_BITS = 5.0
PORTABLE_US = 20.0  # a symbol

Rows = Sequence[dict[str, Any]]
Verdict = dict[str, Value]


def targets(rows: Iterable[dict[str, Any]], bundle: str) -> list[Verdict]:
    """What was aimed at, what was found, and whether it held, for one bundle."""
    own = [row for row in rows if row["bundle"] == bundle]
    knob = [row for row in own if row["part"] == "knob"]
    full = next(row["accuracy"] for row in own if row["part"] == "pair")
    anchored = [row for row in knob if row["model"] == "anchored"]
    paper = [row for row in knob if row["model"] == "gaussian"]
    found = [_floor(anchored), _against_paper(anchored, paper, full)]
    if own[0]["data"] == "cifar10":
        found += [_within(anchored, full, points, bits) for points, bits in ((0.25, 8.0), (0.5, 6.0))]
    found += _message_overhead([row for row in own if row["part"] == "message"])
    found += _speeds(own)
    return [{"part": "target", "bundle": bundle, "target": t, "found": f, "held": held} for t, f, held in found]


def bits_at(rows: Rows, accuracy: float, field: str) -> float:
    """The fewest bits at which a curve reaches an accuracy, on straight lines between its points; NaN if never."""
    ordered = sorted(rows, key=lambda row: float(row[field]))
    for i, row in enumerate(ordered):
        if row["accuracy"] >= accuracy:
            if i == 0:
                return float(row[field])
            before = ordered[i - 1]
            part = (accuracy - before["accuracy"]) / (row["accuracy"] - before["accuracy"])
            return float(before[field] + part * (row[field] - before[field]))
    return float("nan")


def _floor(anchored: Rows) -> tuple[str, str, bool]:
    alone = min(anchored, key=lambda row: float(row["rate_scale"]))
    worst = min(anchored, key=lambda row: float(row["accuracy"]))
    lost = round((alone["accuracy"] - worst["accuracy"]) * alone["images"])
    said = f"anchors alone {alone['accuracy']:.2%}; lowest {worst['accuracy']:.2%} at {worst['rate_scale']:.3g}"
    return "never below the anchors alone", f"{said}: {lost} of {alone['images']} images fewer", lost <= 0


def _against_paper(anchored: Rows, paper: Rows, full: float) -> tuple[str, str, bool]:
    ours = bits_at(anchored, full - 0.005, "ideal_bits")
    theirs = bits_at(paper, full - 0.005, "total_entropy_bits")
    fewer = 1 - ours / theirs
    said = f"{ours:.2f} ideal bits against {theirs:.2f} of the paper's count: {fewer:.1%} fewer"
    return f"0.5 points below full rate: {FEWER_BITS:.0%} fewer bits", said, fewer >= FEWER_BITS


def _within(anchored: Rows, full: float, points: float, bits: float) -> tuple[str, str, bool]:
    allowed = [row for row in anchored if row["ideal_bits"] <= bits]
    best = max(allowed, key=lambda row: float(row["accuracy"]), default=None)
    if best is None:
        return f"within {points} points at {bits:g} bits", "no operating point costs so little", False
    gap = 100 * (full - best["accuracy"])
    said = f"{best['accuracy']:.2%} at {best['ideal_bits']:.2f} bits; full rate {full:.2%}: {gap:.2f} points"
    return f"within {points} points at {bits:g} ideal bits", said, gap <= points


def _message_overhead(rows: Rows) -> list[tuple[str, str, bool]]:
    found = []
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        worst = max((row for row in rows if row["images_per_message"] == 1 and row["model"] == model), key=_overhead)
        target = f"{model}: payload over ideal, 1 image a message: {ONE_IMAGE_BITS:g} bits"
        said = f"{_overhead(worst):.2f} at most (at {worst['rate_scale']:.3g}: {worst['ideal_bits']:.2f} ideal bits)"
        found.append((target, said, _overhead(worst) <= ONE_IMAGE_BITS))
    many = [row for row in rows if row["images_per_message"] == 64]
    worst = max(many, key=lambda row: _overhead(row) - _allowed(row))
    said = f"{_overhead(worst):.2f} of {_allowed(worst):.2f} at most ({_spot(worst)})"
    return [*found, ("payload over ideal, 64 images: 1 % + 8 bits", said, _overhead(worst) <= _allowed(worst))]


def _speeds(rows: Rows) -> list[tuple[str, str, bool]]:
    found: list[tuple[str, str, bool]] = []
    sensor = [row for row in rows if row["part"] == "sensor time" and row["coder"] == "constriction"]
    for size in sorted({row["images_per_message"] for row in sensor}):
        worst = max((row for row in sensor if row["images_per_message"] == size), key=_ratio)
        target = f"codec a tenth of the encoder's time, {size} a message"
        found.append((target, f"{_ratio(worst):.3f} at most ({_spot(worst)})", _ratio(worst) <= CODEC_SHARE))
    bulk = [row for row in rows if row["part"] == "bulk decoding"]
    if bulk:
        worst = min(bulk, key=_ratio)
        said = f"{_ratio(worst):.2f} of its speed at least ({_spot(worst)})"
        found.append(("bulk decoding half as fast as constriction", said, _ratio(worst) >= BULK_SPEED))
    portable = [row for row in rows if row["part"] == "portable coder"]
    if portable:
        slowest = max(max(row["encode_us_per_symbol"], row["decode_us_per_symbol"]) for row in portable)
        target = f"portable coder: {PORTABLE_US:g} µs a symbol"
        found.append((target, f"{slowest:.2f} at most", slowest <= PORTABLE_US))
    return found


def _spot(row: dict[str, Any]) -> str:
    return f"{row['model']} at {row['rate_scale']:.3g}"


def _ratio(row: dict[str, Any]) -> float:
    return float(row["ratio"])


def _overhead(row: dict[str, Any]) -> float:
    return float(row["overhead_bits_per_message"])


def _allowed(row: dict[str, Any]) -> float:
    return 0.01 * float(row["ideal_bits_per_message"]) + 8.0
