"""Percentiles of a stream of latencies in memory that does not grow."""

import math
from bisect import bisect_left
from itertools import accumulate

_LOWEST_MS = 0.01
_STEP = math.log(1.02)  # a percentile is right to within 1 %
_BUCKETS = 1 + math.ceil(math.log(1e10) / _STEP)  # up to 1e8 ms, more than a day


class LatencyHistogram:
    """Counts in buckets that widen by 2 % each."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._total = 0

    def add(self, latency_ms: float) -> None:
        """Count one latency; what lies outside 0.01 ms to a day counts as the nearest of the two."""
        steps = math.log(max(latency_ms, _LOWEST_MS) / _LOWEST_MS) / _STEP
        self._counts[min(_BUCKETS - 1, int(steps))] += 1
        self._total += 1

    def percentile(self, percent: float) -> float | None:
        """The latency in ms that ``percent`` (0..100) of all do not exceed; None when there are none."""
        if not self._total:
            return None
        rank = max(1, math.ceil(self._total * percent / 100))
        bucket = bisect_left(list(accumulate(self._counts)), rank)
        return float(_LOWEST_MS * math.exp((bucket + 0.5) * _STEP))
