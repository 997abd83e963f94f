"""Indices of the refined images <-> symbols: one call of the coder a table, whatever the number of images."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from latentwire.codec.coder import TOTAL, Encoder, Symbols, Table, ideal_bits
from latentwire.codec.entropy_model import Tables

ESCAPE_BITS = 32
_HALF = 16
_HALF_TABLE = Table(np.full(1 << _HALF, TOTAL >> _HALF, np.int64))

Ints = NDArray[np.int32]
Reals = NDArray[np.float64]
Pull = Callable[[int, int, Table], Symbols]  # of that message, so many symbols, of that table


class IndexCoder:
    """The index tables of one operating point, laid end to end, so that numpy looks all symbols up at once.

    Of entry i at anchor a: index - ``_base[a, i]`` is its symbol, ``_start[a, i]`` where its table begins.
    """

    __slots__ = ("_base", "_bits", "_escape", "_index", "_means", "_shift", "_start", "_table_of")

    def __init__(self, tables: Tables) -> None:
        of = tables.table_of
        symbols = np.array([len(table.frequencies) for table in tables.index])
        self._index = tables.index
        self._table_of = narrow(of, len(tables.index))
        self._shift = tables.shift.astype(np.float64)
        self._base = tables.shift + np.array([table.first for table in tables.index], np.int32)[of]
        self._start = (np.cumsum(symbols) - symbols)[of]
        self._escape = (symbols - 1).astype(np.uint64)[of]
        self._bits = ideal_bits(np.concatenate([table.frequencies for table in tables.index]))
        # an escape has no mean: NaN marks it
        self._means = np.concatenate([part for table in tables.index for part in (table.means, [np.nan])])

    def push(self, coder: Encoder, anchor: Ints, indices: Ints) -> Reals:
        """Code ``indices`` (R, d) of images at ``anchor`` (R,); the ideal bits (R,) of each image."""
        if not len(anchor):
            return np.zeros(0)
        # int64: an index at the far end of int32, less its base, must not wrap
        rows = self._rows(anchor)
        symbol = np.subtract(indices, self._base[rows], dtype=np.int64)
        escape = self._escape[rows]
        escaped = symbol.view(np.uint64) >= escape  # a negative number is a huge one without its sign
        some_escaped = bool(escaped.any())
        if some_escaped:
            symbol = np.where(escaped, escape.view(np.int64), symbol)
        bits = self._bits[self._start[rows] + symbol]
        order, groups = grouped(np.broadcast_to(self._table_of[rows], symbol.shape).ravel())
        in_order = symbol.astype(np.int32).ravel()[order]
        for table, start, end in groups:
            coder.push(in_order[start:end], self._index[table])
        if some_escaped:
            halves = indices[escaped].view(np.uint32)
            halves = np.stack([halves >> _HALF, halves & 0xFFFF], axis=1).ravel()
            coder.push(halves.astype(np.int32), _HALF_TABLE)
            bits[escaped] += ESCAPE_BITS
        image_bits: Reals = bits.sum(axis=1)
        return image_bits

    def pull(self, pull: Pull, messages: int, message: Ints, anchor: Ints) -> tuple[Ints, Reals]:
        """Indices (R, d), and where in its bin each is reconstructed, in steps, of images at ``anchor`` (R,).

        They are of ``message`` (R,), rising, of so many ``messages``; ``pull`` has the symbols of each.
        """
        shape = (len(anchor), self._base.shape[1])
        if not len(anchor):
            return np.zeros(shape, np.int32), np.zeros(shape)
        rows = self._rows(anchor)
        tables = len(self._index)
        table_of = np.broadcast_to(self._table_of[rows], shape)
        order, groups = grouped(within(message[:, None], messages, table_of, tables).ravel())
        parts = []
        for key, start, end in groups:
            number, table = divmod(key, tables)
            parts.append(pull(number, end - start, self._index[table]))
        symbol = np.empty(len(order), np.int32)
        symbol[order] = np.concatenate(parts)
        symbol = symbol.reshape(shape)
        indices = symbol + self._base[rows]
        position = self._means[self._start[rows] + symbol]
        escaped = np.isnan(position)
        position += self._shift[rows]
        if escaped.any():
            counts = np.bincount(message[np.nonzero(escaped)[0]], minlength=messages)
            halves = [pull(number, 2 * int(counts[number]), _HALF_TABLE) for number in np.flatnonzero(counts).tolist()]
            half = np.concatenate(halves).reshape(-1, 2).astype(np.uint32)
            indices[escaped] = (half[:, 0] << _HALF | half[:, 1]).view(np.int32)
            position[escaped] = indices[escaped]
        return indices, position

    def _rows(self, anchor: Ints) -> Ints | slice:
        """What picks each image's row of a layout; where there is one anchor, its only row goes for all."""
        return anchor if len(self._base) > 1 else slice(None)


def grouped(key: NDArray[np.integer]) -> tuple[NDArray[np.intp], list[tuple[int, int, int]]]:
    """The order (n,) that sorts ``key`` (n,) and keeps ties as they are; each value, where it begins, and ends."""
    if not len(key):
        return np.zeros(0, np.intp), []
    order = key.argsort(kind="stable")
    in_order = key[order]
    starts = [0, *(np.flatnonzero(in_order[1:] != in_order[:-1]) + 1).tolist()]
    return order, list(zip(in_order[starts].tolist(), starts, [*starts[1:], len(key)], strict=True))


def narrow(key: NDArray[np.integer], values: int) -> NDArray[np.integer]:
    """``key``, of 0 to ``values`` - 1, in as few bits as hold it: numpy sorts 16 or fewer by counting."""
    narrowed: NDArray[np.integer] = key.astype(np.min_scalar_type(values - 1))
    return narrowed


def within(message: NDArray[np.integer], messages: int, key: NDArray[np.integer], values: int) -> NDArray[np.integer]:
    """message x ``values`` + ``key``: a key that groups each message's images by theirs, of 0 to ``values`` - 1."""
    return narrow(key if messages == 1 else message * np.int64(values) + key, messages * values)
