"""The range coder of docs/wire-format.md in plain Python: constriction's bytes on any CPU, without a wheel.

Tables are given by their bounds, (K + 1,) int64 from 0 to ``TOTAL``: symbol k lies in ``bounds[k]`` to ``bounds[k+1]``.
"""

from bisect import bisect_right
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from latentwire.errors import CorruptPayloadError

PRECISION_BITS = 24
TOTAL = 1 << PRECISION_BITS
WORD_BITS = 32
STATE_BITS = 64

_WORD = 1 << WORD_BITS
_LOW_WORD = _WORD - 1
_START_WIDTH = (1 << STATE_BITS) - 1

Symbols = NDArray[np.int32]
Bounds = NDArray[np.int64]


def seal(prefix: int, words: int, lower: int, width: int, tail: bytes) -> bytes:
    """The fewest bytes, big-endian, that lie in the coder's final interval once ``tail`` and zeros are put after them.

    The interval begins at ``prefix`` x 2**64 + ``lower`` and is ``width`` wide, both below 2**64; ``prefix`` is of
    ``words`` words. ``tail`` is one byte, or none.
    """
    word_bytes = words * WORD_BITS // 8
    whole = prefix + (lower > 0)  # the only number that may be in it with nothing but zeros after its words
    if (whole - prefix) << STATE_BITS < lower + width:
        written = whole.to_bytes(word_bytes, "big").rstrip(b"\0")
        if written.endswith(tail):
            return written.removesuffix(tail)
    after = int.from_bytes(tail)
    for byte_count in range(WORD_BITS // 8 + 1):  # the last always serves, for the interval is a word wide or wider
        unit = 1 << (STATE_BITS - 8 * byte_count)
        rest = (unit >> 8) * after
        head = -(-(lower - rest) // unit)  # rounded up
        if head * unit + rest < lower + width:
            break
    return ((prefix << 8 * byte_count) + head).to_bytes(word_bytes + byte_count, "big")


class RangeEncoder:
    """Codes runs of symbols, first in first out."""

    __slots__ = ("_lower", "_width", "_words")

    def __init__(self) -> None:
        self._lower = 0  # 65 bits: the topmost is a carry into the words before
        self._width = _START_WIDTH
        self._words: list[int] = []  # 33 bits each, likewise; ``seal`` adds all carries at once

    def push(self, symbols: Symbols, bounds: Bounds) -> None:
        """Code ``symbols`` (n,) int32, each in 0..K-1."""
        lower, width, words = self._lower, self._width, self._words
        starts = bounds[symbols]
        frequencies = bounds[symbols + 1] - starts
        for start, frequency in zip(starts.tolist(), frequencies.tolist(), strict=True):
            scale = width >> PRECISION_BITS
            lower += scale * start
            width = scale * frequency
            if width < _WORD:
                words.append(lower >> WORD_BITS)
                lower = (lower & _LOW_WORD) << WORD_BITS
                width <<= WORD_BITS
        self._lower, self._width = lower, width

    def seal(self, tail: bytes = b"") -> bytes:
        """The fewest bytes that decode to all symbols pushed so far, when ``tail`` is read after them, then zeros."""
        words = np.array(self._words, np.uint64)
        prefix = int.from_bytes((words & _LOW_WORD).astype(">u4").tobytes(), "big")
        carries = int.from_bytes((words >> WORD_BITS).astype(">u4").tobytes(), "big")
        prefix += (carries << WORD_BITS) + (self._lower >> STATE_BITS)
        return seal(prefix, len(words), self._lower % (1 << STATE_BITS), self._width, tail)


class RangeDecoder:
    """Reads back what ``RangeEncoder`` coded, given the same bounds in the same order."""

    __slots__ = ("_offset", "_width", "_words")

    def __init__(self, payload: bytes, tail: bytes = b"") -> None:
        padded = payload + tail
        padded += b"\0" * (-len(padded) % 4)
        self._words = chain(np.frombuffer(padded, ">u4").tolist(), repeat(0))
        self._offset: int = next(self._words) << WORD_BITS | next(self._words)  # of the payload past ``lower``
        self._width = _START_WIDTH

    def pull(self, count: int, bounds: Bounds) -> Symbols:
        """Decode ``count`` symbols, (count,) int32; CorruptPayloadError if the bytes cannot be of these bounds."""
        offset, width, words = self._offset, self._width, self._words
        sought = bounds.data  # bisect reads it as Python ints, at a fifth of the time numpy's own take
        symbols: Symbols = np.empty(count, np.int32)
        filled = symbols.data
        for i in range(count):
            scale = width >> PRECISION_BITS
            quantile = offset // scale
            if quantile >= TOTAL:
                raise CorruptPayloadError("the payload is no message of these tables: past the end of a table")
            symbol = bisect_right(sought, quantile) - 1
            start = sought[symbol]
            offset -= scale * start
            width = scale * (sought[symbol + 1] - start)
            if width < _WORD:
                offset = offset << WORD_BITS | next(words)
                width <<= WORD_BITS
            filled[i] = symbol
        self._offset, self._width = offset, width
        return symbols
