"""Payloads of many messages -> symbols: numpy is called once for all of them, the range decoders in turn.

A message of one image has some ten symbols, and a numpy call costs as much as decoding as many: what is looked up,
grouped and checked is therefore looked up, grouped and checked for the images of all messages at once. Images lie end
to end, in the order of their messages.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentwire.codec import runs
from latentwire.codec.coder import Decoder, Symbols, Table
from latentwire.codec.entropy_model import Tables
from latentwire.codec.index_coder import IndexCoder, grouped, within
from latentwire.errors import ChecksumError, CodecError, CorruptPayloadError

MAX_LEVEL = 1
WORD_BYTES = 4  # more than any symbol takes: 24 bits, and what little the coder loses to rounding

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Coded:
    """A message as it came."""

    payload: bytes
    images: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Symbolised:
    """Of all messages' images: ``anchor`` and ``level`` (N,), ``indices`` (R, d) of the R refined ones, ``position``
    (R, d) float64 where in its bin each of these is reconstructed, in steps."""

    anchor: Ints
    level: Ints
    indices: Ints
    position: NDArray[np.float64]


class Readers:
    """The range decoders of the messages. One that is refused reads zeros from there on; ``errors`` says why."""

    def __init__(self, messages: Sequence[Coded], tail: bytes, most_bytes: int) -> None:
        """``most_bytes`` is what no image's share of a payload is longer than."""
        self.errors: list[CodecError | None] = [None] * len(messages)
        self._decoders: list[Decoder | _Zeros] = []
        for number, message in enumerate(messages):
            if len(message.payload) > most_bytes * message.images + 3 * WORD_BYTES:  # the mode, and what sealing adds
                said = f"{len(message.payload)} bytes are more than {message.images} images can need at these tables"
                self._decoders.append(_ZEROS)
                self.errors[number] = CorruptPayloadError(said)
            else:
                self._decoders.append(Decoder(message.payload, tail))

    def pull(self, message: int, count: int, table: Table) -> Symbols:
        """The next ``count`` symbols of that message, (count,) int32."""
        try:
            return self._decoders[message].pull(count, table)
        except CorruptPayloadError as error:
            self.refuse(message, error)
            return np.zeros(count, np.int32)

    def refuse(self, message: int, error: CodecError) -> None:
        """That message is none; what it was refused for first counts."""
        self._decoders[message] = _ZEROS
        self.errors[message] = self.errors[message] or error


class _Zeros:
    def pull(self, count: int, table: Table) -> Symbols:
        return np.zeros(count, np.int32)


_ZEROS = _Zeros()


class BulkDecoder:
    """Decodes messages of one operating point. Immutable, so threads may share it."""

    __slots__ = ("_indices", "_most_bytes", "_seed", "_tables", "_tail")

    def __init__(self, tables: Tables, indices: IndexCoder, tail: bytes) -> None:
        self._tables = tables
        self._indices = indices
        self._tail = tail
        self._seed = zlib.crc32(tables.digest)
        # all symbols that may be in one: a flag, an anchor, a level; an escape and two halves an entry
        self._most_bytes = WORD_BYTES * (3 + 3 * tables.table_of.shape[1])

    def decode(self, messages: Sequence[Coded]) -> tuple[Symbolised, list[CodecError | None]]:
        """The symbols of all messages, and what each is refused with; images of refused ones have level 0."""
        readers = Readers(messages, self._tail, self._most_bytes)
        message = np.repeat(np.arange(len(messages), dtype=np.int32), [one.images for one in messages])
        anchor = self._anchors(readers, messages)
        level = self._levels(readers, message, anchor)
        refined = np.flatnonzero(level)
        indices, position = self._indices.pull(readers.pull, len(messages), message[refined], anchor[refined])
        ends = np.cumsum(np.bincount(message[refined], minlength=len(messages))).tolist()
        self._check(readers, messages, ends, Symbolised(anchor, level, indices, position))
        refused = [number for number, error in enumerate(readers.errors) if error is not None]
        if refused and len(refined):
            sound = ~np.isin(message, refused)
            level[~sound] = 0
            kept = sound[refined]
            indices, position = indices[kept], position[kept]
        return Symbolised(anchor, level, indices, position), readers.errors

    def checksum(self, anchor: memoryview, level: memoryview, indices: memoryview) -> int:
        """CRC-32 over the tables' digest, then all symbols of a message as bytes: ``as_bytes``."""
        return zlib.crc32(indices, zlib.crc32(level, zlib.crc32(anchor, self._seed)))

    def _check(self, readers: Readers, messages: Sequence[Coded], refined: Sequence[int], all_: Symbolised) -> None:
        """Refuse messages whose checksum is another; ``refined`` is where each one's refined images end."""
        anchor, level, indices = as_bytes(all_.anchor), as_bytes(all_.level), as_bytes(all_.indices)
        row = 4 * all_.indices.shape[1]
        start = start_refined = 0
        for number, (message, end_refined) in enumerate(zip(messages, refined, strict=True)):
            end = start + 4 * message.images
            rows = indices[row * start_refined : row * end_refined]
            if self.checksum(anchor[start:end], level[start:end], rows) != message.crc32:
                said = "the payload decodes to other symbols than were coded; it was damaged on its way"
                readers.refuse(number, ChecksumError(said))
            start, start_refined = end, end_refined

    def _anchors(self, readers: Readers, messages: Sequence[Coded]) -> Ints:
        table = self._tables.anchor
        if table is None:
            return np.zeros(sum(message.images for message in messages), np.int32)
        return np.concatenate([self._anchors_of(readers, n, one.images, table) for n, one in enumerate(messages)])

    @staticmethod
    def _anchors_of(readers: Readers, message: int, images: int, table: Table) -> Ints:
        run = int(readers.pull(message, 1, runs.MODE_TABLE)[0]) if images > 1 else 0
        if not run:
            return readers.pull(message, images, table)
        place = np.append(0, np.cumsum(1 - readers.pull(message, images - 1, runs.FLAG_TABLES[run - 1])))
        anchor: Ints = readers.pull(message, int(place[-1]) + 1, table)[place]
        return anchor

    def _levels(self, readers: Readers, message: Ints, anchor: Ints) -> Ints:
        tables = self._tables.level
        order, groups = grouped(within(message, len(readers.errors), anchor, len(tables)))
        parts = []
        for key, start, end in groups:
            number, a = divmod(key, len(tables))
            parts.append(readers.pull(number, end - start, tables[a]))
        level = np.empty_like(anchor)
        level[order] = np.concatenate(parts)
        if level.max() > MAX_LEVEL:
            for number in np.unique(message[level > MAX_LEVEL]).tolist():
                readers.refuse(number, CorruptPayloadError(f"a level above {MAX_LEVEL} is not part of this format"))
                level[message == number] = 0
        return level


def as_bytes(symbols: Ints) -> memoryview:
    """Symbols as little-endian int32, one after the other."""
    return memoryview(symbols.astype("<i4", copy=False).tobytes())
