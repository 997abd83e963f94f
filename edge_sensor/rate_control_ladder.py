"""The rungs of a bundle: the knots of its frontier, and below them those of its cheaper variants."""

from itertools import pairwise

from edge_sensor.rate_control_costs import Rung
from latentwire.bundle import Bundle


def ladder(bundle: Bundle, variant: str, model: str) -> tuple[Rung, ...]:
    """Rungs of ``variant`` with ``model``, cheapest first; other variants' only where cheaper than all of them.

    Reads entropy models from disk. UnknownVariantError if there is none of that name.
    """
    own = _knots(bundle, variant, model)
    cheaper: list[Rung] = []
    for name in bundle.variants:
        if name != variant and model in bundle.manifest.variant(name).models:
            cheaper += [rung for rung in _knots(bundle, name, model) if rung.bits < own[0].bits]
    return tuple(_rising(sorted(cheaper, key=lambda rung: rung.bits) + own))


def _knots(bundle: Bundle, variant: str, model: str) -> list[Rung]:
    frontier = bundle.codec_parameters(variant, model).frontier
    return [Rung(variant, float(r), float(bits)) for r, bits in zip(frontier.rate_scale, frontier.bits, strict=True)]


def _rising(rungs: list[Rung]) -> list[Rung]:
    """Less those that cost what the next one does: the finer of two is taken."""
    return [low for low, high in pairwise(rungs) if low.bits < high.bits] + rungs[-1:]
