"""A batch of latents <-> one payload, at one operating point; many payloads -> latents.

A coded image is (anchor, level, indices). The payload codes the anchors of all images, then their levels anchor by
anchor, then the indices of the refined images table by table, then what was escaped: docs/wire-format.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentwire.codec import runs
from latentwire.codec.bulk import BulkDecoder, Coded, as_bytes
from latentwire.codec.choice import Choice, choose, log_posterior
from latentwire.codec.coder import Encoder, ideal_bits
from latentwire.codec.entropy_model import Tables, derive_tables
from latentwire.codec.index_coder import IndexCoder, grouped, narrow
from latentwire.codec.parameters import TAILS, CodecParameters, Point
from latentwire.codec.quantizer import dequantize, quantize
from latentwire.errors import CodecError, NonFiniteLatentError

MAX_ENTRIES = 1 << 14  # of one message, images x d: the coder in plain Python decodes them in some 40 ms at worst

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """One message's worth of images.

    ``image_bits`` (N,) float64 holds each image's ideal bits; ``indices`` (R, d) int32 those of the R refined
    images; ``saturated`` counts entries too far out for an int32 index.
    """

    payload: bytes
    crc32: int
    anchor: Ints
    level: Ints
    indices: Ints
    image_bits: NDArray[np.float64]
    saturated: int

    @property
    def images(self) -> int:
        """Images in the message."""
        return len(self.anchor)

    @property
    def ideal_bits(self) -> float:
        """-log2 of the model's probability of all symbols."""
        return float(self.image_bits.sum())

    @property
    def payload_bits(self) -> int:
        """What the coder made, byte padding in."""
        return 8 * len(self.payload)


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """``anchor`` (N,), ``level`` (N,), ``indices`` (R, d) as coded; ``latent`` (N, d) float32 as reconstructed."""

    anchor: Ints
    level: Ints
    indices: Ints
    latent: NDArray[np.float32]


class LatentCodec:
    """Encodes and decodes batches at one operating point. Immutable, so threads may share it."""

    def __init__(self, parameters: CodecParameters, point: Point) -> None:
        self.parameters = parameters
        self.point = point
        self.tables: Tables = derive_tables(parameters, point)
        self._anchor_bits = np.zeros(1) if self.tables.anchor is None else self.tables.anchor.ideal_bits
        self._level_bits = ideal_bits(np.stack([table.frequencies for table in self.tables.level]))
        self._indices = IndexCoder(self.tables)
        self._tail = TAILS[parameters.payload_format]
        self._bulk = BulkDecoder(self.tables, self._indices, self._tail)

    @property
    def most_images(self) -> int:
        """Images that a message may hold, by ``MAX_ENTRIES``; one always. More are decoded, but take their time."""
        d: int = self.anchors.shape[1]
        return max(1, MAX_ENTRIES // d)

    @property
    def anchors(self) -> NDArray[np.float32]:
        """(A, d): what an image at level 0 is reconstructed as."""
        return self.parameters.anchors

    def choose(self, latent: NDArray[np.float32], head_logits: NDArray[np.float32] | None = None) -> Choice:
        """Anchor and level of each image of one message, in order.

        ``latent`` is (N, d), ``head_logits`` (N, A) if the encoder has a head.
        """
        posterior = log_posterior(self.parameters, latent, head_logits)
        return choose(posterior, self._anchor_bits, self.point.doubt_threshold)

    def encode(self, latent: NDArray[np.float32], choice: Choice) -> EncodedBatch:
        """Code ``latent`` (N, d); NonFiniteLatentError if a row holds NaN or infinity."""
        if not np.isfinite(latent).all():
            rows = np.flatnonzero(~np.isfinite(latent).all(axis=1))
            raise NonFiniteLatentError(f"{len(rows)} latents hold NaN or infinity (first: row {rows[0]}); drop them")
        refined = np.flatnonzero(choice.level)
        anchor = choice.anchor[refined]
        indices, saturated = quantize(latent[refined], self.anchors[anchor], self.tables.step_size)
        bits = np.zeros(len(latent))
        coder = Encoder()
        self._push_anchors(coder, choice, bits)
        bits[refined] += self._indices.push(coder, anchor, indices)
        crc32 = self._bulk.checksum(as_bytes(choice.anchor), as_bytes(choice.level), as_bytes(indices))
        return EncodedBatch(coder.seal(self._tail), crc32, choice.anchor, choice.level, indices, bits, saturated)

    def decode(self, payload: bytes, images: int, crc32: int) -> DecodedBatch:
        """Decode a message of ``images`` images, exactly, or raise CorruptPayloadError or ChecksumError."""
        decoded, (error,) = self.decode_many([Coded(payload, images, crc32)])
        if error is not None:
            raise error
        return decoded

    def decode_many(self, messages: Sequence[Coded]) -> tuple[DecodedBatch, list[CodecError | None]]:
        """Decode one or more messages: all their images end to end, and what each message is refused with.

        An image of a refused message is at level 0 of some anchor, and stands for nothing.
        """
        symbols, errors = self._bulk.decode(messages)
        refined = np.flatnonzero(symbols.level)
        latent = self.anchors[symbols.anchor]
        latent[refined] = dequantize(symbols.position, latent[refined], self.tables.step_size)
        return DecodedBatch(symbols.anchor, symbols.level, symbols.indices, latent), errors

    def _push_anchors(self, coder: Encoder, choice: Choice, bits: NDArray[np.float64]) -> None:
        if self.tables.anchor is not None:
            anchor = choice.anchor
            if len(anchor) > 1:
                coder.push(np.array([choice.run], np.int32), runs.MODE_TABLE)
            if choice.run:
                same = runs.flags(anchor)
                coder.push(same, runs.FLAG_TABLES[choice.run - 1])
                anchor = anchor[np.append(True, same == 0)]
            coder.push(anchor, self.tables.anchor)
            bits += runs.anchor_cost(choice.anchor, choice.run, self._anchor_bits)
        order, groups = grouped(narrow(choice.anchor, len(self.anchors)))
        level = choice.level[order]
        for a, start, end in groups:
            coder.push(level[start:end], self.tables.level[a])
        bits += self._level_bits[choice.anchor, choice.level]
