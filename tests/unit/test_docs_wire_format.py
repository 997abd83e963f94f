"""docs/wire-format.md, read as a stranger would: an implementation of its text alone, and its worked example."""

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from latentwire.codec import coder
from latentwire.codec.choice import Choice
from latentwire.codec.coder import Table
from latentwire.codec.parameters import CodecParameters, Frontier
from latentwire.codec.portable import RangeEncoder
from latentwire.operating_point import OperatingPoint

PAGE = Path(__file__).parents[2] / "docs" / "wire-format.md"
TOTAL = 1 << 24

# the example's parameters, and what stands in it as given
SHAPE = [0, 1 << 28, 8 << 28, 15 << 28, 1 << 32]
STEP, RATIO = 8.0, 8.0
LATENTS = [1.0, 9.0, -80.0]
LEVELS = [1, TOTAL - 3, 1, 1]
HALF = [TOTAL >> 16] * (1 << 16)
ENDS = (["digest"], ["payload"], ["crc32"])


TAILS = {1: 0, 2: 0x81}


def test_the_worked_example_is_what_its_text_gives() -> None:
    text = PAGE.read_text()
    assert "\n".join(example(2)) in text
    words = " ".join(text.split())
    digest, payload, crc = (line.split()[-1] for line in example(1) if line.split()[:1] in ENDS)
    assert f"In format 1 the digest is `{digest}`, the payload `{payload}`, the CRC-32 `{crc}`" in words


@pytest.mark.parametrize("payload_format", TAILS)
def test_the_code_does_what_the_example_says(payload_format: int) -> None:
    parameters = CodecParameters(
        anchors=np.zeros((1, 1), np.float32),
        anchor_counts=np.array([1]),
        weights=np.ones(1),
        location=np.zeros((2, 1, 1)),
        spread=np.ones((2, 1, 1)),
        shapes=np.array([SHAPE]),
        shape_of=np.array([0]),
        ratios_per_octave=0,
        choice_spread=np.ones((1, 1)),
        named_by_head=False,
        frontier=Frontier(
            rate_scale=np.array([1.0, 2.0]),
            step_scale=np.array([0.125, 0.25]),
            share=np.ones(2),
            refine_share=np.ones((2, 1)),
            doubt_threshold=np.zeros(2),
            bits=np.array([1.0, 2.0]),
        ),
        payload_format=payload_format,
    )
    codec = OperatingPoint.derive(parameters, "full", "example", 1.0).codec
    latent = np.float32(LATENTS)[:, None]
    coded = codec.encode(latent, Choice(np.zeros(3, np.int32), np.ones(3, np.int32)))
    text = "\n".join(example(payload_format))
    assert f"digest       {codec.tables.digest.hex()}" in text
    assert f"index table  first {codec.tables.index[0].first}: {codec.tables.index[0].frequencies.tolist()}" in text
    assert f"crc32        {coded.crc32:08x}" in text
    assert f"payload      {coded.payload.hex()}" in text
    assert codec.decode(coded.payload, 3, coded.crc32).indices.ravel().tolist() == [0, 1, -10]


def example(payload_format: int) -> list[str]:
    """The example's block of lines, worked out as the page says and by nothing of ours."""
    first, index_table = derive()
    indices = [round(latent / STEP) for latent in LATENTS]
    runs = [("level", LEVELS, [1, 1, 1])]
    symbols = [q - first if q - first in range(len(index_table) - 1) else len(index_table) - 1 for q in indices]
    runs += [("index", index_table, symbols)]
    escaped = indices[2] & 0xFFFFFFFF
    runs += [("half", HALF, [escaped >> 16, escaped & 0xFFFF])]
    digest = digest_of(payload_format, first, index_table)
    crc = zlib.crc32(digest + struct.pack("<9i", *[0] * 3, *[1] * 3, *indices))
    lines = [f"index table  first {first}: {index_table}", f"level table  {LEVELS}", f"digest       {digest.hex()}"]
    lines += [f"indices      {indices}, the last escaped", ""]
    trace, payload = encode(runs, TAILS[payload_format])
    lines += [*trace, "", f"payload      {payload.hex()}", f"crc32        {crc:08x}"]
    return ["    " + line if line else "" for line in lines]


def derive() -> tuple[int, list[int]]:
    """``first`` and the frequencies of the one index table; fraction is 0."""
    bins = min(int(8 / RATIO + 0.5) + 1, 4095)
    cells, symbols = len(SHAPE) - 1, 2 * bins + 2
    counts = []
    for k in range(-bins, bins + 2):
        place = min(max(((k - 0.5) * RATIO + 8) * (cells / 16), 0), cells)
        cell = min(int(place), cells - 1)
        counts.append(SHAPE[cell] + int((SHAPE[cell + 1] - SHAPE[cell]) * (place - cell)))
    starts = [((count - counts[0]) * (TOTAL - symbols) >> 32) + m for m, count in enumerate(counts)]
    return -bins, [end - start for start, end in zip(starts, [*starts[1:], TOTAL], strict=True)]


def digest_of(payload_format: int, first: int, index_table: list[int]) -> bytes:
    content = b"latentwire tables %d" % payload_format
    for table in (LEVELS, index_table):
        content += struct.pack(f"<{1 + len(table)}q", len(table), *table)
    content += struct.pack("<q", first) + struct.pack("<q", 0) + struct.pack("<i", 0) + struct.pack("<d", STEP)
    return hashlib.sha256(content).digest()[:8]


def encode(runs: list[tuple[str, list[int], list[int]]], tail: int) -> tuple[list[str], bytes]:
    """The state after each symbol, and the payload; ``low`` is one whole number, as the page defines it."""
    low, width, words = 0, 2**64 - 1, 0
    trace = []
    for name, table, symbols in runs:
        for symbol in symbols:
            scale = width >> 24
            low += scale * sum(table[:symbol])
            width = scale * table[symbol]
            if width < 2**32:
                low, width, words = low << 32, width << 32, words + 1
            trace.append(f"{name} {symbol:<7} low {shown(low, words)}  width {width:016x}")
    for count in range(8 + 4 * words):
        unit = 256 ** (8 + 4 * words - count)
        rest = unit // 256 * tail
        number = -((rest - low) // unit) * unit + rest
        if number < low + width:
            return trace, (number // unit).to_bytes(count, "big")
    raise AssertionError("unreachable: the interval is a word wide")


def shown(low: int, words: int) -> str:
    digits = f"{low:0{16 + 8 * words}x}"
    return f"{digits[:-16]} {digits[-16:]}".strip()


@pytest.mark.parametrize("tail", TAILS.values())
@pytest.mark.parametrize("seed", range(20))
def test_the_coder_of_the_page_makes_the_coders_bytes(seed: int, tail: int) -> None:
    random = np.random.default_rng(seed)
    runs, ours = [], RangeEncoder()
    theirs = coder.Encoder()
    for _ in range(8):
        frequencies = random.multinomial(TOTAL - 9, random.dirichlet([0.1] * 9)) + 1
        symbols = random.integers(0, 9, random.integers(1, 30)).astype(np.int32)
        table = Table(frequencies.astype(np.int64))
        runs.append(("any", frequencies.tolist(), symbols.tolist()))
        ours.push(symbols, table.bounds)
        theirs.push(symbols, table)
    after = bytes([tail]) if tail else b""
    assert encode(runs, tail)[1] == ours.seal(after) == theirs.seal(after)
