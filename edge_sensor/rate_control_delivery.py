"""How fast the link delivers, told from answers alone. Pure: every method is given the time.

A message keeps the link busy from when it was handed over, or from when the one before it had crossed, whichever is
later, until it has crossed itself; that is an answer's time, less the round trip of a small packet. What crossed in
that time, over that time, is the delivery rate, as BBR measures it. Where a message had to wait for the one before it,
the link was the bottleneck: such a sample is *firm*. The others may hold a pause too, and are lower bounds.

The round trip is the kernel's, where it can be read. Where it cannot it counts as link time: a link that is far away
is then taken for a slower one than it is, and gets longer messages.
"""

from collections import deque
from dataclasses import dataclass

WINDOW_S = 2.0  # that a rate is of, or of the last few answers
LONG_WINDOW_S = 6.0  # ... where it must not be a chance: messages that share a TCP segment are answered together
KEPT = 5
FIRM_SHARE = 0.5  # of the time: where the link has pauses, a bucket on the way saves up and makes it look fast
MIN_FIRM_S = 0.2  # so much link time, or a few answers that came in one burst would look like a fast link
FLOOR_WINDOW_S = 30.0


@dataclass(frozen=True, slots=True)
class Rate:
    """Bits a second; ``firm`` says that the link was seen to be the bottleneck, else it may well carry more.

    ``busy`` is the share of the time, 0..1, in which the link was at work.
    """

    bits_per_s: float
    firm: bool
    busy: float = 1.0


@dataclass(frozen=True, slots=True)
class _Sample:
    answered_s: float
    bits: float
    busy_s: float
    firm: bool


class Delivery:
    """What is under way, and how fast it arrives."""

    def __init__(self) -> None:
        self._under_way: dict[int, tuple[float, float]] = {}  # key -> (bits, handed over at)
        self._bits = 0.0
        self._samples: deque[_Sample] = deque()
        self._crossed_s = float("-inf")  # when the last message that is answered had crossed the link
        self._trips: deque[tuple[float, float]] = deque()  # (answered at, time from hand-over to answer)
        self.round_trip_s = 0.0  # of a small packet on an empty link, as far as it is known

    @property
    def bits_under_way(self) -> float:
        """Link bits handed over and not answered."""
        return self._bits

    def sent(self, key: int, bits: float, now_s: float) -> None:
        """A message of so many link bits was handed over."""
        self._bits += bits - self._under_way.pop(key, (0.0, 0.0))[0]
        self._under_way[key] = (bits, now_s)

    def answered(self, key: int, now_s: float) -> None:
        """It was answered, or refused; one that is not under way is ignored."""
        found = self._under_way.pop(key, None)
        if found is None:
            return
        bits, sent_s = found
        self._bits = self._bits - bits if self._under_way else 0.0
        firm = sent_s < self._crossed_s
        crossed_s = max(now_s - self.round_trip_s, sent_s, self._crossed_s)
        busy_s = crossed_s - max(sent_s, self._crossed_s)
        self._samples.append(_Sample(now_s, bits, busy_s, firm))
        self._trips.append((now_s, now_s - sent_s))
        self._crossed_s = crossed_s
        self._forget(now_s)

    def cut(self) -> None:
        """The link is gone: nothing is under way, and the next one may be another."""
        self._under_way.clear()
        self._bits = 0.0
        self._samples.clear()
        self._trips.clear()
        self._crossed_s = float("-inf")
        self.round_trip_s = 0.0

    def rate(self, now_s: float, window_s: float = WINDOW_S, least: int = KEPT) -> Rate | None:
        """The delivery rate of the last seconds, cut at once when what is under way takes longer than it should.

        It is of so many seconds, but of ``least`` answers at least: the shorter, the sooner it is right when the link
        has changed, and the less often else. None before the first answer.
        """
        recent = [sample for sample in self._samples if now_s - sample.answered_s <= window_s]
        recent = recent if len(recent) >= least else list(self._samples)[-least:]
        if not recent:
            return None
        firm = [sample for sample in recent if sample.firm]
        span_s = recent[-1].answered_s - recent[0].answered_s + recent[0].busy_s
        is_firm = sum(sample.busy_s for sample in firm) >= max(MIN_FIRM_S, FIRM_SHARE * span_s)
        used = firm if is_firm else recent
        rate = sum(s.bits for s in used) / max(1e-6, sum(s.busy_s for s in used))
        busy = min(1.0, sum(s.busy_s for s in recent) / max(1e-6, span_s))
        overdue_s = self._in_service_s(now_s) - self._floor_s()
        if self._under_way and overdue_s > 0:
            most = next(iter(self._under_way.values()))[0] / overdue_s
            if most < rate:
                return Rate(most, firm=True)
        return Rate(rate, is_firm, busy)

    def drain_s(self, now_s: float) -> float:
        """How much longer the link needs for what is under way, as far as its rate tells; 0 when nothing is."""
        if not self._under_way:
            return 0.0
        rate = self.rate(now_s)
        if rate is None:
            return float("inf")  # until the first answer, one message at a time
        return max(0.0, self._bits / rate.bits_per_s - self._in_service_s(now_s))

    def _in_service_s(self, now_s: float) -> float:
        """How long ago the oldest message began to cross."""
        if not self._under_way:
            return 0.0
        sent_s = next(iter(self._under_way.values()))[1]
        return now_s - max(sent_s, self._crossed_s)

    def _floor_s(self) -> float:
        """No answer comes sooner, be the message ever so small: propagation, and the server's own time."""
        return min((trip_s for _, trip_s in self._trips), default=float("inf"))

    def _forget(self, now_s: float) -> None:
        while len(self._samples) > KEPT and now_s - self._samples[0].answered_s > LONG_WINDOW_S:
            self._samples.popleft()
        while now_s - self._trips[0][0] > FLOOR_WINDOW_S:
            self._trips.popleft()
