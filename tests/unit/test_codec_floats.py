"""What decodes is integers: floats that only the sensor's choice or the reconstruction uses change no symbol."""

from dataclasses import replace

import numpy as np
import pytest
from codec_models import make_latents, make_parameters

from latentwire.codec.latent_codec import LatentCodec
from latentwire.codec.parameters import CodecParameters
from latentwire.operating_point import OperatingPoint

ANCHORS, D, IMAGES, RATE_SCALE = 10, 6, 48, 0.7


def codec_of(parameters: CodecParameters) -> LatentCodec:
    return OperatingPoint.derive(parameters, "full", "test", RATE_SCALE).codec


def variants() -> dict[str, CodecParameters]:
    """The same model, but for one float that tables must not depend on."""
    same = make_parameters(ANCHORS, D)
    path = same.frontier
    return {
        "choice_spread": replace(same, choice_spread=same.choice_spread * 1.37),
        "named_by_head": replace(same, named_by_head=True),
        "doubt_threshold": replace(same, frontier=replace(path, doubt_threshold=path.doubt_threshold / 3)),
        "bits": replace(same, frontier=replace(path, bits=path.bits + 0.1)),
        "anchors": replace(same, anchors=np.nextafter(same.anchors, np.float32(9))),
    }


@pytest.mark.parametrize("name", variants())
def test_it_changes_neither_digest_nor_decoding(name: str) -> None:
    ours, theirs = codec_of(make_parameters(ANCHORS, D)), codec_of(variants()[name])
    assert theirs.tables.digest == ours.tables.digest
    latent = make_latents(ours.parameters, IMAGES)
    latent[4, 2] = 1e7  # escaped
    level = (np.arange(IMAGES) % 3 > 0).astype(np.int32)
    coded = ours.encode(latent, replace(ours.choose(latent), level=level))
    decoded = theirs.decode(coded.payload, IMAGES, coded.crc32)
    assert np.array_equal(decoded.anchor, coded.anchor)
    assert np.array_equal(decoded.level, coded.level)
    assert np.array_equal(decoded.indices, coded.indices)


def test_tables_that_differ_by_anything_have_another_digest() -> None:
    """Each of these does change a table, and is told by the digest."""
    same = make_parameters(ANCHORS, D)
    path = same.frontier
    counts = same.anchor_counts.copy()
    counts[3] += 1
    others = [
        replace(same, anchor_counts=counts),
        replace(same, weights=np.nextafter(same.weights, 9)),
        replace(same, location=same.location + 5 * same.spread),
        replace(same, spread=same.spread * 2),
        replace(same, shapes=same.shapes[:, ::2].copy()),
        replace(same, frontier=replace(path, refine_share=path.refine_share * 0.99)),
        replace(same, frontier=replace(path, step_scale=path.step_scale * 1.01)),
        replace(same, ratios_per_octave=8),
    ]
    digests = {codec_of(parameters).tables.digest for parameters in [same, *others]}
    assert len(digests) == 1 + len(others)


def test_nothing_but_integers_is_handed_to_the_decoder() -> None:
    """A message is its bytes, a count and a checksum: a codec that never saw a latent decodes it."""
    sensor, server = codec_of(make_parameters(ANCHORS, D)), codec_of(make_parameters(ANCHORS, D))
    latent = make_latents(sensor.parameters, IMAGES, seed=3)
    coded = sensor.encode(latent, sensor.choose(latent))
    payload, crc32 = bytes(bytearray(coded.payload)), int(coded.crc32)
    first, again = server.decode(payload, IMAGES, crc32), server.decode(payload, IMAGES, crc32)
    assert np.array_equal(first.anchor, coded.anchor)
    assert first.latent.tobytes() == again.latent.tobytes()
