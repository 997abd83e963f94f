"""A bundle's rungs."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import factories
import numpy as np
import pytest

from edge_sensor.rate_control_ladder import ladder
from latentwire.bundle import load_bundle
from latentwire.errors import UnknownVariantError


@dataclass
class MadeUp:
    """As much of a bundle as a ladder looks at: variant -> (rate scales, bits)."""

    knots: dict[str, tuple[list[float], list[float]]]
    manifest: SimpleNamespace = field(init=False)
    variants: dict[str, SimpleNamespace] = field(init=False)

    def __post_init__(self) -> None:
        self.variants = {name: SimpleNamespace(models=("m",)) for name in self.knots}
        self.manifest = SimpleNamespace(variant=self.variants.__getitem__)

    def codec_parameters(self, variant: str, model: str) -> SimpleNamespace:
        scales, bits = map(np.array, self.knots[variant])
        return SimpleNamespace(frontier=SimpleNamespace(rate_scale=scales, bits=bits))


def rungs(bundle: MadeUp, variant: str) -> list[tuple[str, float, float]]:
    made = ladder(bundle, variant, "m")  # type: ignore[arg-type]
    return [(rung.variant, rung.rate_scale, rung.bits) for rung in made]


def test_the_rungs_are_the_knots_of_the_frontier(tmp_path) -> None:  # type: ignore[no-untyped-def]
    factories.make_bundle(tmp_path / "b", variants=("full", "small"))
    bundle = load_bundle(tmp_path / "b", "sensor")
    made = ladder(bundle, "full", "anchored")
    assert [rung.rate_scale for rung in made] == [0.5, 2.0, 8.0]
    assert {rung.variant for rung in made} == {"full"}, "the other one costs the same: it is no cheaper"
    assert [rung.bits for rung in made] == sorted(rung.bits for rung in made)
    with pytest.raises(UnknownVariantError):
        ladder(bundle, "none", "anchored")


def test_cheaper_variants_lie_below_all_of_a_variants_own_rungs() -> None:
    bundle = MadeUp({"full": ([1, 2], [5.0, 9.0]), "half": ([1, 2, 3], [2.0, 3.0, 7.0]), "dear": ([1], [20.0])})
    assert rungs(bundle, "full") == [("half", 1, 2.0), ("half", 2, 3.0), ("full", 1, 5.0), ("full", 2, 9.0)]
    assert rungs(bundle, "half") == [("half", 1, 2.0), ("half", 2, 3.0), ("half", 3, 7.0)]


def test_of_two_that_cost_the_same_the_finer_is_a_rung() -> None:
    bundle = MadeUp({"full": ([1, 2, 3], [5.0, 5.0, 9.0])})
    assert rungs(bundle, "full") == [("full", 2, 5.0), ("full", 3, 9.0)]
