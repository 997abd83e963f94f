"""The rate controller: chooses the operating point, so that no image waits too long for its answer. Pure.

It neither reads a clock nor does I/O: whoever runs it tells it what was coded, sent and answered, and asks.

Levers, in the order in which they are used:

1. *Images a message.* A message is closed when the link is about to be free, but not before ``delay_s``: on a slow
   link it holds more images and framing costs less, without anybody choosing. ``PERIOD_SHARE`` bounds it.
2. *Rate scale.* Rungs are the knots of the bundle's frontier. Down at once when the link shows that it cannot carry
   the rung, or when the age that is foreseen nears its limit; up one rung at a time, when the link has been seen to
   carry more, or else as a probe, which waits twice as long each time it has failed.
3. *Variant.* Cheaper variants' rungs lie below the variant's own.
4. *Dropping.* Of a live source's images a share is left out, evenly, when even the lowest rung does not fit.

AWStream (Zhang et al., SIGCOMM 2018) has the measured table of rates and the steps along it; Google congestion control
(Carlucci et al., MMSys 2016) the step down on growing delay and the cautious rise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edge_sensor.rate_control_budget import Budget
from edge_sensor.rate_control_costs import SMOOTHING, Costs, Rung
from edge_sensor.rate_control_delivery import LONG_WINDOW_S, WINDOW_S, Delivery, Rate

# Shares of the age limit. A message's images wait up to a period to be coded, up to LEAD for the message before, and a
# period for their own to cross: 2 x PERIOD + LEAD is what is foreseen when the link is just full.
PERIOD_SHARE = 0.2
LEAD_SHARE = 0.1
EASY_SHARE = 0.5
CALM_SHARE = 0.7
ALARM_SHARE = 0.85

UP_MARGIN = 0.85  # of the rate seen: what a higher rung may need
DOWN_MARGIN = 0.95  # and what the rung stepped down to may need; between the two nothing changes
LITTLE = 1.25  # how much more than the rate a rung may need for a while, as long as images are young
SCENE_S = 10.0  # over which an image's bits are averaged
PAUSE_SHARE = 0.1  # between two steps down while images are young
RECOVERY_SHARE = 1.0  # and after one that took back a rise: what it lost in full queues is sent again meanwhile
DRAIN_SHARE = 0.5
HOLD_SHARE = 0.5  # calm for so long, in age limits, before a rise
IDLE = 0.5  # a link that worked for less of the time may carry more than was seen
PROBE_HOLDS = 3  # and for so many holds, where the link's rate is not known
FAILED_S = 15.0  # a step down so soon after a rise means that the rise was a mistake
FIRST_PENALTY_S = 10.0
MAX_PENALTY_S = 30.0
FASTER = 1.25  # the link is another when it is seen to be so much faster than at the mistake
KEEP_RISE = 1.3
MIN_KEEP = 1 / 256
PAYLOAD_SHARE = 0.3  # of the room, at least, is the images'


@dataclass(frozen=True, slots=True)
class Seen:
    """What the sensor looks like now.

    ``images_per_s`` come from a live source, None where the source waits; ``oldest_s`` is the age of the oldest image
    without an answer, ``waiting_s`` that of the oldest not yet coded, each 0 when there is none; ``unsent_bits`` are
    link bits that are coded and not yet handed over.
    """

    images_per_s: float | None
    oldest_s: float
    waiting_s: float
    unsent_bits: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done: the rung, and the share of a live source's images that are coded, 0..1."""

    rung: int
    keep: float = 1.0


@dataclass(frozen=True, slots=True)
class _Ceiling:
    """Rungs from ``rung`` up were a mistake when the link gave ``bits_per_s``; not again before ``until_s``."""

    rung: int
    until_s: float
    bits_per_s: float


class Controller:
    """Keeps images' age under ``max_age_s``, and what is sent under a budget.

    ``rungs`` are cheapest first, ``start`` is the one in use; ``delay_s`` is how long a message stays open at least;
    ``max_image_bits`` is never passed by a rung's payload bits an image, where the lowest allows.
    """

    def __init__(
        self,
        rungs: Sequence[Rung],
        start: int,
        max_age_s: float,
        *,
        delay_s: float = 0.1,
        budget_bits_per_s: float | None = None,
        max_image_bits: float = float("inf"),
    ) -> None:
        self.rungs = tuple(rungs)
        self.costs = Costs(rungs)
        self.delivery = Delivery()
        self.budget = Budget(budget_bits_per_s)
        self.plan = Plan(start)
        self.max_age_s = max_age_s
        self.delay_s = delay_s
        self._max_image_bits = max_image_bits
        self._coding_s = 0.0
        self._changed_s = self._lowered_s = float("-inf")
        self._calm_since_s: float | None = None
        self._risen_s: float | None = None  # the last rise, as long as it may turn out a mistake
        self._pause_s = self._alarm_age_s = 0.0
        self._penalty_s = 0.0
        self._images_per_s: float | None = None
        self._ceiling: _Ceiling | None = None

    @property
    def period_s(self) -> float:
        """The longest time between two messages that leaves images young enough."""
        return PERIOD_SHARE * self.max_age_s

    @property
    def lead_s(self) -> float:
        """How long before the link is free the next message is closed: it must be coded and there in time."""
        return LEAD_SHARE * self.max_age_s + min(self._coding_s, self.period_s)

    def coding_took(self, seconds: float) -> None:
        """From a message's closing to its being ready to send."""
        self._coding_s += 0.2 * (seconds - self._coding_s)

    def coded(self, rung: int, images: int, payload_bits: float) -> None:
        """A message of so many images was coded at a rung: scenes come and go, so some seconds' worth counts."""
        share = images / (SCENE_S * self._images_per_s) if self._images_per_s else 1.0
        self.costs.coded(rung, images, payload_bits, min(SMOOTHING, share))

    def sent(self, key: int, images: int, payload_bits: float, now_s: float) -> None:
        """A message of so many images was handed to the link."""
        bits = self.costs.message_bits(images, payload_bits)
        self.delivery.sent(key, bits, now_s)
        self.budget.spent(bits, now_s)

    def send_in_s(self, now_s: float) -> float:
        """Seconds until the next message may be handed over; inf until an answer has come."""
        drain_s = self.delivery.drain_s(now_s)
        return max(0.0, drain_s - self.lead_s, self.budget.wait_s(now_s))

    def close_in_s(self, waiting_s: float, unsent_bits: float, now_s: float) -> float:
        """Seconds until the open message is to be closed, its oldest image being ``waiting_s`` old.

        ``unsent_bits`` of messages go before it. Images wait for the link no longer than ``max_age_s``: then they
        are coded, and kept where coded ones are.
        """
        open_s = min(self.delay_s, self.period_s) - waiting_s
        rate = self._rate(now_s) if unsent_bits else None
        before_s = unsent_bits / rate.bits_per_s if rate is not None else 0.0
        free_s = self.delivery.drain_s(now_s) + before_s - self.lead_s
        link_s = max(free_s, self.budget.wait_s(now_s))
        return max(0.0, min(max(open_s, link_s), self.max_age_s - waiting_s))

    def images_in_period(self, now_s: float) -> int:
        """How many images of this rung the link carries in a period; of a source that waits no more are taken."""
        rate = self._rate(now_s)
        if rate is None:
            return 1
        room = rate.bits_per_s * self.period_s - self.costs.around_bits
        return max(1, int(room / self.costs.image_bits(self.plan.rung)))

    def foreseen_s(self, seen: Seen, now_s: float) -> float:
        """How old the oldest image that waits will be when it is answered, as far as the rate tells."""
        rate = self._rate(now_s)
        if rate is None:
            return seen.oldest_s
        images = round(seen.waiting_s * (seen.images_per_s or 0.0) * self.plan.keep)
        payload_bits = images * self.costs.image_bits(self.plan.rung)
        waiting_bits = self.costs.message_bits(images, payload_bits) if images else 0.0
        ahead_s = self.delivery.drain_s(now_s) + (seen.unsent_bits + waiting_bits) / rate.bits_per_s
        return max(seen.oldest_s, seen.waiting_s + ahead_s)

    def step(self, seen: Seen, now_s: float) -> Plan:
        """Look at the queue and the link, and change the plan if they ask for it. Call it some times a second."""
        self._images_per_s = seen.images_per_s
        age_s = self.foreseen_s(seen, now_s)
        if age_s > CALM_SHARE * self.max_age_s or self._calm_since_s is None:
            self._calm_since_s = now_s
        rate = self._rate(now_s)
        top = self._top()
        if self.plan.rung > top:
            self._change(Plan(top), now_s)
        elif self._overloaded(seen, rate, age_s, now_s):
            self._lower(seen, rate, age_s, now_s)
        else:
            self._rise(seen, self._lasting(rate, now_s), top, now_s)
        return self.plan

    def _rate(self, now_s: float, window_s: float = WINDOW_S) -> Rate | None:
        """What the link delivers, or the budget where that is less."""
        rate, budget = self.delivery.rate(now_s, window_s), self.budget.bits_per_s
        if budget is not None and (rate is None or budget < rate.bits_per_s):
            return Rate(budget, firm=True)
        return rate

    def _lasting(self, rate: Rate | None, now_s: float) -> Rate | None:
        """The less of what the link delivers now and for some time: a rise must not build on a chance."""
        longer = self._rate(now_s, LONG_WINDOW_S)
        if rate is None or longer is None:
            return None
        firm = rate.firm and longer.firm
        return Rate(min(rate.bits_per_s, longer.bits_per_s), firm, max(rate.busy, longer.busy))

    def _needs(self, rung: int, seen: Seen, keep: float = 1.0) -> float:
        return self.costs.demand(rung, keep * (seen.images_per_s or 0.0), self.period_s)

    def _top(self) -> int:
        allowed = [i for i in range(len(self.rungs)) if self.costs.image_bits(i) <= self._max_image_bits]
        return max(allowed, default=0)

    def _highest(self, seen: Seen, bits_per_s: float, top: int) -> int:
        """The highest rung up to ``top`` that needs no more than that; 0 when none does."""
        return max((i for i in range(top + 1) if self._needs(i, seen) <= bits_per_s), default=0)

    def _overloaded(self, seen: Seen, rate: Rate | None, age_s: float, now_s: float) -> bool:
        plan = self.plan
        if rate is not None and rate.firm:
            # A little too much is not yet an overload: images are still young, and the next scene may cost less.
            easy = age_s < EASY_SHARE * self.max_age_s
            much = LITTLE if easy else 1.0
            soon = now_s - self._lowered_s < self._pause_s
            if self._needs(plan.rung, seen, plan.keep) > much * rate.bits_per_s and not (easy and soon):
                return plan.rung > 0 or (seen.images_per_s is not None and plan.keep > MIN_KEEP)
        if age_s <= ALARM_SHARE * self.max_age_s:
            self._alarm_age_s = 0.0
            return False
        # What was stepped down for takes its time to drain: again only if it grows on, or does not shrink.
        since_s = now_s - self._lowered_s
        growing = age_s > max(self._alarm_age_s, self.max_age_s) and since_s > DRAIN_SHARE * self.max_age_s
        return growing or since_s > self.max_age_s

    def _lower(self, seen: Seen, rate: Rate | None, age_s: float, now_s: float) -> None:
        plan = self.plan
        self._alarm_age_s = max(age_s, self._alarm_age_s) + 0.1 * self.max_age_s
        self._pause_s = self.max_age_s * (PAUSE_SHARE if self._risen_s is None else RECOVERY_SHARE)
        if rate is not None:
            if self._risen_s is not None:
                self._penalty_s = min(MAX_PENALTY_S, max(FIRST_PENALTY_S, 2 * self._penalty_s))
            if plan.rung > 0 and self._needs(plan.rung, seen) > UP_MARGIN * rate.bits_per_s:
                until_s = now_s + max(FIRST_PENALTY_S, self._penalty_s)
                self._ceiling = _Ceiling(plan.rung, until_s, rate.bits_per_s)
            self._risen_s = None
        self._lowered_s = now_s
        if rate is None:
            self._change(Plan(max(0, plan.rung - 1), plan.keep), now_s)
            return
        late = max(0.0, age_s / self.max_age_s - 1)  # over the limit: room to drain as well
        latest = self.delivery.rate(now_s, window_s=0.0, least=2)
        now_bits_per_s = rate.bits_per_s if latest is None else min(rate.bits_per_s, latest.bits_per_s)
        room = DOWN_MARGIN * now_bits_per_s * max(0.25, 1 - late)
        rung = self._highest(seen, room, max(0, plan.rung - 1))
        little = self._needs(plan.rung, seen) <= LITTLE * rate.bits_per_s
        if plan.rung > 0 and ((little and not late) or age_s < EASY_SHARE * self.max_age_s):
            rung = plan.rung - 1  # one by one while it is a little too much, or images are young
        keep = self._kept(seen, rate, room)
        self._change(Plan(rung, keep if plan.rung > 0 else min(keep, plan.keep)), now_s)

    def _kept(self, seen: Seen, rate: Rate, room: float) -> float:
        """The share of images that fits: all but where the lowest rung of all needs more than there is room for."""
        if not seen.images_per_s or not rate.firm or self._needs(0, seen) <= room:
            return 1.0
        around = self.costs.around_bits / self.period_s
        payload = self._needs(0, seen) - around
        # Where framing alone takes the link, fewer images help little: messages come more rarely then.
        return min(1.0, max(MIN_KEEP, max(room - around, PAYLOAD_SHARE * room) / max(payload, MIN_KEEP)))

    def _rise(self, seen: Seen, rate: Rate | None, top: int, now_s: float) -> None:
        hold_s = HOLD_SHARE * self.max_age_s
        since_s = now_s - max(self._changed_s, now_s if self._calm_since_s is None else self._calm_since_s)
        if self._risen_s is not None and now_s - self._risen_s > FAILED_S:
            self._risen_s, self._penalty_s = None, 0.0
        if since_s < hold_s or rate is None:
            return
        plan, room = self.plan, UP_MARGIN * rate.bits_per_s
        if plan.keep < 1:
            keep = min(1.0, KEEP_RISE * plan.keep)
            if not rate.firm or self._needs(0, seen, keep) <= DOWN_MARGIN * rate.bits_per_s:
                self._change(Plan(plan.rung, keep), now_s)
            return
        rung = self._highest(seen, room, top)
        if rate.firm and self._risen_s is not None and since_s < LONG_WINDOW_S:
            return  # it is full at the rung that has just been risen to: what it carries is to be seen first
        if not rate.firm:  # the link had time to spare: how much is not known
            # After a mistake a rise must prove itself longer: a bucket on the way hides for a while that it is one.
            probe = since_s >= PROBE_HOLDS * hold_s or (rung > plan.rung and not self._penalty_s)
            known = top if rate.busy < IDLE else self._highest(seen, rate.bits_per_s, top)
            rung = max(plan.rung, known) if probe else plan.rung
        rung = self._under_ceiling(min(rung, plan.rung + 1), seen, rate, now_s)
        if rung > plan.rung:
            self._risen_s = now_s
            self._change(Plan(rung), now_s)

    def _under_ceiling(self, rung: int, seen: Seen, rate: Rate, now_s: float) -> int:
        """The rung that may be risen to, given the last overload; the link may have become another since."""
        ceiling, now = self._ceiling, self.plan.rung
        if ceiling is None:
            return rung
        needed = max(FASTER * ceiling.bits_per_s, self._needs(ceiling.rung, seen) / UP_MARGIN)
        faster = rate.firm and rate.bits_per_s > needed and now_s - self._changed_s > LONG_WINDOW_S
        if faster or now_s > ceiling.until_s + MAX_PENALTY_S:
            self._ceiling = None
            return rung
        if now_s < ceiling.until_s:
            return min(rung, ceiling.rung - 1)
        proven = self._risen_s is None
        return min(rung, now + 1 if proven or now + 1 < ceiling.rung else now)

    def _change(self, plan: Plan, now_s: float) -> None:
        if plan != self.plan:
            self.plan = plan
            self._changed_s = now_s
