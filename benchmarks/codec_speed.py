"""The codec's speed beside what it stands between: the encoder before it, the bare coder inside it."""

from collections.abc import Callable, Sequence
from typing import Any

import constriction  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import Spread, take_turns
from edge_sensor.encoder import OnnxEncoder
from latentwire.bundle import Bundle
from latentwire.codec import coder as range_coder
from latentwire.codec.coder import Symbols, Table
from latentwire.codec.latent_codec import EncodedBatch, LatentCodec
from latentwire.report import Value
from training.evaluation import Encoded

SIZES = (1, 16, 64)
TIMED_IMAGES = 256  # in each round, of the test set
ROUNDS = 15
BULK_IMAGES = 10_000

Named = Sequence[tuple[str, float, LatentCodec]]
Row = dict[str, Value]


def sensor_time(bundle: Bundle, images: NDArray[np.uint8], encoded: Encoded, codecs: Named) -> list[Row]:
    """Choosing and encoding, with either coder, as a ratio to the encoder's own time in ONNX Runtime with one thread.

    The encoder runs on one message's images at a time, as on a sensor.
    """
    spec, d = bundle.manifest.input, bundle.manifest.variant().d
    encoder = OnnxEncoder(bundle.encoder_path(), spec, d, threads=1, batch_images=max(SIZES))
    rows: list[Row] = []
    for size in SIZES:
        parts = [slice(i, i + size) for i in range(0, min(TIMED_IMAGES, len(images)) // size * size, size)]

        def encode_images(parts: list[slice] = parts) -> None:
            for part in parts:
                encoder.encode(images[part])

        tasks: dict[str, Callable[[], object]] = {"encoder": encode_images}
        for model, scale, codec in codecs:
            for coder in range_coder.BACKENDS:
                tasks[f"{model} {scale} {coder}"] = _code(codec, encoded, parts, coder)
        seconds = take_turns(tasks, ROUNDS)
        count = size * len(parts)
        for task, taken in list(seconds.items())[1:]:
            model, scale_text, coder = task.split()
            row: Row = {"part": "sensor time", "model": model, "rate_scale": float(scale_text), "coder": coder}
            row |= {"images_per_message": size, "images": count, "codec_ms": 1e3 * float(np.median(taken)) / count}
            row |= {"encoder_ms": 1e3 * float(np.median(seconds["encoder"])) / count}
            rows.append(row | _ratio(taken / seconds["encoder"], "the encoder in ONNX Runtime, 1 thread"))
    return rows


def portable_coder(encoded: Encoded, codecs: Named) -> list[Row]:
    """The coder in plain Python on the test set's symbols, in messages of 64: microseconds a symbol.

    Grouping, looking up and choosing are in it, as a sensor does them.
    """
    rows: list[Row] = []
    parts = [slice(i, i + 64) for i in range(0, min(TIMED_IMAGES, len(encoded.latent)) // 64 * 64, 64)]
    for model, scale, codec in codecs:
        head = encoded.head_logits
        messages = []
        for part in parts:
            latent = encoded.latent[part]
            messages.append(codec.encode(latent, codec.choose(latent, None if head is None else head[part])))

        def decode(codec: LatentCodec = codec, messages: list[EncodedBatch] = messages) -> None:
            range_coder.use("portable")
            for message in messages:
                codec.decode(message.payload, message.images, message.crc32)
            range_coder.use("constriction")

        seconds = take_turns({"encode": _code(codec, encoded, parts, "portable"), "decode": decode}, ROUNDS)
        symbols = sum(len(s) for message in messages for s, _ in _groups(codec, message))
        row: Row = {"part": "portable coder", "model": model, "rate_scale": scale, "coder": "portable"}
        row |= {"images_per_message": 64, "images": 64 * len(parts), "symbols": symbols}
        for name, taken in seconds.items():
            row[f"{name}_us_per_symbol"] = 1e6 * float(np.median(taken)) / symbols
        rows.append(row)
    return rows


def bulk_decoding(encoded: Encoded, codecs: Named) -> list[Row]:
    """The speed of decoding 10,000 images (the test set, going round) as one message, as a ratio to constriction
    called bare: on the same symbols, with the same tables in the same order, and nothing done with what comes out.
    """
    rows: list[Row] = []
    round_and_round = np.arange(BULK_IMAGES) % len(encoded.latent)
    latent = encoded.latent[round_and_round]
    head = None if encoded.head_logits is None else encoded.head_logits[round_and_round]
    for model, scale, codec in codecs:
        message = codec.encode(latent, codec.choose(latent, head))
        groups = _groups(codec, message)
        queue = constriction.stream.queue.RangeEncoder()
        for symbols, table in groups:
            queue.encode(symbols, table.model)
        words = queue.get_compressed()
        pulls = [(len(symbols), table.model) for symbols, table in groups]

        def bare(words: NDArray[np.uint32] = words, pulls: list[tuple[int, Any]] = pulls) -> list[Symbols]:
            queue = constriction.stream.queue.RangeDecoder(words)
            return [queue.decode(model, count) for count, model in pulls]

        assert all(np.array_equal(a, b) for a, (b, _) in zip(bare(), groups, strict=True))

        def ours(codec: LatentCodec = codec, message: EncodedBatch = message) -> None:
            codec.decode(message.payload, message.images, message.crc32)

        seconds = take_turns({"bare": bare, "ours": ours}, ROUNDS)
        row: Row = {"part": "bulk decoding", "model": model, "rate_scale": scale, "images": message.images}
        row |= {"images_per_message": message.images, "symbols": sum(count for count, _ in pulls)}
        row |= {"images_per_s": message.images / float(np.median(seconds["ours"]))}
        rows.append(row | _ratio(seconds["bare"] / seconds["ours"], "constriction bare"))
    return rows


def _code(codec: LatentCodec, encoded: Encoded, parts: Sequence[slice], coder: str) -> Callable[[], None]:
    head = encoded.head_logits

    def code() -> None:
        range_coder.use(coder)
        for part in parts:
            latent = encoded.latent[part]
            codec.encode(latent, codec.choose(latent, None if head is None else head[part]))
        range_coder.use("constriction")

    return code


def _ratio(ratio: NDArray[np.float64], against: str) -> Row:
    spread = Spread.of(ratio)
    return {"ratio": spread.median, "ratio_low": spread.low, "ratio_high": spread.high, "against": against}


def _groups(codec: LatentCodec, message: EncodedBatch) -> list[tuple[Symbols, Table]]:
    """All symbols of a message, by table: anchors, levels, indices (an escaped one as its escape alone)."""
    tables = codec.tables
    groups: list[tuple[Symbols, Table]] = [] if tables.anchor is None else [(message.anchor, tables.anchor)]
    groups += [(message.level[message.anchor == a], table) for a, table in enumerate(tables.level)]
    anchor = message.anchor[message.level > 0]
    index, table_of = message.indices - tables.shift[anchor], tables.table_of[anchor]
    for t, table in enumerate(tables.index):
        symbol = index[table_of == t] - table.first
        escape = len(table.means)
        groups.append((np.where((symbol < 0) | (symbol > escape), escape, symbol).astype(np.int32), table))
    return [(symbols, table) for symbols, table in groups if len(symbols)]
