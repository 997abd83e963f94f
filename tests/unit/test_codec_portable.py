"""Both range coders: the same bytes for the same symbols, and nothing else needed where constriction is missing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from latentwire.cli import app
from latentwire.codec import coder
from latentwire.codec.coder import TOTAL, Table
from latentwire.codec.portable import RangeDecoder, RangeEncoder
from latentwire.errors import CorruptPayloadError

HERE = Path(__file__).parent
needs_constriction = pytest.mark.skipif(coder.constriction is None, reason="there is nothing to compare with")
Ints = NDArray[np.int32]


TAILS = (b"", b"\x81")


def of(*frequencies: int) -> Table:
    return Table(np.array([*frequencies, TOTAL - sum(frequencies)], np.int64))


def skewed(symbols: int, seed: int = 0) -> Table:
    weights = np.random.default_rng(seed).exponential(size=symbols) ** 5
    frequencies = 1 + np.floor(weights / weights.sum() * (TOTAL - symbols)).astype(np.int64)
    frequencies[symbols // 2] += TOTAL - frequencies.sum()
    return Table(frequencies)


SHAPES = {
    "a coin": of(TOTAL // 2),
    "nearly always 0": of(TOTAL - 1),
    "nearly always 1": of(1),
    "seven of frequency 1": of(1, 1, 1, TOTAL - 8, 1, 1, 1),
    "12 symbols": skewed(12),
    "3000 symbols": skewed(3000),
    "8192 symbols": skewed(8192),
    "uniform 16 bits": Table(np.full(1 << 16, TOTAL >> 16, np.int64)),
}


def both(runs: list[tuple[Ints, Table]]) -> None:
    """Both coders make the same payload of these runs, and both read the runs back from it; with either tail."""
    coder.use("constriction")
    theirs, ours = coder.Encoder(), RangeEncoder()
    for symbols, table in runs:
        theirs.push(symbols, table)
        ours.push(symbols, table.bounds)
    for tail in TAILS:
        payload = theirs.seal(tail)
        assert ours.seal(tail) == payload
        read_theirs, read_ours = coder.Decoder(payload, tail), RangeDecoder(payload, tail)
        for symbols, table in runs:
            assert np.array_equal(read_theirs.pull(len(symbols), table), symbols)
            assert np.array_equal(read_ours.pull(len(symbols), table.bounds), symbols)


def read(payload: bytes, table: Table) -> Ints:
    """Up to 1000 symbols: where a step's division leaves a gap at its top, some payloads lie in it and end there."""
    decoder, symbols = RangeDecoder(payload), []
    with suppress(CorruptPayloadError):
        for _ in range(1000):
            symbols.append(decoder.pull(1, table.bounds))
    return np.concatenate([np.zeros(0, np.int32), *symbols])


@pytest.fixture(autouse=True)
def _coder_as_before() -> Iterator[None]:
    before = coder.in_use()
    yield
    coder.use(before)


@needs_constriction
@pytest.mark.parametrize("shape", SHAPES)
def test_millions_of_symbols_make_the_same_bytes(shape: str) -> None:
    """The likely symbols of each table, and all of them alike, the costliest included."""
    table, random = SHAPES[shape], np.random.default_rng(1)
    size = len(table.frequencies)
    likely = np.searchsorted(table.bounds, random.integers(0, TOTAL, 400_000), side="right") - 1
    both([(likely.astype(np.int32), table)])
    both([(random.integers(0, size, 100_000).astype(np.int32), table)])


@needs_constriction
@given(
    st.lists(st.tuples(st.sampled_from(list(SHAPES)), st.integers(0, 12), st.booleans()), max_size=30),
    st.integers(0, 2**32),
)
def test_any_order_of_tables_makes_the_same_bytes(plan: list[tuple[str, int, bool]], seed: int) -> None:
    random = np.random.default_rng(seed)
    runs = []
    for name, count, extreme in plan:
        last = len(SHAPES[name].frequencies) - 1
        symbols = random.choice([0, last], count) if extreme else random.integers(0, last + 1, count)
        runs.append((symbols.astype(np.int32), SHAPES[name]))
    both(runs)


@needs_constriction
@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "uniform 16 bits"])
@pytest.mark.parametrize("head", ["80", "7f", "40", "0123456789abcdef", "00", "fffffefffffffffe"])
@pytest.mark.parametrize("tail", ["00", "ff"])
def test_carries(shape: str, head: str, tail: str) -> None:
    """Symbols read from 8000... or 7fff... keep the encoder on the edge of a carry through every word."""
    edge = bytes.fromhex(head) + bytes.fromhex(tail) * 400
    symbols = read(edge, SHAPES[shape])
    both([(symbols, SHAPES[shape])])
    for cut in (0, 1, 2, 77, -1):  # the same, ended by one way or the other off the edge
        for last in (0, len(SHAPES[shape].frequencies) - 1):
            both([(np.append(symbols[:cut], np.int32(last)), SHAPES[shape])])


@needs_constriction
@given(st.binary(max_size=40), st.sampled_from(TAILS), st.sampled_from(list(SHAPES)), st.integers(1, 60))
def test_both_read_the_same_from_any_bytes(payload: bytes, tail: bytes, shape: str, count: int) -> None:
    table = SHAPES[shape]
    read = []
    for backend in coder.BACKENDS:
        coder.use(backend)
        try:
            read.append(coder.Decoder(payload, tail).pull(count, table).tolist())
        except CorruptPayloadError:
            read.append("refused")
    assert read[0] == read[1]


def test_past_the_end_of_a_table_is_refused() -> None:
    with pytest.raises(CorruptPayloadError, match="past the end"):
        RangeDecoder(b"\xff" * 8).pull(1, SHAPES["a coin"].bounds)


@pytest.mark.parametrize("symbols", [1000, 100_000, 1_000_000])
def test_sealing_takes_a_time_in_proportion(symbols: int) -> None:
    """Words beside one another, not a number that grows by each: a quadratic seal of a million would take minutes."""
    table = SHAPES["uniform 16 bits"]
    ours = RangeEncoder()
    ours.push(np.arange(symbols, dtype=np.int32) % (1 << 16), table.bounds)
    assert 0 <= symbols * 2 - len(ours.seal()) <= 2


def test_a_coder_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="constriction or portable, not 'huffman'"):
        coder.use("huffman")


def test_the_command_chooses_the_coder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTWIRE_CODER", "portable")  # as if by hand; and put back after, whatever the command sets
    asked = CliRunner().invoke(app, ["bundle", "verify", "digits"])
    assert (asked.exit_code, coder.in_use()) == (0, "portable")
    refused = CliRunner().invoke(app, ["--coder", "huffman", "bundle", "verify", "digits"])
    assert refused.exit_code == 2
    assert "constriction or portable" in " ".join(refused.output.split())


def test_without_constriction_the_codec_is_whole() -> None:
    """The codec's own tests, and the golden vectors, in a process that cannot import constriction."""
    golden = sorted(HERE.parent.glob("golden/test_*.py"))
    files = [HERE / "test_codec_coder.py", HERE / "test_codec_latent.py", *golden]
    program = (
        "import sys; sys.modules['constriction'] = None\n"
        "from latentwire.codec import coder; assert coder.in_use() == 'portable'\n"
        "import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LATENTWIRE_CODER"}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, files)],
        cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
