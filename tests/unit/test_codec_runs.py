"""Anchors coded against the one before: exact, never dearer than each by itself, and close to a source's entropy."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from codec_models import make_latents, make_parameters
from hypothesis import given
from hypothesis import strategies as st

from latentwire.codec import runs
from latentwire.codec.choice import Choice
from latentwire.codec.coder import Encoder
from latentwire.codec.latent_codec import LatentCodec
from latentwire.codec.parameters import Point
from latentwire.errors import CorruptPayloadError
from latentwire.operating_point import OperatingPoint

CLASSES = 10
UNIFORM_BITS = np.full(CLASSES, np.log2(CLASSES))


def codec_of(anchors: int, d: int, seed: int = 0, rate_scale: float = 1.0) -> LatentCodec:
    return OperatingPoint.derive(make_parameters(anchors, d, seed), "full", "test", rate_scale).codec


def anchors_alone() -> LatentCodec:
    """Ten anchors and no image refined: a payload holds the anchors, and of the levels next to nothing."""
    return LatentCodec(make_parameters(CLASSES, 2), Point(1.0, 0.0, np.zeros(CLASSES), 2.0))


def posterior_of(anchor: np.ndarray, sure: float, anchors: int = CLASSES) -> np.ndarray:
    """log p (N, A): ``sure`` for ``anchor`` (N,), the rest shared alike."""
    posterior = np.full((len(anchor), anchors), np.log((1 - sure) / (anchors - 1)))
    posterior[np.arange(len(anchor)), anchor] = np.log(sure)
    return posterior


def markov(images: int, persistence: float, random: np.random.Generator) -> np.ndarray:
    """(images,): a class that stays with probability ``persistence``, else becomes any other."""
    steps = random.integers(1, CLASSES, images) * (random.random(images) >= persistence)
    return ((random.integers(CLASSES) + np.cumsum(steps)) % CLASSES).astype(np.int32)


def two_part_bits(anchor: np.ndarray, mode: int, posterior: np.ndarray, anchor_bits: np.ndarray) -> float:
    """What ``choose_run`` makes least: coded bits plus -log2 p(anchor | image)."""
    surprise = -posterior[np.arange(len(anchor)), anchor] / np.log(2)
    return float(runs.anchor_cost(anchor, mode, anchor_bits).sum() + surprise.sum())


@given(
    anchors=st.sampled_from([1, 2, 10, 100]),
    images=st.integers(1, 80),
    run=st.integers(0, runs.MODES - 1),
    persistence=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_any_mode_round_trips_any_anchors(anchors: int, images: int, run: int, persistence: float, seed: int) -> None:
    codec = codec_of(anchors, 3, seed)
    random = np.random.default_rng(seed)
    choice = Choice(markov(images, persistence, random) % anchors, random.integers(0, 2, images).astype(np.int32), run)
    coded = codec.encode(make_latents(codec.parameters, images, seed), choice)
    decoded = codec.decode(coded.payload, images, coded.crc32)
    assert np.array_equal(decoded.anchor, choice.anchor)
    assert np.array_equal(decoded.level, choice.level)
    assert np.array_equal(decoded.indices, coded.indices)
    assert coded.payload_bits <= coded.ideal_bits * 1.0001 + 8.01


@pytest.mark.parametrize("run", range(runs.MODES))
def test_the_bits_of_a_run_are_those_of_its_symbols(run: int) -> None:
    codec = anchors_alone()
    table = codec.tables.anchor
    assert table is not None
    anchor = np.array([3, 3, 3, 7, 7, 0], np.int32)
    coded = codec.encode(np.zeros((6, 2), np.float32), Choice(anchor, np.zeros(6, np.int32), run))
    own = table.ideal_bits[anchor]
    if run:
        stay, change = -np.log2(1 - 2.0**-run), run
        own = np.array([own[0], stay, stay, change + own[3], stay, change + own[5]])
    own[0] += -np.log2(1 / 2 if run == 0 else 1 / 14)
    np.testing.assert_allclose(coded.image_bits, own, atol=2e-5)  # levels cost 3e-7, and a 14th is no whole share


def test_shuffled_anchors_are_no_run() -> None:
    random = np.random.default_rng(0)
    for images in (16, 64, 256):
        for _ in range(50):
            truth = random.integers(0, CLASSES, images).astype(np.int32)
            anchor, mode = runs.choose_run(posterior_of(truth, 0.999), UNIFORM_BITS)
            assert mode == 0
            assert np.array_equal(anchor, truth)


@given(
    anchors=st.integers(2, 12),
    images=st.integers(1, 64),
    persistence=st.floats(0, 1),
    sharpness=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 2**32),
)
def test_a_run_never_costs_more_than_the_likeliest_anchors_by_themselves(
    anchors: int, images: int, persistence: float, sharpness: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    score = sharpness * random.normal(size=(images, anchors))
    score[np.arange(images), markov(images, persistence, random) % anchors] += sharpness
    posterior = score - np.log(np.exp(score).sum(axis=1, keepdims=True))
    anchor_bits = -np.log2(random.dirichlet(np.ones(anchors)))
    likeliest = posterior.argmax(axis=1).astype(np.int32)
    anchor, mode = runs.choose_run(posterior, anchor_bits)
    assert anchor.dtype == np.int32
    assert 0 <= mode < runs.MODES
    plain = runs.anchor_cost(likeliest, 0, anchor_bits).sum()
    assert runs.anchor_cost(anchor, mode, anchor_bits).sum() <= plain + 1e-9
    assert (
        two_part_bits(anchor, mode, posterior, anchor_bits)
        <= two_part_bits(likeliest, 0, posterior, anchor_bits) + 1e-9
    )


@pytest.mark.parametrize("images", [64, 256])
def test_neighbours_that_persist_cost_little_more_than_their_entropy(images: int) -> None:
    """A class that stays with probability 0.95 has 0.45 bit an image; at most 1.2 times that beyond the first."""
    codec, random = anchors_alone(), np.random.default_rng(0)
    table = codec.tables.anchor
    assert table is not None
    entropy_bits = -0.95 * np.log2(0.95) - 0.05 * np.log2(0.05 / 9)
    assert entropy_bits == pytest.approx(0.445, abs=1e-3)
    beyond_bits, payload_bits, wrong, messages = 0.0, 0, 0, 500
    for _ in range(messages):
        truth = markov(images, 0.95, random)
        anchor, mode = runs.choose_run(posterior_of(truth, 1 - 1e-9), UNIFORM_BITS)
        coded = codec.encode(np.zeros((images, 2), np.float32), Choice(anchor, np.zeros(images, np.int32), mode))
        beyond_bits += coded.ideal_bits - table.ideal_bits[anchor[0]]
        payload_bits += coded.payload_bits
        wrong += int((anchor != truth).sum())
    assert beyond_bits / (messages * (images - 1)) < 1.2 * entropy_bits
    assert payload_bits / messages < 8 + np.log2(CLASSES) + 1.2 * entropy_bits * (images - 1)
    assert wrong == 0


def test_a_doubtful_odd_frame_of_a_still_scene_is_named_as_its_neighbours_are() -> None:
    scene = np.full(32, 4, np.int32)
    posterior = posterior_of(scene, 0.99)
    posterior[15] = posterior_of(np.array([7]), 0.5)
    posterior[15, 4] = np.log(0.4)
    anchor, mode = runs.choose_run(posterior, UNIFORM_BITS)
    assert mode > 0
    assert np.array_equal(anchor, scene)


def test_a_confident_odd_frame_of_a_still_scene_keeps_its_name() -> None:
    scene = np.full(32, 4, np.int32)
    scene[15] = 7
    anchor, mode = runs.choose_run(posterior_of(scene, 1 - 1e-7), UNIFORM_BITS)
    assert mode > 0
    assert np.array_equal(anchor, scene)


def test_the_codec_smooths_by_what_the_head_says() -> None:
    parameters = replace(make_parameters(CLASSES, 4), named_by_head=True)
    codec = OperatingPoint.derive(parameters, "full", "test", 0.0625).codec
    logits = np.zeros((24, CLASSES), np.float32)
    logits[:, 2] = 8.0
    logits[11, 5] = 8.5
    choice = codec.choose(np.zeros((24, 4), np.float32), logits)
    assert choice.run > 0
    assert (choice.anchor == 2).all()
    logits[11, 5] = 30.0
    assert codec.choose(np.zeros((24, 4), np.float32), logits).anchor[11] == 5


@pytest.mark.parametrize("mode", range(1, runs.MODES))
@pytest.mark.parametrize(("images", "anchors"), [(2, 2), (3, 4), (5, 3)])
def test_viterbi_finds_what_trying_everything_finds(images: int, anchors: int, mode: int) -> None:
    random = np.random.default_rng(mode)
    everything = np.array(list(product(range(anchors), repeat=images)), np.int32)
    for _ in range(20):
        posterior = np.log(random.dirichlet(np.full(anchors, 0.3), images) + 1e-12)
        anchor_bits = -np.log2(random.dirichlet(np.ones(anchors)))
        costs = [two_part_bits(each, mode, posterior, anchor_bits) for each in everything]
        found = runs._smooth(-posterior / np.log(2), anchor_bits, mode)
        assert two_part_bits(found, mode, posterior, anchor_bits) == pytest.approx(min(costs), abs=1e-9)


@pytest.mark.parametrize("images", [1, 2, 64])
def test_one_anchor_needs_no_run(images: int) -> None:
    codec = codec_of(1, 3)
    choice = codec.choose(make_latents(codec.parameters, images))
    assert choice.run == 0
    assert not choice.anchor.any()


def test_a_run_that_names_other_anchors_is_refused() -> None:
    """The same images, their anchors said in another way: only the anchors themselves are in the checksum."""
    codec, images = anchors_alone(), 12
    anchor = np.repeat(np.array([1, 8], np.int32), 6)
    latent, level = np.zeros((images, 2), np.float32), np.zeros(images, np.int32)
    payloads = {run: codec.encode(latent, Choice(anchor, level, run)) for run in range(runs.MODES)}
    assert len({coded.payload for coded in payloads.values()}) == runs.MODES
    assert len({coded.crc32 for coded in payloads.values()}) == 1
    other = np.repeat(np.array([1, 9], np.int32), 6)
    coder = Encoder()
    coder.push(np.array([3], np.int32), runs.MODE_TABLE)
    coder.push(runs.flags(other), runs.FLAG_TABLES[2])
    assert codec.tables.anchor is not None
    coder.push(other[[0, 6]], codec.tables.anchor)
    with pytest.raises(CorruptPayloadError):
        codec.decode(coder.seal(), images, payloads[3].crc32)
