"""The range coder: exact integer frequencies, and the fewest bytes."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentwire.codec import coder
from latentwire.codec.coder import TOTAL, Decoder, Encoder, Table
from latentwire.errors import CorruptPayloadError


@pytest.fixture(autouse=True, params=coder.BACKENDS, scope="module")
def _backend(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "constriction":
        pytest.importorskip("constriction")
    before = coder.in_use()
    coder.use(request.param)
    yield
    coder.use(before)


TAILS = pytest.mark.parametrize("tail", [b"", b"\x81"])


def make_table(seed: int, symbols: int) -> Table:
    random = np.random.default_rng(seed)
    weights = random.exponential(size=symbols) ** 3 + 1e-9
    frequencies = 1 + np.floor(weights / weights.sum() * (TOTAL - symbols)).astype(np.int64)
    frequencies[0] += TOTAL - frequencies.sum()
    return Table(frequencies)


@TAILS
@given(st.integers(0, 2**32), st.integers(2, 300), st.integers(0, 200))
def test_symbols_survive_and_no_shorter_payload_would_do(tail: bytes, seed: int, size: int, count: int) -> None:
    table = make_table(seed, size)
    symbols = np.random.default_rng(seed).integers(0, size, count).astype(np.int32)
    encoder = Encoder()
    encoder.push(symbols, table)
    payload = encoder.seal(tail)
    assert np.array_equal(Decoder(payload, tail).pull(count, table), symbols)
    ideal_bits = table.ideal_bits[symbols].sum()
    assert 8 * len(payload) <= ideal_bits * 1.0001 + 8.01  # one byte of rounding at most


@TAILS
@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 3))
def test_no_payload_of_one_byte_less_decodes(tail: bytes, seed: int, count: int) -> None:
    table = make_table(seed, 6)
    symbols = np.random.default_rng(seed).integers(0, 6, count).astype(np.int32)
    encoder = Encoder()
    encoder.push(symbols, table)
    payload = encoder.seal(tail)
    if 1 <= len(payload) <= 3:
        shorter = (bytes(n.to_bytes(len(payload) - 1, "big")) for n in range(256 ** (len(payload) - 1)))
        assert not any(np.array_equal(pull(b, tail, count, table), symbols) for b in shorter)


def pull(payload: bytes, tail: bytes, count: int, table: Table) -> NDArray[np.int32]:
    """What a payload decodes to; nothing where it is refused."""
    try:
        return Decoder(payload, tail).pull(count, table)
    except CorruptPayloadError:
        return np.zeros(0, np.int32)


@TAILS
@pytest.mark.parametrize("length", [*range(1, 40), 3000])
def test_a_payload_that_ends_as_the_tail_does_is_cut_there(tail: bytes, length: int) -> None:
    """Symbols read from bytes that go on as the tail would need no more of them, however many there are."""
    uniform = Table(np.full(1 << 16, TOTAL >> 16, np.int64))
    for head in (b"", b"\x05", b"\x00\x81", b"\xfe\xff\xff\xff\x7f"):
        symbols = Decoder(head, tail).pull(length, uniform)
        encoder = Encoder()
        encoder.push(symbols, uniform)
        payload = encoder.seal(tail)
        assert len(payload) <= len(head)
        assert np.array_equal(Decoder(payload, tail).pull(length, uniform), symbols)


@pytest.mark.parametrize("symbols", [3, 4, 100])
def test_what_is_sure_takes_no_byte_of_format_2(symbols: int) -> None:
    """The likeliest symbol holds the middle of the range, so where all are nearly sure the payload is empty."""
    frequencies = np.full(symbols, 100, np.int64)
    frequencies[symbols // 2] += TOTAL - frequencies.sum()
    encoder = Encoder()
    encoder.push(np.full(50, symbols // 2, np.int32), Table(frequencies))
    assert encoder.seal(b"\x81") == b""
    assert len(encoder.seal()) == 1


@TAILS
def test_carries_are_sealed_rightly(tail: bytes) -> None:
    """Likely symbols at the top of the range keep the coder on the edge of a carry for many words."""
    frequencies = np.array([1, 1, TOTAL - 2], np.int64)
    table = Table(frequencies)
    for last in range(3):
        for length in (1, 10, 1000, 100_000):
            symbols = np.full(length, 2, np.int32)
            symbols[-1] = last
            encoder = Encoder()
            encoder.push(symbols, table)
            assert np.array_equal(Decoder(encoder.seal(tail), tail).pull(length, table), symbols)


def test_constriction_holds_the_very_frequencies() -> None:
    """The float table that constriction is given must become our integers: seen in the coder's own interval."""
    constriction = pytest.importorskip("constriction")
    table = make_table(1, 50)
    cumulative = np.concatenate([[0], np.cumsum(table.frequencies)])
    scale = ((1 << 64) - 1) >> 24
    for symbol in range(50):
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(symbol, table.model)
        _, (lower, width) = encoder.pos()
        words = encoder.num_words()
        exact = scale * int(table.frequencies[symbol]), scale * int(cumulative[symbol])
        shifted = (exact[0] << 32) % (1 << 64), (exact[1] << 32) % (1 << 64)
        assert (width, lower) in (exact, shifted), (symbol, words)


@pytest.mark.parametrize("frequencies", [[TOTAL], [TOTAL, 0], [TOTAL - 1, 2], [[1, 2], [3, 4]]])
def test_tables_that_are_none_are_refused(frequencies: list[int]) -> None:
    with pytest.raises(ValueError, match="table needs"):
        Table(np.array(frequencies, np.int64))
