"""An entropy model's file from a hostile hand: refused by name, quickly, and before it can fill the memory."""

import io
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from codec_models import make_parameters

from latentwire.codec.entropy_model import derive_tables
from latentwire.codec.parameters import MAX_CELLS, MAX_MAGNITUDE, SHAPE_TOTAL_BITS, CodecParameters, Point
from latentwire.errors import BundleCorruptError
from latentwire.model_file import MAX_MEMBERS, MAX_MODEL_BYTES, parameters_from_bytes, parameters_to_bytes
from latentwire.operating_point import OperatingPoint

GOOD = make_parameters(3, 4)
CONTENT = parameters_to_bytes(GOOD)
MAX_MB = 64


def members() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(CONTENT)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def packed(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_header(name: str, old: bytes, new: bytes) -> bytes:
    raw = members()[name]
    assert raw.count(old) == 1
    return packed(members() | {name: raw.replace(old, new)})


def bomb() -> bytes:
    """A member of 272 MB of zeros that says it has 128 bytes."""
    name = "weights.npy"
    much = (1 << 28) + 0x01020304
    content = packed(members() | {name: bytes(much)})
    size = much.to_bytes(4, "little")
    assert content.count(size) == 2  # before the member, and in the directory
    return content.replace(size, (128).to_bytes(4, "little"))


def encrypted() -> bytes:
    at = CONTENT.index(b"PK\x01\x02")
    return CONTENT[: at + 8] + b"\x01" + CONTENT[at + 9 :]


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bomb": (lambda: packed(members() | {"weights.npy": bytes(MAX_MODEL_BYTES)}), "unpacks to more than"),
    "a bomb that lies": (bomb, "dtype|CRC"),
    "a shape without end": (lambda: with_header("weights.npy", b"(4,)", b"(999999999, 999999999)"), "reshape"),
    "a shape of many digits": (lambda: with_header("weights.npy", b"(4,)", b"(4444444444444444,)"), "as numpy writes"),
    "objects": (lambda: with_header("weights.npy", b"<f8", b"|O8"), "dtype <f8"),
    "bytes for numbers": (lambda: with_header("weights.npy", b"<f8", b"<f4"), "dtype <f8"),
    "the other order": (lambda: with_header("anchors.npy", b"False", b"True "), "in C order"),
    "lzma": (lambda: packed(members(), zipfile.ZIP_LZMA), "neither by deflate"),
    "encrypted": (encrypted, "encrypted"),
    "many members": (lambda: packed({f"{i}": b"" for i in range(MAX_MEMBERS + 1)}), f"{MAX_MEMBERS} members"),
    "a large file": (lambda: CONTENT + bytes(MAX_MODEL_BYTES), "bytes or"),
    "a member less": (lambda: packed({n: c for n, c in members().items() if n != "spread.npy"}), "no array 'spread'"),
    "two numbers for one": (
        lambda: packed(members() | {"named_by_head.npy": members()["anchor_counts.npy"]}), "no entropy model",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "says"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files(make: Callable[[], bytes], says: str) -> None:
    content = make()
    tracemalloc.start()
    try:
        with pytest.raises(BundleCorruptError, match=says):
            parameters_from_bytes(content)
        assert tracemalloc.get_traced_memory()[1] < MAX_MB << 20
    finally:
        tracemalloc.stop()


def with_frontier(**changes: Any) -> CodecParameters:
    return replace(GOOD, frontier=replace(GOOD.frontier, **changes))


def wrapped_shape() -> np.ndarray:
    """Rises that pass 2**63, come back round, and end at 2**32."""
    shape = GOOD.shapes.copy()
    shape[0, 500] = -(2**62)
    return shape


NO_TABLES: dict[str, tuple[CodecParameters, str]] = {
    "knots of two axes": (with_frontier(rate_scale=GOOD.frontier.rate_scale[:, None]), "rate_scale"),
    "one knot for all": (with_frontier(rate_scale=np.array(1.0)), "rate_scale"),
    "a knot that is no number": (with_frontier(rate_scale=np.array([0.1, np.nan, 2.0, 8.0])), "rate_scale"),
    "a huge step": (with_frontier(step_scale=np.array([1e-308, 0.5, 2.0, 8.0])), "step scales"),
    "a tiny step": (with_frontier(step_scale=np.array([0.5, 0.5, 2.0, 1e308])), "step_scale"),
    "an infinite anchor": (replace(GOOD, anchors=GOOD.anchors * np.float32(np.inf)), "anchors"),
    "a spread of nearly nothing": (replace(GOOD, spread=GOOD.spread * 1e-300), "spread must be positive"),
    "a location far out": (replace(GOOD, location=GOOD.location + 2 * MAX_MAGNITUDE), "location"),
    "a shape that wraps": (replace(GOOD, shapes=wrapped_shape()), "shape must rise"),
    "no shapes": (replace(GOOD, shapes=GOOD.shapes[:0]), "1 to 8192 cells"),
    "shapes of no cells": (replace(GOOD, shapes=GOOD.shapes[:, :1]), "1 to 8192 cells"),
    "counts that overflow": (
        replace(make_parameters(65536, 1), anchor_counts=np.full(65536, 1 << 24)), "counts too large",
    ),
    "a fine grid": (replace(GOOD, ratios_per_octave=65), "ratios_per_octave"),
}  # fmt: skip


@pytest.mark.parametrize(("parameters", "says"), NO_TABLES.values(), ids=NO_TABLES)
def test_numbers_that_make_no_tables(parameters: CodecParameters, says: str) -> None:
    with pytest.raises(BundleCorruptError, match=re.escape(says)):
        parameters.check()


def test_the_largest_and_smallest_numbers_make_tables() -> None:
    large, small = MAX_MAGNITUDE, 1 / MAX_MAGNITUDE
    for weight, spread, location in ((large, small, large), (small, large, -large), (large, large, small)):
        parameters = replace(
            GOOD,
            weights=np.full(4, weight),
            spread=np.full((2, 3, 4), spread),
            location=np.full((2, 3, 4), location),
            choice_spread=np.full((3, 4), spread),
        )
        parameters.check()
        codec = OperatingPoint.derive(parameters, "full", "test", 1.0).codec
        latent = np.float32([[3e38, -3e38, 0, 1]] * 2)
        coded = codec.encode(latent, codec.choose(latent))
        decoded = codec.decode(coded.payload, 2, coded.crc32)
        assert np.array_equal(decoded.indices, coded.indices)
        assert np.isfinite(decoded.latent).all()


@pytest.mark.parametrize(("anchors", "spread"), [(400, 1.0), (40, 1e6)])
def test_too_many_tables_are_refused_before_they_are_made(anchors: int, spread: float) -> None:
    parameters = make_parameters(anchors, 64, ratios_per_octave=0)
    parameters = replace(parameters, spread=parameters.spread * spread)
    parameters.check()
    with pytest.raises(BundleCorruptError, match="more than 16384 tables or 1048576 symbols"):
        OperatingPoint.derive(parameters, "full", "test", 8.0)


@pytest.mark.parametrize("shapes", [1, 250])
def test_the_most_tables_are_made_in_little_memory(shapes: int) -> None:
    d = 127
    cumulative = np.arange(MAX_CELLS + 1) << (SHAPE_TOTAL_BITS - 13)
    parameters = replace(
        make_parameters(1, d, ratios_per_octave=0),
        shapes=np.stack([cumulative] * shapes),
        shape_of=np.arange(d) * shapes // d,
        weights=np.ones(d),
        spread=np.ones((2, 1, d)) + 1e-6 * np.arange(d),
    )
    parameters.check()
    tracemalloc.start()
    try:
        tables = derive_tables(parameters, Point(1000.0, 1.0, np.ones(1), 0.0))
        assert tracemalloc.get_traced_memory()[1] < MAX_MB << 20
    finally:
        tracemalloc.stop()
    assert sum(len(table.frequencies) for table in tables.index) == d * 8192
