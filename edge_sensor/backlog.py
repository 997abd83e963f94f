"""Coded messages on their way to the window: where they wait, and when more may be coded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_sensor.window import CodedMessage, Window

OnSent = Callable[[CodedMessage], None]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Messages that are coded and not yet in the window.

    ``bytes`` is what they take where they wait; ``oldest_s`` is when the oldest image was captured
    (monotonic), None when none waits.
    """

    messages: int = 0
    images: int = 0
    bytes: int = 0
    oldest_s: float | None = None


class Backlog(Protocol):
    """Takes what is coded, and moves it into the window as there is room. Only the event loop's thread may use it."""

    @property
    def waiting(self) -> Waiting:
        """What waits now."""
        ...

    @property
    def coded_images(self) -> int:
        """Images coded since the session began."""
        ...

    def takes(self, images: int) -> bool:
        """Whether so many images may be coded now."""
        ...

    async def put(self, messages: Sequence[CodedMessage]) -> None:
        """Keep messages that were just coded; returns when they are safe where they wait."""
        ...

    def answered(self, first_sequence: int) -> None:
        """All images before ``first_sequence`` have their results, and these are written down."""
        ...

    async def renew(self, session: str) -> None:
        """The session goes on under another id, its numbers as they are."""
        ...


class MemoryBacklog:
    """No backlog at all: what is coded goes into the window, and no more is coded than that has room for."""

    waiting = Waiting()

    def __init__(self, window: Window, room: Callable[[], int], sent: OnSent) -> None:
        """``room`` tells how many images the window takes now; ``sent`` is told of every message that enters it."""
        self._window = window
        self._room = room
        self._sent = sent

    @property
    def coded_images(self) -> int:
        """Images coded since the session began."""
        return self._window.next_sequence

    def takes(self, images: int) -> bool:
        """Whether the window has room for them."""
        return self._room() >= images

    async def put(self, messages: Sequence[CodedMessage]) -> None:
        """Put them into the window."""
        for message in messages:
            self._window.add(message)
            self._sent(message)

    def answered(self, first_sequence: int) -> None:
        """Nothing to let go of: the window has."""

    async def renew(self, session: str) -> None:
        """Nothing to keep."""
