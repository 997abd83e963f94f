"""The codec as a whole: exact or refused, at any shape."""

from dataclasses import replace

import numpy as np
import pytest
from codec_models import make_latents, make_parameters
from hypothesis import given, settings
from hypothesis import strategies as st

from latentwire.codec.choice import Choice
from latentwire.codec.coder import Encoder
from latentwire.codec.latent_codec import LatentCodec
from latentwire.codec.runs import MODE_TABLE
from latentwire.errors import ChecksumError, CorruptPayloadError, NonFiniteLatentError, RateScaleError
from latentwire.operating_point import OperatingPoint, OperatingPoints


def codec_at(rate_scale: float, anchors: int = 10, d: int = 8, seed: int = 0) -> LatentCodec:
    return OperatingPoint.derive(make_parameters(anchors, d, seed), "full", "test", rate_scale).codec


@settings(deadline=None)
@given(
    anchors=st.sampled_from([1, 2, 10, 100]),
    d=st.integers(1, 40),
    images=st.integers(1, 80),
    rate_scale=st.floats(0.0625, 8.0),
    seed=st.integers(0, 2**32),
    reach=st.sampled_from([1.0, 30.0, 1e6, 1e30]),
)
def test_round_trip(anchors: int, d: int, images: int, rate_scale: float, seed: int, reach: float) -> None:
    codec = codec_at(rate_scale, anchors, d, seed)
    latent = make_latents(codec.parameters, images, seed)
    random = np.random.default_rng(seed)
    latent[random.random(latent.shape) < 0.05] *= reach
    choice = Choice(
        random.integers(0, anchors, images).astype(np.int32), random.integers(0, 2, images).astype(np.int32)
    )
    coded = codec.encode(latent, choice)
    decoded = codec.decode(coded.payload, coded.images, coded.crc32)
    assert np.array_equal(decoded.anchor, choice.anchor)
    assert np.array_equal(decoded.level, choice.level)
    assert np.array_equal(decoded.indices, coded.indices)
    assert coded.payload_bits <= coded.ideal_bits * 1.0001 + 8.01
    assert np.array_equal(decoded.latent[choice.level == 0], codec.anchors[choice.anchor[choice.level == 0]])


def test_reconstruction_lies_within_its_bin_unless_it_is_counted() -> None:
    codec = codec_at(8.0, 1, 12)
    latent = make_latents(codec.parameters, 500)
    latent[3, 4] = -7e3  # escaped
    latent[9, 1] = 3e38  # past int32
    choice = codec.choose(latent)
    coded = codec.encode(latent, choice)
    assert coded.saturated == 1
    decoded = codec.decode(coded.payload, 500, coded.crc32)
    far = np.abs(decoded.latent.astype(np.float64) - latent) / codec.tables.step_size
    far[9, 1] = 0
    assert far.max() < 1  # the mean of a bin lies inside it
    assert decoded.latent[9, 1] > 2**30 * codec.tables.step_size[1]


def test_no_anchor_no_level_and_index_differs_with_the_way_a_batch_is_cut() -> None:
    codec = codec_at(1.0)
    latent = make_latents(codec.parameters, 64)
    choice = codec.choose(latent)
    assert choice.run == 0
    whole = codec.encode(latent, choice)
    parts = [
        codec.encode(latent[i : i + 1], Choice(choice.anchor[i : i + 1], choice.level[i : i + 1])) for i in range(64)
    ]
    assert np.array_equal(whole.indices, np.concatenate([p.indices for p in parts]))
    alone = np.array([p.ideal_bits for p in parts])
    alone[0] += MODE_TABLE.ideal_bits[0]  # a message of several images says that these are no run
    np.testing.assert_allclose(whole.image_bits, alone, rtol=1e-12)


@pytest.mark.parametrize("images", [1, 16])
def test_damage_is_refused_by_name_or_changes_nothing(images: int) -> None:
    codec = codec_at(4.0)
    latent = make_latents(codec.parameters, images)
    coded = codec.encode(latent, codec.choose(latent))
    damaged = [coded.payload[:n] for n in range(len(coded.payload))]
    for bit in range(8 * len(coded.payload)):
        flipped = bytearray(coded.payload)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    harmless = 0  # a flip after the last bit that matters
    for payload in damaged:
        try:
            decoded = codec.decode(payload, images, coded.crc32)
        except CorruptPayloadError:
            continue
        harmless += 1
        assert np.array_equal(decoded.indices, coded.indices)
        assert np.array_equal(decoded.anchor, coded.anchor)
    assert harmless <= 8
    with pytest.raises(ChecksumError):
        codec.decode(coded.payload, images, coded.crc32 ^ 1)
    with pytest.raises(CorruptPayloadError):
        codec_at(3.9).decode(coded.payload, images, coded.crc32)
    assert codec.decode(coded.payload, images, coded.crc32).latent.shape == latent.shape


@pytest.mark.parametrize(("anchors", "images"), [(1, 1), (10, 1), (10, 64)])
def test_a_payload_longer_than_any_is_refused_before_it_is_decoded(anchors: int, images: int) -> None:
    codec = codec_at(8.0, anchors)
    rarest = 0 if codec.tables.anchor is None else int(codec.tables.anchor.frequencies.argmin())
    anchor = np.full(images, rarest, np.int32)
    latent = np.full((images, 8), -3e38, np.float32)  # all escaped: the costliest there is
    costliest = codec.encode(latent, Choice(anchor, np.ones(images, np.int32)))
    assert np.array_equal(codec.decode(costliest.payload, images, costliest.crc32).indices, costliest.indices)
    for longer in (costliest.payload * 3, bytes(1 << 20)):
        with pytest.raises(CorruptPayloadError, match=f"more than {images} images can need"):
            codec.decode(longer, images, costliest.crc32)


def test_a_reserved_level_is_refused() -> None:
    codec = codec_at(1.0, anchors=1)
    encoder = Encoder()
    level = np.array([2], np.int32)
    encoder.push(level, codec.tables.level[0])
    with pytest.raises(CorruptPayloadError, match="level above 1"):
        codec.decode(encoder.seal(), 1, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_latents_that_are_no_numbers_are_refused(value: float) -> None:
    codec = codec_at(1.0)
    latent = make_latents(codec.parameters, 4)
    latent[2, 3] = value
    with pytest.raises(NonFiniteLatentError, match="first: row 2"):
        codec.encode(latent, Choice(np.zeros(4, np.int32), np.ones(4, np.int32)))


@pytest.mark.parametrize("rate_scale", [0.0, -1.0, float("nan"), float("inf"), 8.1, 1e300])
def test_rate_scales_outside_the_range_are_refused(rate_scale: float) -> None:
    with pytest.raises(RateScaleError, match=r"give 0\.0625 to 8"):
        codec_at(rate_scale)


def test_any_rate_scale_in_range_has_tables_and_a_digest_of_its_own() -> None:
    scales = np.linspace(0.0625, 8, 50)
    digests = {codec_at(float(scale)).tables.digest for scale in scales}
    assert len(digests) == 50


def test_bits_rise_with_the_rate_scale() -> None:
    parameters = make_parameters(1, 16)
    latent = make_latents(parameters, 400)
    bits = []
    for scale in np.geomspace(0.0625, 8, 20):
        codec = OperatingPoint.derive(parameters, "full", "test", float(scale)).codec
        bits.append(codec.encode(latent, codec.choose(latent)).ideal_bits)
    assert all(np.diff(bits) > 0)


def test_the_model_is_close_to_its_source() -> None:
    """Coding latents drawn from the model costs about the entropy of the quantized source, snapped ratios or not."""
    exact = make_parameters(10, 16, ratios_per_octave=0)
    snapped = make_parameters(10, 16, ratios_per_octave=4)
    latent = make_latents(exact, 4000)
    bits = []
    for parameters in (exact, snapped):
        codec = OperatingPoint.derive(parameters, "full", "test", 4.0).codec
        bits.append(codec.encode(latent, codec.choose(latent)).ideal_bits)
    assert bits[1] < 1.01 * bits[0]


def test_operating_points_are_kept_and_bounded() -> None:
    class OneModel:
        derived = 0

        def codec_parameters(self, variant: str, model: str) -> object:
            self.derived += 1
            return make_parameters(2, 3)

    bundle = OneModel()
    points = OperatingPoints(bundle, keep=2)  # type: ignore[arg-type]
    first = points.get("full", "test", 1.0)
    assert points.get("full", "test", 1) is first
    points.get("full", "test", 2.0)
    points.get("full", "test", 3.0)
    assert points.get("full", "test", 1.0).digest == first.digest
    assert bundle.derived == 4


def test_parameters_that_make_no_tables_are_refused() -> None:
    from latentwire.errors import BundleCorruptError

    good = make_parameters(3, 4)
    good.check()
    falling = replace(good.frontier, bits=np.array([1.0, 3.0, 2.0, 4.0]))
    bad = [
        replace(good, spread=good.spread * 0),
        replace(good, anchors=good.anchors[:, :2]),
        replace(good, weights=good.weights * np.nan),
        replace(good, shapes=good.shapes[:, ::-1]),
        replace(good, shape_of=good.shape_of + 1),
        replace(good, frontier=falling),
        replace(good, frontier=replace(good.frontier, rate_scale=np.zeros(4))),
    ]
    for parameters in bad:
        with pytest.raises(BundleCorruptError):
            parameters.check()
