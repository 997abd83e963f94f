"""Symbols <-> bytes: a range coder with 24-bit integer frequencies. The only file that imports constriction.

The code (docs/wire-format.md) is constriction's range coder, 64-bit state and 32-bit words. ``portable`` makes the same
bytes without constriction, which has no wheel for 64-bit ARM Linux. Constriction's own compressed form is whole words,
4 bytes where fewer would do, so ``seal`` picks, among all numbers in the coder's final interval, the one with the
fewest bytes; a decoder reads the format's *tail* after the last byte, then zeros without end.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentwire.codec import portable
from latentwire.codec.portable import PRECISION_BITS, STATE_BITS, TOTAL, WORD_BITS, Symbols
from latentwire.errors import CorruptPayloadError

try:
    import constriction  # type: ignore[import-untyped]
except ImportError:
    constriction = None

__all__ = [
    "BACKENDS",
    "PRECISION_BITS",
    "TOTAL",
    "Decoder",
    "Encoder",
    "Symbols",
    "Table",
    "ideal_bits",
    "in_use",
    "use",
]

BACKENDS = ("constriction", "portable")
_backend = "portable" if constriction is None else "constriction"


def in_use() -> str:
    """Which of ``BACKENDS`` codes: constriction where it is installed, unless ``use`` said otherwise."""
    return _backend


def use(backend: str) -> None:
    """Code with ``backend`` from now on; ValueError if there is no such, or it is not installed.

    Both make the same bytes, so it may change at any time: an encoder or decoder keeps the one it began with.
    """
    global _backend
    if backend not in BACKENDS:
        raise ValueError(f"the coder must be {' or '.join(BACKENDS)}, not {backend!r}")
    if backend == "constriction" and constriction is None:
        raise ValueError("constriction is not installed: leave the coder unset, or set it to portable")
    _backend = backend


def ideal_bits(frequencies: NDArray[np.int64]) -> NDArray[np.float64]:
    """-log2 of the probabilities that these frequencies stand for."""
    bits: NDArray[np.float64] = PRECISION_BITS - np.log2(frequencies)
    return bits


class Table:
    """The frequencies of symbols 0..K-1, ready for the coder.

    ``frequencies`` is (K,) int64 with K >= 2, each at least 1, summing to ``TOTAL``; ValueError otherwise. What else
    there is of it is made when first asked for: of many tables, few are used.
    """

    __slots__ = ("_bounds", "_model", "frequencies")

    def __init__(self, frequencies: NDArray[np.int64]) -> None:
        if frequencies.ndim != 1 or len(frequencies) < 2 or frequencies.min() < 1 or frequencies.sum() != TOTAL:
            raise ValueError(f"a table needs two or more frequencies of at least 1 that sum to {TOTAL}")
        self.frequencies = frequencies
        self._bounds: NDArray[np.int64] | None = None
        self._model: Any = None

    @property
    def ideal_bits(self) -> NDArray[np.float64]:
        """What each symbol costs, (K,)."""
        return ideal_bits(self.frequencies)

    @property
    def bounds(self) -> NDArray[np.int64]:
        """The running sum of the frequencies, (K + 1,), from 0 to ``TOTAL``."""
        if self._bounds is None:
            self._bounds = np.concatenate([[0], np.cumsum(self.frequencies)])
        return self._bounds

    @property
    def model(self) -> Any:
        """The table as constriction's model."""
        if self._model is None:
            # constriction gives every symbol 1 and shares out the rest in proportion to the floats; these sum to just
            # that rest, so its scale is exactly 1 and its integers are ours. One dtype, float64, and perfect=False,
            # always.
            rest = (self.frequencies - 1).astype(np.float64)
            self._model = constriction.stream.model.Categorical(rest, perfect=False)
        return self._model


class Encoder:
    """Codes runs of symbols, first in first out."""

    __slots__ = ("_portable", "_queue")

    def __init__(self) -> None:
        self._portable = portable.RangeEncoder() if _backend == "portable" else None
        self._queue: Any = None if self._portable else constriction.stream.queue.RangeEncoder()

    def push(self, symbols: Symbols, table: Table) -> None:
        """Code ``symbols`` (n,) int32, each in 0..K-1 of ``table``."""
        if self._portable:
            self._portable.push(symbols, table.bounds)
        else:
            self._queue.encode(symbols, table.model)

    def seal(self, tail: bytes = b"") -> bytes:
        """The fewest bytes that decode to all symbols pushed so far by a ``Decoder`` with that ``tail``."""
        if self._portable:
            return self._portable.seal(tail)
        words: NDArray[np.uint32] = self._queue.get_compressed()
        count, (lower, width) = self._queue.pos()
        prefix = int.from_bytes(words[:count].astype(">u4").tobytes(), "big")
        # constriction sealed with lower + 2**32 - 1; if that overflowed 64 bits, its words hold the carry already
        prefix -= (lower + (1 << WORD_BITS) - 1) >> STATE_BITS
        return portable.seal(prefix, count, lower, width, tail)


class Decoder:
    """Reads back what ``Encoder`` coded, given the same tables in the same order, and the same tail."""

    __slots__ = ("_portable", "_queue")

    def __init__(self, payload: bytes, tail: bytes = b"") -> None:
        self._portable = portable.RangeDecoder(payload, tail) if _backend == "portable" else None
        self._queue: Any = None
        if not self._portable:
            padded = payload + tail
            padded += b"\0" * (-len(padded) % 4)
            self._queue = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))

    def pull(self, count: int, table: Table) -> Symbols:
        """Decode ``count`` symbols, (count,) int32; CorruptPayloadError if the bytes cannot be of this table.

        Wrong bytes usually decode to wrong symbols without a word: only a checksum over the symbols tells.
        """
        if self._portable:
            return self._portable.pull(count, table.bounds)
        try:
            symbols: Symbols = self._queue.decode(table.model, count)
        except (AssertionError, ValueError) as error:
            raise CorruptPayloadError(f"the payload is no message of these tables: {error}") from None
        return symbols
