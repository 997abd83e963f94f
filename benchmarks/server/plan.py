"""How long, how much, and on which cores."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from latentwire.report import Value

EVERY_IMAGE = 1.0  # the rate scale at which all images are refined
A_TENTH = 0.1  # and about a tenth
LARGE = 64  # images a message

Row = dict[str, Value]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """``streams`` send one image a message, ``large_streams`` 64, each with so many messages unanswered. A caller of
    another server waits for each answer: as many ``callers`` send one image as those are fastest with (16, 64, 200 and
    800 were tried). A measurement takes ``warm_s`` and ``seconds``; by the clock, ``paced_s``."""

    rounds: int = 3
    seconds: float = 2.0
    warm_s: float = 0.7
    callers: int = 64
    streams: int = 200
    in_flight: int = 4
    large_streams: int = 16
    large_in_flight: int = 2
    idle_streams: int = 2000
    active_images_per_s: float = 2.0  # of each stream, beside the idle ones
    paced_s: float = 4.0


QUICK = Plan(1, 0.4, 0.2, callers=8, streams=8, large_streams=2, idle_streams=20, active_images_per_s=20.0, paced_s=0.5)


@dataclass(frozen=True, slots=True)
class Cores:
    """Every server has the first core, the load the last; a machine of one core shares it."""

    server: int
    load: int

    @classmethod
    def of_this_process(cls) -> "Cores":
        """Of those that it may run on."""
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[-1])
