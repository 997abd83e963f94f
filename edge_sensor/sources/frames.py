"""What an image source yields, and the options that all of them share."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Frame:
    """One image, as the encoder takes it.

    ``item`` names it within the source; ``image`` is uint8 (H, W, C) of the bundle's input; ``truth`` is an
    index into the bundle's classes where it is known; ``captured_s`` is ``time.monotonic()`` when it was
    there; ``place`` is how much a recorded source had given with it, counted by whoever reads the source.
    """

    item: str
    image: NDArray[np.uint8]
    truth: int | None
    captured_s: float
    place: int = 0


@dataclass(frozen=True, slots=True)
class Dropped:
    """An item that gave no image; ``reason`` is an error's name from ``latentwire.errors``."""

    item: str
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that is left out on purpose; ``reason`` is one word.

    It is counted on the sensor alone: the server and the results hear of images that were to be sent.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A live source went away; its iterator goes on when it is back."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing new is there yet: a moment to see whether anything is still wanted."""


Found = Frame | Dropped | Skipped | Lost | Idle


class Source(Protocol):
    """Images from somewhere.

    ``live`` ones cannot wait and never end by themselves; recorded ones can wait, and all but a watched
    folder end.
    """

    live: bool
    description: str

    def __iter__(self) -> Iterator[Found]:
        """One round, from the start. A broken item is a ``Dropped``; SourceError if nothing more can come."""
        ...


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Which images of a source are taken; a bad setting raises ``ValueError`` that says what to do.

    Attributes:
        watch: also take images that come into the folder later, and never end.
        every: take every so many-th image.
        fps: images a second at most: a live source skips what comes sooner, a recorded one is read no faster.
        motion: skip an image unless some part of it is that much lighter or darker than in the last one taken
            (``gates.MotionGate``), in levels of 0..255; None takes all.
        timeout_s: a live source that gives nothing for so long is opened anew.
    """

    watch: bool = False
    every: int = 1
    fps: float | None = None
    motion: float | None = None
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        """Check every setting."""
        if self.every < 1:
            raise ValueError(f"every must be at least 1, not {self.every}")
        if self.fps is not None and not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"fps must be above 0, not {self.fps}; leave it out for all there are")
        if self.motion is not None and not 0 <= self.motion <= 255:
            raise ValueError(f"motion must be 0 to 255 levels, not {self.motion}; leave it out for every image")
        if not 0 < self.timeout_s <= 3600:
            raise ValueError(f"timeout_s must be above 0 and at most 3600 seconds, not {self.timeout_s}")
