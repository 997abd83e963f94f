"""The same symbols through other coders: CompressAI's rANS with the same tables, and zlib, which learns as it goes.

CompressAI wants an older numpy than ours, so it is not among the requirements; its coder alone needs nothing:

    pip install --no-deps --target DIR compressai
    latentwire bench codec --compressai DIR
"""

import importlib.util
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentwire.codec.coder import TOTAL
from latentwire.codec.latent_codec import EncodedBatch, LatentCodec
from latentwire.errors import LatentwireError
from latentwire.report import Value

RANS_TOTAL = 1 << 16  # CompressAI's precision


def load_rans(folder: Path) -> Any:
    """CompressAI's ``ans`` extension from where pip put it, without the rest of the package; LatentwireError if it is
    not there."""
    found = sorted(folder.glob("compressai/ans.*.so"))
    if not found:
        raise LatentwireError(f"no compressai under {folder}: pip install --no-deps --target {folder} compressai")
    spec = importlib.util.spec_from_file_location("compressai.ans", found[0])
    assert spec is not None and spec.loader is not None  # it is an extension
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Rans:
    """CompressAI's coder with the tables of an operating point, in 16 bits instead of 24."""

    name = "CompressAI rANS"

    def __init__(self, ans: Any, codec: LatentCodec) -> None:
        tables = codec.tables
        frequencies = [] if tables.anchor is None else [tables.anchor.frequencies]
        frequencies += [table.frequencies for table in tables.level]
        # an anchor or level needs no escape, but CompressAI's tables end in one
        frequencies = [np.append(f, 0) for f in frequencies] + [table.frequencies for table in tables.index]
        self._cdfs = [_in_16_bits(f) for f in frequencies]
        self._sizes = [len(cdf) for cdf in self._cdfs]
        self._first_level = int(tables.anchor is not None)
        self._first_index = self._first_level + len(tables.level)
        self._ans, self._codec = ans, codec

    def encode(self, message: EncodedBatch) -> bytes:
        """The message's anchors, levels and indices; checked to decode."""
        tables = self._codec.tables
        anchor = message.anchor[message.level > 0]
        table_of = tables.table_of[anchor]
        first = np.array([table.first for table in tables.index])
        symbol = message.indices.astype(np.int64) - tables.shift[anchor] - first[table_of]
        index_table = table_of.ravel() + self._first_index
        symbols: list[NDArray[Any]] = [message.level, symbol.ravel()]
        which: list[NDArray[Any]] = [message.anchor + self._first_level, index_table]
        if tables.anchor is not None:
            symbols, which = [message.anchor, *symbols], [np.zeros_like(message.anchor), *which]
        values, indexes = np.concatenate(symbols).tolist(), np.concatenate(which).tolist()
        offsets = [0] * len(self._cdfs)
        coded: bytes = self._ans.RansEncoder().encode_with_indexes(values, indexes, self._cdfs, self._sizes, offsets)
        decoded = self._ans.RansDecoder().decode_with_indexes(coded, indexes, self._cdfs, self._sizes, offsets)
        assert decoded == values
        return coded


class Deflate:
    """zlib's deflate, without its header: anchors, levels, then indices, entry by entry, in bytes where they fit."""

    name = "zlib"

    def encode(self, message: EncodedBatch) -> bytes:
        """The message's anchors, levels and indices."""
        indices = message.indices.T
        reach = int(np.abs(indices.astype(np.int64)).max(initial=0))
        kind = "i1" if reach < 128 else "<i2" if reach < 1 << 15 else "<i4"
        content = b"" if message.anchor.max(initial=0) == 0 else message.anchor.astype("u1").tobytes()
        content += b"" if (message.level == 1).all() else message.level.astype("u1").tobytes()
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
        return squeeze.compress(content + indices.astype(kind).tobytes()) + squeeze.flush()


def through_other_coders(codec: LatentCodec, messages: list[EncodedBatch], ans: Any | None) -> list[dict[str, Value]]:
    """Bits an image of ``messages`` by each coder, and as a ratio to ours, None where ours takes none."""
    coders: list[Rans | Deflate] = [Deflate()] if ans is None else [Rans(ans, codec), Deflate()]
    images = sum(message.images for message in messages)
    ours = sum(message.payload_bits for message in messages) / images
    ideal = sum(message.ideal_bits for message in messages) / images
    rows: list[dict[str, Value]] = [{"coder": "ours", "payload_bits": ours, "ratio": 1.0}]
    for coder in coders:
        bits = sum(8 * len(coder.encode(message)) for message in messages) / images
        rows.append({"coder": coder.name, "payload_bits": bits, "ratio": bits / ours if ours else None})
    return [{"images": images, "ideal_bits": ideal} | row | {"against": "ours"} for row in rows]


def _in_16_bits(frequencies: NDArray[np.int64]) -> list[int]:
    """A cumulative table of 2**16 from frequencies that sum to 2**24, each at least 1."""
    cumulative = np.concatenate([[0], np.cumsum(frequencies)])
    free = RANS_TOTAL - len(frequencies)
    table: list[int] = (cumulative * free // TOTAL + np.arange(len(cumulative))).tolist()
    return table
