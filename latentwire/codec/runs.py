"""Neighbouring images show the same thing: anchors coded against the one before, inside one message.

A message's *run mode* j stands at the payload's head. Mode 0 codes each anchor by itself. In mode j each image but the
first says by a flag whether its anchor is the one before, with probability 1 - 2**-j; where it is not, the anchor
follows under its own table. Nothing is carried from message to message.
"""

import numpy as np
from numpy.typing import NDArray

from latentwire.codec.coder import TOTAL, Table

MODES = 8
_ROUNDS = 4  # of smoothing and estimating the mode anew; it settles in two or three

# half of all messages are of neighbours that have nothing to do with one another: they pay one bit
_OTHERS = TOTAL // 2 // (MODES - 1)
MODE_TABLE = Table(np.array([TOTAL - (MODES - 1) * _OTHERS] + [_OTHERS] * (MODES - 1), np.int64))
FLAG_TABLES = tuple(
    Table(np.array([TOTAL >> mode, TOTAL - (TOTAL >> mode)], np.int64)) for mode in range(1, MODES)
)  # of the symbols 0: another anchor, 1: the one before
_MODE_BITS = MODE_TABLE.ideal_bits
_FLAG_BITS = np.stack([table.ideal_bits for table in FLAG_TABLES])

Reals = NDArray[np.float64]
Ints = NDArray[np.int32]


def flags(anchor: Ints) -> Ints:
    """(N - 1,): 1 where an image's anchor is the one before's."""
    same: Ints = (anchor[1:] == anchor[:-1]).astype(np.int32)
    return same


def choose_run(posterior: Reals, anchor_bits: Reals) -> tuple[Ints, int]:
    """The anchors (N,) and the mode that minimise coded bits plus -log2 p(anchor | image), near enough.

    ``posterior`` is log p(anchor | image), (N, A), natural; ``anchor_bits`` (A,) what an anchor costs by itself. That
    sum is the length of a two-part code of the image's class, so a likelier anchor is given up only for a saving of as
    many bits as it is likelier: in a still scene one odd frame is named as its neighbours are.
    """
    likeliest = posterior.argmax(axis=1).astype(np.int32)
    if len(likeliest) == 1:
        return likeliest, 0
    surprise = posterior / -np.log(2)
    best, best_mode = likeliest, 0
    least = _cost(likeliest, 0, surprise, anchor_bits)
    anchor = likeliest
    for _ in range(_ROUNDS):
        mode = _mode_of(anchor)
        if _cost(anchor, mode, surprise, anchor_bits) >= least:
            break  # the neighbours have nothing to do with one another, or nothing was gained
        anchor = _smooth(surprise, anchor_bits, mode)
        cost = _cost(anchor, mode, surprise, anchor_bits)
        if cost < least:
            best, best_mode, least = anchor, mode, cost
    return best, best_mode


def anchor_cost(anchor: Ints, mode: int, anchor_bits: Reals) -> Reals:
    """Ideal bits (N,) of each image's anchor in a message of that mode; the mode's own are the first image's."""
    own = anchor_bits[anchor]
    if len(anchor) == 1:
        return own
    if mode:
        same = flags(anchor)
        own[1:] = np.where(same, 0.0, own[1:]) + _FLAG_BITS[mode - 1, same]
    own[0] += _MODE_BITS[mode]
    return own


def _cost(anchor: Ints, mode: int, surprise: Reals, anchor_bits: Reals) -> float:
    return float(anchor_cost(anchor, mode, anchor_bits).sum() + surprise[np.arange(len(anchor)), anchor].sum())


def _mode_of(anchor: Ints) -> int:
    """The mode whose flags cost least."""
    same = flags(anchor)
    kept = int(same.sum())
    counts = np.array([len(same) - kept, kept])
    return 1 + int((_FLAG_BITS @ counts).argmin())


def _smooth(surprise: Reals, anchor_bits: Reals, mode: int) -> Ints:
    """The anchors of least cost in that mode (Viterbi, 1967; a step costs A, for a change is the same from any)."""
    change, stay = _FLAG_BITS[mode - 1]
    images, anchors = surprise.shape
    before = np.empty((images, anchors), np.int32)
    cost = surprise[0] + anchor_bits
    everyone = np.arange(anchors, dtype=np.int32)
    for image in range(1, images):
        cheapest = int(cost.argmin())
        changed = cost[cheapest] + change + anchor_bits
        stayed = cost + stay
        keeps = stayed <= changed
        before[image] = np.where(keeps, everyone, cheapest)
        cost = np.where(keeps, stayed, changed) + surprise[image]
    path = np.empty(images, np.int32)
    path[-1] = cost.argmin()
    for image in range(images - 1, 0, -1):
        path[image - 1] = before[image, path[image]]
    return path
