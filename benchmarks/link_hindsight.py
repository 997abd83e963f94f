"""What every fixed rate scale would have done on the same link, worked out: the best of them is the best in hindsight.

Payload bits and accuracy an image come from the real codec on the same images in the same order. The link is first in,
first out; a message takes all images that wait when the link is free, as the sensor's do, and costs around its payload
what messages cost in the measured run. An image that is answered later than the limit counts as not answered.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.codec import load_subject
from benchmarks.link_report import Measured
from benchmarks.stream_anchors import stream_order
from latentwire.operating_point import OperatingPoint
from training.evaluation import Encoded, measure

PERSISTENCE = 0.95  # of the class, from image to image
MESSAGE_IMAGES = 128
DELAY_S = 0.1
MOST_IMAGES = 1024
TICK_S = 0.01
Floats = NDArray[np.float64]


def fixed_rates(measured: Measured, rows: list[dict[str, Any]], data_root: Path | None) -> list[dict[str, Any]]:
    """One row for each knot of the frontier."""
    plan = measured.plan
    subject = load_subject(plan.bundle, plan.data, data_root)
    encoded = subject.encoded
    if plan.data == "cifar10":
        order = camera_order(encoded.labels)
        head = None if encoded.head_logits is None else encoded.head_logits[order]
        encoded = Encoded(encoded.latent[order], head, encoded.labels[order])
    model = str(rows[0]["model"])
    frontier = subject.parameters(model).frontier
    around_bits = _around_bits(measured)
    made = []
    for rate_scale in map(float, frontier.rate_scale):
        point = OperatingPoint.derive(subject.parameters(model), subject.variant, model, rate_scale)
        row = measure(point, encoded, subject.decode, MESSAGE_IMAGES).row
        ages = _ages(measured, row.payload_bits, around_bits)
        in_time = ages <= plan.max_age_s
        made.append(
            {
                "part": "fixed",
                "model": model,
                "rate_scale": rate_scale,
                "payload_bits": row.payload_bits,
                "accuracy": row.accuracy,
                "share_in_time": float(in_time.mean()),
                "accuracy_in_time": row.accuracy * float(in_time.mean()),
            }
        )
    return made


def camera_order(labels: NDArray[np.int64]) -> NDArray[np.intp]:
    """The order in which the test images come, (N,)."""
    return stream_order(labels, PERSISTENCE, len(labels), seed=0)


def _around_bits(measured: Measured) -> float:
    """Bits on the link around a message's payload, mean of the run."""
    link_bits = 8.0 * (measured.samples[-1].sent_bytes - measured.samples[0].sent_bytes)
    first, last = measured.samples[0].at_s, measured.samples[-1].at_s
    rows = [row for row in measured.answered if first <= row["sent_s"] < last]
    payload_bits = sum(row["payload_bits"] for row in rows)
    messages = len({row["message"] for row in rows})
    return max(0.0, (link_bits - float(payload_bits)) / messages)


def _ages(measured: Measured, bits: float, around_bits: float) -> Floats:
    """How old each image of the run would have been when its message had crossed; inf if it had not by the end."""
    plan = measured.plan
    ticks = np.arange(0, plan.seconds, TICK_S)
    carried = np.concatenate([[0.0], np.cumsum([plan.rate_at(float(at)) * TICK_S for at in ticks])])
    grid = np.append(ticks, plan.seconds)
    captured = np.arange(0, plan.seconds, 1 / plan.images_per_s)
    ages = np.full(len(captured), np.inf)
    free_s, first = 0.0, 0
    while first < len(captured):
        close_s = max(free_s, captured[first] + DELAY_S)
        end = min(int(np.searchsorted(captured, close_s, side="right")), first + MOST_IMAGES)
        crossed = float(np.interp(close_s, grid, carried)) + around_bits + (end - first) * bits
        if close_s >= plan.seconds or crossed > carried[-1]:
            break
        free_s = float(np.interp(crossed, carried, grid))
        ages[first:end] = free_s - captured[first:end]
        first = end
    return ages[captured < plan.seconds - plan.max_age_s]
