"""How long a command may train: when its minutes are over, what is running saves and stops."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any, Self

AGAIN_S = 1.0  # between alarms once the time is over: one may come while nobody listens yet


class Budget:
    """``minutes`` from entering it, None for no end; main thread only.

    At the end SIGALRM comes and comes again, which a training under way takes as it takes Ctrl-C
    (``training.progress.StopSignal``). ``left_minutes`` and ``over`` are for what cannot be interrupted.
    """

    def __init__(self, minutes: float | None) -> None:
        self._minutes = minutes
        self._end = float("inf")
        self._before: Any = None

    def __enter__(self) -> Self:
        """Start the clock."""
        if self._minutes is not None:
            self._end = time.monotonic() + 60 * self._minutes
            self._before = signal.signal(signal.SIGALRM, _go_on)
            signal.setitimer(signal.ITIMER_REAL, 60 * self._minutes, AGAIN_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop it."""
        if self._minutes is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)

    @property
    def left_minutes(self) -> float:
        """Until the end; negative after it."""
        return (self._end - time.monotonic()) / 60

    @property
    def over(self) -> bool:
        """Whether the minutes are over."""
        return self.left_minutes <= 0


def _go_on(number: int, frame: FrameType | None) -> None:
    """Nothing: an alarm between trainings only has to be survived."""
