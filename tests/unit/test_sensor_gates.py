"""Which images of a source are taken, and the options' checks."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_sensor.sources import Dropped, Found, Frame, Skipped, SourceOptions, open_source
from edge_sensor.sources.gates import GatedSource, MotionGate
from latentwire.bundle import InputSpec


class Source:
    """Frames captured at the given times."""

    description = "a list"

    def __init__(self, *times_s: float, live: bool = True) -> None:
        self.live = live
        self.times_s = times_s
        self.read_at: list[float] = []
        self.now_s = 0.0

    def __iter__(self) -> Iterator[Found]:
        for number, time_s in enumerate(self.times_s):
            self.read_at.append(self.now_s)
            yield Frame(str(number), np.zeros((4, 4, 1), np.uint8), None, time_s)

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def taken(found: list[Found]) -> list[str]:
    return [each.item for each in found if isinstance(each, Frame)]


def skipped(found: list[Found]) -> Counter[str]:
    return Counter(each.reason for each in found if isinstance(each, Skipped))


def test_every_nth_is_taken_and_the_rest_is_counted() -> None:
    found = list(GatedSource(Source(*range(10)), SourceOptions(every=4)))
    assert taken(found) == ["0", "4", "8"]
    assert skipped(found) == {"every": 7}


def test_a_live_source_skips_what_comes_too_soon_and_keeps_the_mean_rate() -> None:
    times_s = [number / 30 for number in range(300)]
    found = list(GatedSource(Source(*times_s), SourceOptions(fps=7)))
    assert len(taken(found)) == pytest.approx(70, abs=1)
    assert skipped(found) == {"fps": 300 - len(taken(found))}


def test_after_a_gap_a_live_source_does_not_catch_up() -> None:
    found = list(GatedSource(Source(0.0, 0.4, 60.0, 60.4, 60.8, 61.0), SourceOptions(fps=1)))
    assert taken(found) == ["0", "2", "5"]


def test_a_recorded_source_is_read_no_faster_and_loses_nothing() -> None:
    class Clocked(Source):
        def __iter__(self) -> Iterator[Found]:
            for number in range(5):
                self.read_at.append(self.now_s)
                yield Frame(str(number), np.zeros((4, 4, 1), np.uint8), None, self.now_s)

    paced = Clocked(live=False)
    found = list(GatedSource(paced, SourceOptions(fps=2), paced.clock, paced.sleep))
    assert taken(found) == ["0", "1", "2", "3", "4"]
    assert paced.read_at == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_what_is_no_image_passes() -> None:
    class Broken(Source):
        def __iter__(self) -> Iterator[Found]:
            yield Dropped("a", "ImageError")
            yield from super().__iter__()

    found = list(GatedSource(Broken(0.0, 9.0), SourceOptions(every=2, fps=1)))
    assert found[0] == Dropped("a", "ImageError")
    assert taken(found) == ["0"]


def scene(level: int = 100, noise: int = 0, seed: int = 0) -> NDArray[np.uint8]:
    """A picture of one level with Gaussian noise."""
    pixels = level + np.random.default_rng(seed).normal(0, noise, (32, 32, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def test_noise_is_no_motion_but_a_small_thing_is() -> None:
    gate = MotionGate(8)
    assert gate.changed(scene(noise=6))
    assert not any(gate.changed(scene(noise=6, seed=seed)) for seed in range(1, 200))
    with_a_thing = scene(noise=6, seed=999)
    with_a_thing[4:9, 20:25] = 200
    assert gate.changed(with_a_thing), "25 of 1024 pixels"
    assert gate.changed(scene(noise=6, seed=1)), "gone again"


def test_a_slow_change_is_seen_in_the_end() -> None:
    gate = MotionGate(8)
    assert [level for level in range(100, 130) if gate.changed(scene(level))] == [100, 108, 116, 124]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 1), (7, 9, 3), (33, 21, 3)])
def test_images_of_any_size_are_compared(shape: tuple[int, int, int]) -> None:
    gate = MotionGate(5)
    image = np.random.default_rng(0).integers(0, 250, shape, np.uint8)
    assert [gate.changed(image), gate.changed(image), gate.changed(image + np.uint8(5))] == [True, False, True]


def test_the_options_work_on_any_source(tmp_path: Path) -> None:
    for number in range(6):
        Image.new("L", (8, 8), 10 * (number // 3)).save(tmp_path / f"{number}.png")
    spec = InputSpec(8, 8, 1, "L")
    options = SourceOptions(every=2, motion=5)
    found = list(open_source(str(tmp_path), spec, ("a", "b"), None, options))
    assert taken(found) == ["0.png", "4.png"]
    assert skipped(found) == {"every": 3, "unchanged": 1}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("every", 0),
        ("fps", 0.0),
        ("fps", float("nan")),
        ("fps", float("inf")),
        ("motion", -1.0),
        ("motion", float("nan")),
        ("timeout_s", 0.0),
        ("timeout_s", float("nan")),
    ],
)
def test_a_bad_option_says_what_to_do(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be"):
        SourceOptions(**{setting: value})  # type: ignore[arg-type]


def test_a_recorded_source_is_not_held_to_the_rate_for_what_is_passed_over() -> None:
    source = Source(*[0.0] * 100, live=False)
    gated = GatedSource(source, SourceOptions(fps=10), clock=source.clock, sleep=source.sleep)
    gated.unpaced = 90
    assert len(taken(list(gated))) == 100
    assert source.read_at[90] == 0.0
    assert source.read_at[91] == pytest.approx(0.1)
    assert source.read_at[99] == pytest.approx(0.9)
