"""Rate control in a running sensor: tells the controller what happens, and carries out what it plans.

::

    stream ── sent, answered ──▶ Controller ── plan ──▶ session.turn: the way that commands take
    kernel ── bytes sent ─────▶      │
    queue  ── ages, images ───▶      └─ when to close a message, when to send one

Only the event loop's thread may use it.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge_sensor.channel import Servers
from edge_sensor.frame_queue import FrameQueue
from edge_sensor.rate_control import Controller, Plan, Seen
from edge_sensor.rate_control_budget import Budget
from edge_sensor.rate_control_kernel import KernelCounts
from edge_sensor.rate_control_ladder import ladder
from edge_sensor.session import Session
from edge_sensor.tuner import Tuner
from edge_sensor.window import CodedMessage, Unanswered
from latentwire.errors import CommandRefusedError, LatentwireError
from latentwire.messages import RateControl, RateControlState, SetRateControl

MIN_AGE_S, MAX_AGE_S = 0.1, 3600.0  # what the limit may be
STEP_S = 0.1
_POLL_S = 0.025  # how exactly a message is closed
_ARRIVALS_S = 3.0  # over which a live source's images are counted
_MAX_IMAGES = 1024  # of one message
_MAX_FRAMES = 4096  # that wait to be coded …
_MAX_FRAME_BYTES = 16 << 20  # … and their memory
_LOOKED_AT = 64  # messages not yet sent that are looked at one by one

log = logging.getLogger("latentwire.sensor")


@dataclass(frozen=True, slots=True)
class Sight:
    """What rate control has to know of its sensor.

    ``live`` and ``fps`` are the source's; ``delay_s`` is how long a message stays open at
    least; ``max_image_bits`` caps the payload bits an image that a rung may be measured at.
    """

    servers: Servers
    live: bool
    fps: float | None
    delay_s: float
    max_image_bits: float = math.inf


class RateControlTask:
    """Follows the link, turns the knob, and says when messages are closed and sent; nothing of it while by hand."""

    def __init__(
        self,
        session: Session,
        tuner: Tuner,
        queue: FrameQueue,
        control: RateControl,
        sight: Sight,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.control = control
        self._session = session
        self._tuner = tuner
        self._queue = queue
        self._sight = sight
        self._clock = clock
        self._changed = asyncio.Event()
        self._controller: Controller | None = None  # None while by hand
        self._of: tuple[str, str, str] | None = None  # bundle, variant and model that the controller's rungs are of
        self._variant = ""  # that the controller chose last
        self._by_hand = (session.images_per_message, session.window_images, queue.capacity)
        self._coding_oldest_s: float | None = None
        self._closed_s: float | None = None
        self._sent_end = session.window.first_sequence
        self._arrivals: deque[tuple[float, int]] = deque()
        self._kernel = KernelCounts(sight.servers)
        self._most_frames = 0  # that may wait to be coded

    # who turns the knob

    def apply(self, command: SetRateControl) -> None:
        """Carry a command out and say so, or refuse it."""
        if command.max_age_s is not None and not MIN_AGE_S <= command.max_age_s <= MAX_AGE_S:
            error = CommandRefusedError(f"the limit on images' age must be {MIN_AGE_S:g} to {MAX_AGE_S:g} s")
            self._session.refuse(command.command_id, error)
            return
        changes = {
            name: getattr(command, name)
            for name in ("automatic", "max_age_s", "budget_bits_per_s")
            if getattr(command, name) is not None
        }
        if changes.get("budget_bits_per_s") == 0:
            changes["budget_bits_per_s"] = None
        self._become(replace(self.control, **changes), command.command_id)

    def by_hand(self) -> None:
        """The rate is set by hand: that ends automatic control and any budget."""
        if self.control.by_itself:
            self._become(replace(self.control, automatic=False, budget_bits_per_s=None), 0)

    def _become(self, control: RateControl, command_id: int) -> None:
        log.info("rate control: %s", control.described())
        self.control = control
        self._session.say(RateControlState(command_id, control))
        if not control.by_itself:
            self._let_go()
        elif self._controller is not None:
            self._controller.max_age_s = control.max_age_s
            self._controller.budget = Budget(control.budget_bits_per_s)
        self._changed.set()

    def _let_go(self) -> None:
        self._controller = self._of = None
        self._session.images_per_message, self._session.window_images, capacity = self._by_hand
        self._queue.resize(capacity)
        self._queue.keep = 1.0
        self._session.wakeup.notify()

    # what the link does

    def connected(self, now_s: float) -> None:
        """The server has said welcome."""
        if self.control.by_itself:
            self._session.say(RateControlState(0, self.control))
        self._kernel.connected()
        self._sent_end = self._session.window.first_sequence

    def sent(self, message: CodedMessage, now_s: float) -> None:
        """gRPC was handed a message."""
        self._sent_end = message.end
        if self._controller is None:
            return
        payload_bits = 8.0 * len(message.batch.payload)
        images = message.batch.images
        self._kernel.sent(images, payload_bits, self._controller.costs.message_bits(images, payload_bits))
        self._controller.sent(message.batch.first_sequence, images, payload_bits, now_s)
        if message.sent_s == now_s:  # the first time
            made_at = (message.point.variant, message.point.rate_scale)
            for number, rung in enumerate(self._controller.rungs):
                if (rung.variant, rung.rate_scale) == made_at:
                    self._controller.coded(number, message.batch.images, payload_bits)

    def answered(self, images: Sequence[Unanswered], now_s: float) -> None:
        """These images of one message have their results, or were refused."""
        if self._controller is not None and images:
            self._controller.delivery.answered(images[0].message.batch.first_sequence, now_s)

    def lost(self, now_s: float) -> None:
        """The stream is over."""
        self._kernel.lost()
        if self._controller is not None:
            self._controller.delivery.cut()

    # when messages are closed and sent

    def send_in_s(self, now_s: float) -> float:
        """Seconds until the next message may be handed to gRPC."""
        return 0.0 if self._controller is None else self._controller.send_in_s(now_s)

    async def due(self) -> None:
        """Return when the next message is to be coded: at once while by hand, for then the coder's rule holds."""
        now_s = self._clock()
        if self._controller is not None and self._closed_s is not None and self._coding_oldest_s is not None:
            self._controller.coding_took(now_s - self._closed_s)
        self._coding_oldest_s = self._closed_s = None
        while (controller := self._controller) is not None and not self._queue.ended:
            oldest_s, now_s = self._queue.oldest_s, self._clock()
            wait_s = _POLL_S
            if oldest_s is not None:
                wait_s = controller.close_in_s(now_s - oldest_s, self._unsent_bits(controller), now_s)
                if wait_s <= 0 or self._queue.images >= self._session.message_images():
                    self._coding_oldest_s, self._closed_s = oldest_s, now_s
                    self._queue.hurry()
                    return
            await self._session.wakeup.changed(min(wait_s, _POLL_S))

    # the steps

    async def run(self) -> None:
        """Follow the link until cancelled."""
        while True:
            if not self.control.by_itself:
                self._changed.clear()
                await self._changed.wait()
                continue
            await self._renew()
            controller = self._controller
            if controller is not None:
                self._look(controller)
                await self._turn(controller, controller.step(self._seen(controller), self._clock()))
            await asyncio.sleep(STEP_S)

    async def _renew(self) -> None:
        """Another bundle, model, or a variant that somebody else chose has other rungs."""
        session = self._session
        target, bundle = session.target, session.target_bundle
        same = self._of is not None and (bundle.digest, target.model) == (self._of[0], self._of[2])
        if self._controller is not None and same and target.variant == self._variant:
            return
        rungs = await asyncio.to_thread(ladder, bundle, target.variant, target.model)
        below = [i for i, r in enumerate(rungs) if r.variant == target.variant and r.rate_scale <= target.rate_scale]
        before = self._controller
        if not self.control.by_itself:  # it was turned by hand meanwhile
            return
        self._controller = Controller(
            rungs,
            max(below, default=0),
            self.control.max_age_s,
            delay_s=self._sight.delay_s,
            budget_bits_per_s=self.control.budget_bits_per_s,
            max_image_bits=self._sight.max_image_bits,
        )
        if before is not None:
            self._controller.delivery, self._controller.budget = before.delivery, before.budget
        self._of, self._variant = (bundle.digest, target.variant, target.model), target.variant
        shape = bundle.manifest.input
        self._most_frames = min(_MAX_FRAMES, _MAX_FRAME_BYTES // (shape.height * shape.width * shape.channels))

    def _look(self, controller: Controller) -> None:
        """Read the kernel's counts, and make room for messages of the size that the link asks for."""
        traffic, crossed = self._kernel.read(self._clock())
        if traffic is not None:
            controller.costs.segments_of(traffic.segment_bytes, traffic.received_segment_bytes)
            controller.delivery.round_trip_s = traffic.round_trip_s
        if crossed is not None:
            controller.costs.crossed(crossed.messages, crossed.images, crossed.payload_bits, crossed.link_bits)
            controller.budget.spent(crossed.link_bits - crossed.thought_bits, self._clock())
        by_hand = self._by_hand[0]
        images = max(by_hand, min(_MAX_IMAGES, self._most_frames))
        frames = max(self._by_hand[2], self._most_frames)
        if self._paced_images_per_s() is None:  # it waits: what it gives is to be what the link can carry
            images = min(images, max(by_hand, controller.images_in_period(self._clock())))
            frames = max(self._by_hand[2], images)
        self._session.images_per_message = images
        self._session.window_images = max(self._by_hand[1], 4 * images)
        self._queue.resize(frames)

    async def _turn(self, controller: Controller, plan: Plan) -> None:
        """Carry the plan out, unless somebody else's change is under way."""
        session = self._session
        self._queue.keep = plan.keep if self._sight.live else 1.0
        rung, target = controller.rungs[plan.rung], session.target
        if (rung.variant, rung.rate_scale) == (target.variant, target.rate_scale):
            return
        if session.turning or session.coded_all:
            return
        try:
            tuner = self._tuner = self._tuner.of(session.target_bundle)
            point = await asyncio.to_thread(tuner.point, rung.variant, target.model, rung.rate_scale)
            encoder = session.target_encoder
            if rung.variant != target.variant:
                encoder = await asyncio.to_thread(tuner.encoder, rung.variant)
        except LatentwireError as error:
            log.warning("rate control cannot use variant %s, rate scale %g: %s", rung.variant, rung.rate_scale, error)
            return
        if self._controller is controller and session.target is target and not session.turning:
            self._variant = rung.variant
            session.turn(point, encoder, 0)

    # what is seen

    def _seen(self, controller: Controller) -> Seen:
        now_s, window = self._clock(), self._session.window
        waiting = [at for at in (self._coding_oldest_s, self._queue.oldest_s) if at is not None]
        first = window.at(window.first_sequence)
        oldest = waiting + ([first.pictures[0].captured_s] if first is not None else [])
        backlog_s = self._session.backlog.waiting.oldest_s
        oldest += [backlog_s] if backlog_s is not None else []
        waiting_s = now_s - min(waiting, default=now_s)
        return Seen(
            self._paced_images_per_s(),
            max(0.0, now_s - min(oldest, default=now_s)),
            max(0.0, waiting_s),
            self._unsent_bits(controller),
        )

    def _paced_images_per_s(self) -> float | None:
        """Images a second that come whether or not there is room; None where the source waits for it."""
        if not self._sight.live:
            return self._sight.fps
        now_s = self._clock()
        if not self._arrivals or now_s - self._arrivals[-1][0] >= STEP_S / 2:
            self._arrivals.append((now_s, self._queue.offered))
        while now_s - self._arrivals[0][0] > _ARRIVALS_S:
            self._arrivals.popleft()
        since_s = self._arrivals[-1][0] - self._arrivals[0][0]
        return (self._arrivals[-1][1] - self._arrivals[0][1]) / since_s if since_s > 0 else 0.0

    def _unsent_bits(self, controller: Controller) -> float:
        """Link bits of what is coded and not yet handed over; many messages are estimated from the first of them."""
        session, costs = self._session, controller.costs
        bits, images, sequence = 0.0, 0, self._sent_end
        for _ in range(_LOOKED_AT):
            message = session.window.at(sequence)
            if message is None:
                break
            bits += costs.message_bits(message.batch.images, 8.0 * len(message.batch.payload))
            images += message.batch.images
            sequence = message.end
        further = max(0, session.window.next_sequence - sequence)
        bits += further * bits / images if images else 0.0
        waiting = session.backlog.waiting
        # Not by its bytes: on disk a message takes more than its payload.
        return bits + waiting.images * costs.image_bits(controller.plan.rung) + waiting.messages * costs.around_bits
