"""A simulated sensor on a simulated thin link, for the rate controller: no thread, no clock but a counter."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.link_report import swing
from edge_sensor.rate_control import Controller, Seen
from edge_sensor.rate_control_costs import Rung

TICK_S = 0.02
STEP_S = 0.1
# A frontier like a shipped bundle's: payload bits an image at each knot.
BITS = (0.3, 0.9, 1.7, 2.9, 4.3, 6.0, 9.0, 15.0, 30.0, 50.0, 82.0)
RUNGS = tuple(Rung("full", 0.01 * (1 + i), bits) for i, bits in enumerate(BITS))


@dataclass(frozen=True, slots=True)
class World:
    """What a run is made of.

    ``bits_per_s`` gives the link's rate at a time, ``burst_bits`` is what its bucket holds; ``trip_known`` tells the
    controller the round trip, as a kernel would.
    """

    bits_per_s: Callable[[float], float]
    images_per_s: float = 600.0
    live: bool = True
    trip_s: float = 0.02
    trip_known: bool = True
    burst_bits: float = 0.0
    around_bits: float = 800.0  # of every message, on the real link
    answer_bits: float = 0.7  # of every image, for acknowledging its result
    scale: float = 1.0  # true payload bits over the bundle's
    noise: float = 0.1
    scene_s: float = 0.0  # a scene lasts so long, and costs by ``scenes`` more or less than the mean
    scenes: float = 0.0
    coding_s: float = 0.02
    capacity: int = 4096
    jitter_s: float = 0.0
    seed: int = 0


@dataclass(slots=True)
class Run:
    """What happened: rows of (time, value)."""

    ages: list[tuple[float, float]] = field(default_factory=list)  # when answered, age of a message's oldest image
    rungs: list[tuple[float, int]] = field(default_factory=list)
    keeps: list[tuple[float, float]] = field(default_factory=list)
    waiting: list[tuple[float, int, bool]] = field(default_factory=list)  # images not coded, link busy
    sent_bits: list[tuple[float, float]] = field(default_factory=list)
    images_answered: int = 0
    left_out: int = 0
    pushed_out: int = 0

    def worst_age(self, from_s: float, to_s: float, percent: float = 95) -> float:
        ages = [age for at, age in self.ages if from_s <= at < to_s]
        return float(np.percentile(ages, percent)) if ages else float("inf")

    def rungs_in(self, from_s: float, to_s: float) -> set[int]:
        return {rung for at, rung in self.rungs if from_s <= at < to_s}

    def swing(self, from_s: float, to_s: float) -> int:
        return swing([rung for at, rung in self.rungs if from_s <= at < to_s])

    def bits_in(self, from_s: float, to_s: float) -> float:
        return sum(bits for at, bits in self.sent_bits if from_s <= at < to_s)


class _Link:
    """First in, first out, behind a token bucket."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._queue: deque[list[float]] = deque()  # [bits left, key]
        self._tokens = world.burst_bits
        self._coming: list[tuple[float, int]] = []

    @property
    def busy(self) -> bool:
        return bool(self._queue)

    def push(self, key: int, bits: float) -> None:
        self._queue.append([bits, key])

    def answered(self, now_s: float, random: np.random.Generator) -> list[int]:
        world = self._world
        self._tokens += world.bits_per_s(now_s) * TICK_S
        if not self._queue:
            self._tokens = min(self._tokens, world.burst_bits)
        while self._queue and self._tokens > 0:
            used = min(self._tokens, self._queue[0][0])
            self._queue[0][0] -= used
            self._tokens -= used
            if self._queue[0][0] <= 0:
                self._coming.append(
                    (now_s + world.trip_s + random.uniform(0, world.jitter_s), int(self._queue.popleft()[1]))
                )
        here = [key for at, key in self._coming if at <= now_s]
        self._coming = [(at, key) for at, key in self._coming if at > now_s]
        return here


def simulate(controller: Controller, world: World, seconds: float) -> Run:
    """Run ``controller`` for so long."""
    return _Sensor(controller, world).run(seconds)


class _Sensor:
    def __init__(self, controller: Controller, world: World) -> None:
        self._control = controller
        self._world = world
        self._random = np.random.default_rng(world.seed)
        self._link = _Link(world)
        self._frames: deque[float] = deque()  # when captured
        self._due = 0.0
        self._kept = 0.0
        self._coding: tuple[float, list[float], float] | None = None  # ready at, images, payload bits
        self._unsent: deque[tuple[int, list[float], float]] = deque()
        self._sent: dict[int, list[float]] = {}
        self._key = 0
        self.out = Run()

    def run(self, seconds: float) -> Run:
        self._control.delivery.round_trip_s = self._world.trip_s if self._world.trip_known else 0.0
        for tick in range(int(seconds / TICK_S)):
            now_s = tick * TICK_S
            self._capture(now_s)
            for key in self._link.answered(now_s, self._random):
                self._answered(key, now_s)
            self._code(now_s)
            self._send(now_s)
            if tick % round(STEP_S / TICK_S) == 0:
                plan = self._control.step(self._seen(now_s), now_s)
                self.out.rungs.append((now_s, plan.rung))
                self.out.keeps.append((now_s, plan.keep))
            self.out.waiting.append((now_s, len(self._frames), self._link.busy))
        return self.out

    def _capture(self, now_s: float) -> None:
        world = self._world
        if not world.live:
            while len(self._frames) < 32:
                self._frames.append(now_s)
            return
        self._due += world.images_per_s * TICK_S
        while self._due >= 1:
            self._due -= 1
            self._kept += self._control.plan.keep
            if self._kept < 1:
                self.out.left_out += 1
                continue
            self._kept -= 1
            if len(self._frames) >= world.capacity:
                self._frames.popleft()
                self.out.pushed_out += 1
            self._frames.append(now_s)

    def _code(self, now_s: float) -> None:
        if self._coding is None and self._frames:
            if self._control.close_in_s(now_s - self._frames[0], self._unsent_bits(), now_s) > 0:
                return
            images = [self._frames.popleft() for _ in range(min(1024, len(self._frames)))]
            rung = self._control.plan.rung
            mean = len(images) * BITS[rung] * self._world.scale * self._scene(now_s)
            payload = 8 * float(np.ceil(max(1.0, mean * self._random.normal(1, self._world.noise)) / 8))
            self._control.coded(rung, len(images), payload)
            self._coding = (now_s + self._world.coding_s, images, payload)
        if self._coding is not None and self._coding[0] <= now_s:
            _, images, payload = self._coding
            self._control.coding_took(self._world.coding_s)
            self._unsent.append((self._key, images, payload))
            self._key += 1
            self._coding = None

    def _scene(self, now_s: float) -> float:
        if not self._world.scene_s:
            return 1.0
        number = int(now_s / self._world.scene_s)
        return 1 + self._world.scenes * float(np.random.default_rng((self._world.seed, number)).uniform(-1, 1))

    def _send(self, now_s: float) -> None:
        while self._unsent and self._control.send_in_s(now_s) <= 0:
            key, images, payload = self._unsent.popleft()
            bits = self._world.around_bits + payload * 1.036 + len(images) * self._world.answer_bits
            self._control.sent(key, len(images), payload, now_s)
            self._control.costs.crossed(1, len(images), payload, bits)
            self._sent[key] = images
            self._link.push(key, bits)
            self.out.sent_bits.append((now_s, bits))

    def _answered(self, key: int, now_s: float) -> None:
        self._control.delivery.answered(key, now_s)
        images = self._sent.pop(key)
        self.out.images_answered += len(images)
        self.out.ages.append((now_s, now_s - images[0]))

    def _unsent_bits(self) -> float:
        return sum(self._control.costs.message_bits(len(images), payload) for _, images, payload in self._unsent)

    def _seen(self, now_s: float) -> Seen:
        coding = [] if self._coding is None else self._coding[1]
        waiting = [*coding[:1], *list(self._frames)[:1]]
        oldest = [*waiting, *(images[0] for _, images, _ in self._unsent), *(own[0] for own in self._sent.values())]
        rate = self._world.images_per_s if self._world.live else None
        return Seen(rate, now_s - min(oldest, default=now_s), now_s - min(waiting, default=now_s), self._unsent_bits())


def steps(rates: Sequence[float], each_s: float) -> Callable[[float], float]:
    """A link that changes its rate every ``each_s`` seconds and keeps the last."""
    return lambda now_s: rates[min(int(now_s / each_s), len(rates) - 1)]
