from functools import partial
from pathlib import Path

import numpy as np
import pytest
from codec_models import make_latents, make_parameters

from benchmarks.other_coders import Deflate, load_rans
from benchmarks.other_coders import _in_16_bits as in_16_bits
from benchmarks.rounding import dead_zone, nearest, rate_distortion
from benchmarks.stream_anchors import source_entropy_bits, stream_order
from latentwire.codec.choice import Choice
from latentwire.codec.latent_codec import LatentCodec
from latentwire.errors import LatentwireError
from latentwire.operating_point import OperatingPoint


def make_codec(anchors: int = 5, d: int = 8) -> LatentCodec:
    return OperatingPoint.derive(make_parameters(anchors, d), "full", "test", 2.0).codec


def test_a_stream_keeps_its_class_as_often_as_asked_and_shows_every_image() -> None:
    labels = np.arange(300) % 10
    order = stream_order(labels, 0.95, 40_000, seed=3)
    shown = labels[order]
    assert np.mean(shown[1:] == shown[:-1]) == pytest.approx(0.95, abs=0.005)
    assert set(order) == set(range(300))
    assert np.array_equal(order, stream_order(labels, 0.95, 40_000, seed=3))


def test_the_source_entropy_is_that_of_its_transitions() -> None:
    row = np.array([0.95] + [0.05 / 9] * 9)
    assert source_entropy_bits(0.95, 10) == pytest.approx(-(row * np.log2(row)).sum())


def indices(codec: LatentCodec, latent: np.ndarray, anchor: np.ndarray) -> tuple[np.ndarray, float]:
    coded = codec.encode(latent, Choice(anchor, np.ones_like(anchor)))
    return coded.indices, coded.ideal_bits


def test_rounding_trades_error_for_bits() -> None:
    codec = make_codec()
    latent = make_latents(codec.parameters, 200)
    anchor = codec.choose(latent).anchor
    centre = codec.anchors[anchor]
    plain, bits = indices(codec, nearest(codec.tables, latent, centre, anchor), anchor)
    for rounding in (partial(dead_zone, width=0.2), partial(rate_distortion, price=0.2)):
        moved, fewer = indices(codec, rounding(codec.tables, latent, centre, anchor), anchor)
        assert np.abs(moved - plain).max() == 1
        assert fewer < bits


def test_rate_distortion_at_no_price_is_never_farther_from_what_the_server_puts_there() -> None:
    codec = make_codec()
    latent = make_latents(codec.parameters, 200)
    anchor = codec.choose(latent).anchor

    def error(wanted: np.ndarray) -> float:
        coded = codec.encode(wanted, Choice(anchor, np.ones_like(anchor)))
        decoded = codec.decode(coded.payload, coded.images, coded.crc32).latent
        return float((((decoded - latent) / codec.tables.step_size) ** 2).sum())

    searched = rate_distortion(codec.tables, latent, codec.anchors[anchor], anchor, price=0.0)
    assert error(searched) <= error(latent) + 1e-3


def test_deflate_takes_indices_of_any_reach() -> None:
    codec = make_codec()
    latent = make_latents(codec.parameters, 50)
    sizes = []
    for reach in (1.0, 1e3, 1e9):
        wild = latent.copy()
        wild[0, 0] = reach * np.abs(latent).max()
        anchor = codec.choose(latent).anchor
        sizes.append(len(Deflate().encode(codec.encode(wild, Choice(anchor, np.ones_like(anchor))))))
    assert sizes[0] < sizes[2]


def test_a_table_of_24_bits_becomes_one_of_16_in_which_nothing_is_impossible() -> None:
    table = in_16_bits(np.array([1, (1 << 24) - 3, 2, 0]))
    assert table[0] == 0
    assert table[-1] == 1 << 16
    assert min(np.diff(table)) >= 1


def test_compressai_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LatentwireError, match="pip install --no-deps"):
        load_rans(tmp_path)
