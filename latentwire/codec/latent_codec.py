"""A batch of latents <-> one payload, at one operating point.

A coded image is (anchor, level, indices). The payload codes the anchors of all images, then their levels anchor by
anchor, then the indices of the refined images table by table, then what was escaped: docs/wire-format.md.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentwire.codec import runs
from latentwire.codec.choice import Choice, choose, log_posterior
from latentwire.codec.coder import Decoder, Encoder, ideal_bits
from latentwire.codec.entropy_model import Tables, derive_tables
from latentwire.codec.index_coder import IndexCoder, grouped, narrow
from latentwire.codec.parameters import TAILS, CodecParameters, Point
from latentwire.codec.quantizer import dequantize, quantize
from latentwire.errors import ChecksumError, CorruptPayloadError, NonFiniteLatentError

MAX_LEVEL = 1
MAX_ENTRIES = 1 << 14  # of one message, images x d: the coder in plain Python decodes them in some 40 ms at worst
WORD_BYTES = 4  # more than any symbol takes: 24 bits, and what little the coder loses to rounding

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
        self._seed = zlib.crc32(self.tables.digest)
        self._tail = TAILS[parameters.payload_format]

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
        crc32 = self._checksum(choice.anchor, choice.level, indices)
        return EncodedBatch(coder.seal(self._tail), crc32, choice.anchor, choice.level, indices, bits, saturated)

    def decode(self, payload: bytes, images: int, crc32: int) -> DecodedBatch:
        """Decode a message of ``images`` images, exactly, or raise CorruptPayloadError or ChecksumError."""
        if len(payload) > self._most_bytes(images):
            raise CorruptPayloadError(f"{len(payload)} bytes are more than {images} images can need at these tables")
        coder = Decoder(payload, self._tail)
        anchor, level = self._pull_anchors(coder, images)
        if level.max(initial=0) > MAX_LEVEL:
            raise CorruptPayloadError(f"a level above {MAX_LEVEL} is not part of this format")
        refined = np.flatnonzero(level)
        indices, position = self._indices.pull(coder, anchor[refined])
        if self._checksum(anchor, level, indices) != crc32:
            raise ChecksumError("the payload decodes to other symbols than were coded; it was damaged on its way")
        latent = self.anchors[anchor]
        latent[refined] = dequantize(position, latent[refined], self.tables.step_size)
        return DecodedBatch(anchor, level, indices, latent)

    def _most_bytes(self, images: int) -> int:
        """What no payload of so many images is longer than: all symbols that may be in one, each of a word's bytes."""
        each: int = 3 + 3 * self.anchors.shape[1]  # a flag, an anchor, a level; an escape and two halves an entry
        return WORD_BYTES * (1 + images * each + 2)  # the mode, and what sealing may add

    def _checksum(self, anchor: Ints, level: Ints, indices: Ints) -> int:
        """CRC-32 over the tables' digest, then all symbols as little-endian int32."""
        crc = self._seed
        for part in (anchor, level, indices):
            crc = zlib.crc32(part.astype("<i4", copy=False).data, crc)
        return crc

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

    def _pull_anchors(self, coder: Decoder, images: int) -> tuple[Ints, Ints]:
        anchor = np.zeros(images, np.int32)
        if self.tables.anchor is not None:
            run = int(coder.pull(1, runs.MODE_TABLE)[0]) if images > 1 else 0
            if run:
                place = np.append(0, np.cumsum(1 - coder.pull(images - 1, runs.FLAG_TABLES[run - 1])))
                anchor = coder.pull(int(place[-1]) + 1, self.tables.anchor)[place]
            else:
                anchor = coder.pull(images, self.tables.anchor)
        level = np.zeros(images, np.int32)
        order, groups = grouped(narrow(anchor, len(self.anchors)))
        for a, start, end in groups:
            level[order[start:end]] = coder.pull(end - start, self.tables.level[a])
        return anchor, level
