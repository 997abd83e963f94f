"""Symbols <-> bytes: a range coder with 24-bit integer frequencies. The only file that imports constriction.

The code is constriction's range coder (64-bit state, 32-bit words). Its own compressed form is whole words, 4 bytes
where fewer would do, so ``Encoder.seal`` picks, among all numbers in the coder's final interval, the one with the
fewest bytes; a decoder reads zeros after the last byte.
"""

from typing import Any

import constriction  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from latentwire.errors import CorruptPayloadError

PRECISION_BITS = 24
TOTAL = 1 << PRECISION_BITS
_WORD_BITS = 32
_STATE_BITS = 64

Symbols = NDArray[np.int32]


class Table:
    """The frequencies of symbols 0..K-1, ready for the coder.

    ``frequencies`` is (K,) int64 with K >= 2, each at least 1, summing to ``TOTAL``; ValueError otherwise.
    """

    __slots__ = ("frequencies", "ideal_bits", "model")

    def __init__(self, frequencies: NDArray[np.int64]) -> None:
        if frequencies.ndim != 1 or len(frequencies) < 2 or frequencies.min() < 1 or frequencies.sum() != TOTAL:
            raise ValueError(f"a table needs two or more frequencies of at least 1 that sum to {TOTAL}")
        self.frequencies = frequencies
        # constriction gives every symbol 1 and shares out the rest in proportion to the floats; these sum to just
        # that rest, so its scale is exactly 1 and its integers are ours. One dtype, float64, and perfect=False, always.
        self.model: Any = constriction.stream.model.Categorical((frequencies - 1).astype(np.float64), perfect=False)
        self.ideal_bits: NDArray[np.float64] = PRECISION_BITS - np.log2(frequencies)


class Encoder:
    """Codes runs of symbols, first in first out."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue = constriction.stream.queue.RangeEncoder()

    def push(self, symbols: Symbols, table: Table) -> None:
        """Code ``symbols`` (n,) int32, each in 0..K-1 of ``table``."""
        self._queue.encode(symbols, table.model)

    def seal(self) -> bytes:
        """The fewest bytes that decode to all symbols pushed so far."""
        if self._queue.is_empty():
            return b""
        words: NDArray[np.uint32] = self._queue.get_compressed()
        count, (lower, width) = self._queue.pos()
        # constriction sealed with lower + 2**32 - 1; if that overflowed 64 bits, its words hold the carry already
        prefix = int.from_bytes(words[:count].astype(">u4").tobytes(), "big")
        prefix -= (lower + (1 << _WORD_BITS) - 1) >> _STATE_BITS
        lowest: int = (prefix << _STATE_BITS) + lower
        total_bits = count * _WORD_BITS + _STATE_BITS
        for byte_count in range(max(0, total_bits - _STATE_BITS) // 8, total_bits // 8 + 1):
            shift = total_bits - 8 * byte_count
            head: int = -(-lowest >> shift)
            if head << shift < lowest + width:
                return head.to_bytes(byte_count, "big").rstrip(b"\0")
        raise AssertionError("a range of the coder always holds its own lower end")


class Decoder:
    """Reads back what ``Encoder`` coded, given the same tables in the same order."""

    __slots__ = ("_queue",)

    def __init__(self, payload: bytes) -> None:
        padded = payload + b"\0" * (-len(payload) % 4)
        self._queue = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))

    def pull(self, count: int, table: Table) -> Symbols:
        """Decode ``count`` symbols, (count,) int32; CorruptPayloadError if the bytes cannot be of this table.

        Wrong bytes usually decode to wrong symbols without a word: only a checksum over the symbols tells.
        """
        try:
            symbols: Symbols = self._queue.decode(table.model, count)
        except (AssertionError, ValueError) as error:
            raise CorruptPayloadError(f"the payload is no message of these tables: {error}") from None
        return symbols
