"""A ceiling on what may be sent: a bucket of bits that fills at the budget's rate. Pure."""

BURST_S = 1.0  # what an idle second has saved may be sent at once, and no more


class Budget:
    """Bits that may be sent; a message may overdraw it, and the next one waits until the debt is paid.

    So in any time t at most budget x (t + ``BURST_S``) and one message are sent.
    """

    def __init__(self, bits_per_s: float | None) -> None:
        """None: no ceiling."""
        self.bits_per_s = bits_per_s
        self._bits = 0.0
        self._at_s: float | None = None

    def spent(self, bits: float, now_s: float) -> None:
        """So many link bits were sent; negative when fewer were than had been thought."""
        if self.bits_per_s is not None:
            self._bits = self._level(now_s) - bits
            self._at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until something may be sent."""
        if self.bits_per_s is None:
            return 0.0
        return max(0.0, -self._level(now_s) / self.bits_per_s)

    def _level(self, now_s: float) -> float:
        assert self.bits_per_s is not None
        elapsed_s = 0.0 if self._at_s is None else now_s - self._at_s
        return min(self._bits + self.bits_per_s * elapsed_s, self.bits_per_s * BURST_S)
