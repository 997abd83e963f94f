"""The range coder: exact integer frequencies, and the fewest bytes."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentwire.codec import coder
from latentwire.codec.coder import TOTAL, Decoder, Encoder, Table


@pytest.fixture(autouse=True, params=coder.BACKENDS, scope="module")
def _backend(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "constriction":
        pytest.importorskip("constriction")
    before = coder.in_use()
    coder.use(request.param)
    yield
    coder.use(before)


def make_table(seed: int, symbols: int) -> Table:
    random = np.random.default_rng(seed)
    weights = random.exponential(size=symbols) ** 3 + 1e-9
    frequencies = 1 + np.floor(weights / weights.sum() * (TOTAL - symbols)).astype(np.int64)
    frequencies[0] += TOTAL - frequencies.sum()
    return Table(frequencies)


@given(st.integers(0, 2**32), st.integers(2, 300), st.integers(0, 200))
def test_symbols_survive_and_no_shorter_payload_would_do(seed: int, size: int, count: int) -> None:
    table = make_table(seed, size)
    symbols = np.random.default_rng(seed).integers(0, size, count).astype(np.int32)
    encoder = Encoder()
    encoder.push(symbols, table)
    payload = encoder.seal()
    assert np.array_equal(Decoder(payload).pull(count, table), symbols)
    ideal_bits = table.ideal_bits[symbols].sum()
    assert 8 * len(payload) <= ideal_bits * 1.0001 + 8.01  # one byte of rounding at most


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 3))
def test_no_payload_of_one_byte_less_decodes(seed: int, count: int) -> None:
    table = make_table(seed, 6)
    symbols = np.random.default_rng(seed).integers(0, 6, count).astype(np.int32)
    encoder = Encoder()
    encoder.push(symbols, table)
    payload = encoder.seal()
    if 1 <= len(payload) <= 3:
        shorter = (bytes(n.to_bytes(len(payload) - 1, "big")) for n in range(256 ** (len(payload) - 1)))
        assert not any(np.array_equal(Decoder(b).pull(count, table), symbols) for b in shorter)


def test_carries_are_sealed_rightly() -> None:
    """Likely symbols at the top of the range keep the coder on the edge of a carry for many words."""
    frequencies = np.array([1, 1, TOTAL - 2], np.int64)
    table = Table(frequencies)
    for tail in range(3):
        for length in (1, 10, 1000, 100_000):
            symbols = np.full(length, 2, np.int32)
            symbols[-1] = tail
            encoder = Encoder()
            encoder.push(symbols, table)
            assert np.array_equal(Decoder(encoder.seal()).pull(length, table), symbols)


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
