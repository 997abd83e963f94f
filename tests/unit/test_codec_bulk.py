"""Many messages decoded at once come out as each does alone, and one that is bad takes none with it."""

import numpy as np
import pytest
from codec_models import make_latents, make_parameters

from latentwire.codec.bulk import Coded
from latentwire.codec.choice import Choice
from latentwire.codec.latent_codec import LatentCodec
from latentwire.errors import ChecksumError, CorruptPayloadError
from latentwire.operating_point import OperatingPoint


def make_messages(anchors: int, sizes: list[int]) -> tuple[LatentCodec, list[Coded]]:
    """Messages of those sizes: some of one anchor in a run, some with an escape, some with nothing refined."""
    codec = OperatingPoint.derive(make_parameters(anchors, 8), "full", "test", 2.0).codec
    latent = make_latents(codec.parameters, sum(sizes))
    latent[::7, 3] = 3e38
    messages, start = [], 0
    for number, size in enumerate(sizes):
        part = latent[start : start + size]
        choice = codec.choose(part)
        if number % 3 == 1:
            choice = Choice(
                np.full(size, choice.anchor[0]), np.ones(size, np.int32), 3 if size > 1 and anchors > 1 else 0
            )
        if number % 3 == 2:
            choice = Choice(choice.anchor, np.zeros(size, np.int32), choice.run)
        coded = codec.encode(part, choice)
        messages.append(Coded(coded.payload, size, coded.crc32))
        start += size
    return codec, messages


@pytest.mark.parametrize("anchors", [1, 5, 300])  # 300: keys of more than 16 bits
@pytest.mark.parametrize("sizes", [[1] * 40, [1, 16, 64, 3, 1, 1, 100, 2, 1]])
def test_messages_decode_together_as_they_do_alone(anchors: int, sizes: list[int]) -> None:
    codec, messages = make_messages(anchors, sizes)
    together, errors = codec.decode_many(messages)
    alone = [codec.decode(message.payload, message.images, message.crc32) for message in messages]
    assert errors == [None] * len(messages)
    for name in ("anchor", "level", "indices", "latent"):
        assert np.array_equal(getattr(together, name), np.concatenate([getattr(one, name) for one in alone])), name


def test_bad_messages_are_refused_alone() -> None:
    codec, messages = make_messages(5, [1, 4, 1, 30, 1, 2])
    good, _ = codec.decode_many([messages[0], messages[3]])
    bad = {
        1: Coded(bytes(1 << 16), 4, messages[1].crc32),  # longer than any
        2: Coded(messages[2].payload, 1, messages[2].crc32 ^ 1),
        4: Coded(b"\xff" * 12, 1, messages[4].crc32),
        5: Coded(messages[5].payload, 2, messages[4].crc32),
    }
    decoded, errors = codec.decode_many([bad.get(number, message) for number, message in enumerate(messages)])
    assert [number for number, error in enumerate(errors) if error is not None] == [1, 2, 4, 5]
    assert isinstance(errors[1], CorruptPayloadError)
    assert isinstance(errors[2], ChecksumError)
    ends = np.cumsum([0, 1, 4, 1, 30, 1, 2])
    kept = np.r_[ends[0] : ends[1], ends[3] : ends[4]]
    assert np.array_equal(decoded.latent[kept], good.latent)
    assert np.array_equal(decoded.level[kept], good.level)
    assert np.array_equal(decoded.indices, good.indices)
    refused = np.delete(np.arange(ends[-1]), kept)
    assert not decoded.level[refused].any()
    assert np.isfinite(decoded.latent).all()
