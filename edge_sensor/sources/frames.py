"""What an image source yields."""

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
    there.
    """

    item: str
    image: NDArray[np.uint8]
    truth: int | None
    captured_s: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """An item that gave no image; ``reason`` is an error's name from ``latentwire.errors``."""

    item: str
    reason: str


class Source(Protocol):
    """Images from somewhere.

    ``live`` ones cannot wait and never end by themselves; recorded ones can, and do.
    """

    live: bool
    description: str

    def __iter__(self) -> Iterator[Frame | Dropped]:
        """One round, from the start. A broken item is a ``Dropped``; SourceError if nothing more can come."""
        ...
