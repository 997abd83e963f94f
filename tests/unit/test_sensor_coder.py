"""Encoding and coding: what becomes a message, what is dropped, what ends the run."""

from pathlib import Path

import factories
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_sensor.coder import Caps, MessageCoder, Tuning
from edge_sensor.encoder import Latents, OnnxEncoder
from edge_sensor.frame_queue import FrameQueue
from edge_sensor.sources import Frame
from edge_sensor.tuner import Tuner
from edge_sensor.window import CodedMessage
from latentwire.bundle import Bundle, InputSpec, load_bundle
from latentwire.codec.latent_codec import EncodedBatch
from latentwire.errors import InferenceError, RateScaleError, UnknownVariantError
from latentwire.messages import OperatingPointName, SetOperatingPoint
from latentwire.operating_point import OperatingPoints

SPEC = InputSpec(factories.SIDE, factories.SIDE, 1, "L")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "b"
    factories.make_bundle(folder, variants=("full", "small"), head=True)
    return load_bundle(folder, "sensor")


def tuner(bundle: Bundle) -> Tuner:
    return Tuner(bundle, OperatingPoints(bundle), threads=1, batch_images=4)


class FixedEncoder:
    """Gives latents laid down beforehand."""

    def __init__(self, latent: NDArray[np.float32]) -> None:
        self.latent = latent
        self.at = 0

    def encode(self, images: NDArray[np.uint8]) -> Latents:
        rows = self.latent[self.at : self.at + len(images)]
        self.at += len(images)
        return Latents(rows, None)


class Coding:
    """A coder with ``count`` images in its queue."""

    def __init__(
        self,
        bundle: Bundle,
        count: int,
        latent: NDArray[np.float32] | None = None,
        rate_scale: float | None = None,
        caps: Caps | None = None,
    ) -> None:
        images, _ = factories.make_images(count)
        self.queue = FrameQueue(count)
        for number, image in enumerate(images):
            self.queue.put(Frame(str(number), image, None, 0.0), live=False)
        self.queue.end()
        self.drops: list[tuple[str, str]] = []
        self.seen: list[tuple[CodedMessage, EncodedBatch]] = []
        self.coder = MessageCoder(
            self.queue,
            lambda item, reason: self.drops.append((item, reason)),
            delay_s=0.0,
            observer=lambda *seen: self.seen.append(seen),
            caps=caps or Caps(),
        )
        point = tuner(bundle).point(None, "anchored", rate_scale)
        encoder = tuner(bundle).encoder("full") if latent is None else FixedEncoder(latent)
        name = OperatingPointName(3, point.variant, point.model, point.rate_scale, point.digest)
        self.tuning = Tuning(point, name, encoder, bundle)

    def next(self, first: int, images: int, max_payload_bytes: int = 1 << 20) -> list[CodedMessage] | None:
        return self.coder.next_messages(self.tuning, first, images, max_payload_bytes)


def test_a_message_decodes_to_the_symbols_that_the_observer_saw(bundle: Bundle) -> None:
    coding = Coding(bundle, 10)
    (message,) = coding.next(5, 10) or []
    ((seen, coded),) = coding.seen
    assert seen is message
    assert (message.batch.first_sequence, message.batch.images, message.batch.operating_point) == (5, 10, 3)
    decoded = coding.tuning.point.codec.decode(message.batch.payload, 10, message.batch.crc32)
    assert (decoded.indices == coded.indices).all()
    assert [picture.level for picture in message.pictures] == decoded.level.tolist()
    assert sum(picture.ideal_bits for picture in message.pictures) == pytest.approx(coded.ideal_bits)
    assert message.grpc_bits > coded.payload_bits
    assert coding.next(15, 10) is None


def test_only_as_many_images_as_asked_for_are_taken(bundle: Bundle) -> None:
    coding = Coding(bundle, 5)
    sizes = [(coding.next(0, 2) or [])[0].batch.images for _ in range(3)]
    assert sizes == [2, 2, 1]


def test_images_without_a_finite_latent_are_dropped_before_coding(bundle: Bundle) -> None:
    latent = np.zeros((5, factories.D), np.float32)
    latent[1, 2] = np.nan
    latent[4, 0] = np.inf
    coding = Coding(bundle, 5, latent)
    (message,) = coding.next(0, 5) or []
    assert [picture.item for picture in message.pictures] == ["0", "2", "3"]
    assert message.batch.images == 3
    assert coding.drops == [("1", "NonFiniteLatentError"), ("4", "NonFiniteLatentError")]


def test_a_message_of_nothing_but_broken_latents_is_no_message(bundle: Bundle) -> None:
    coding = Coding(bundle, 3, np.full((3, factories.D), np.nan, np.float32))
    assert coding.next(0, 3) == []
    assert len(coding.drops) == 3


def test_an_encoder_that_never_gives_a_latent_ends_the_run(bundle: Bundle) -> None:
    coding = Coding(bundle, 1200, np.full((1200, factories.D), np.nan, np.float32))
    with pytest.raises(InferenceError, match="no usable latent"):
        while coding.next(0, 100) is not None:
            pass
    assert len(coding.drops) == 1000


def test_a_payload_over_the_servers_limit_is_split(bundle: Bundle) -> None:
    coding = Coding(bundle, 16)
    (whole,) = Coding(bundle, 16).next(0, 16) or []
    limit = len(whole.batch.payload) // 2
    parts = coding.next(7, 16, limit) or []
    assert len(parts) >= 2
    assert max(len(part.batch.payload) for part in parts) <= limit
    assert [part.batch.first_sequence for part in parts] == [7, *(part.end for part in parts[:-1])]
    assert [p.item for part in parts for p in part.pictures] == [str(number) for number in range(16)]


def test_a_single_image_over_the_servers_limit_is_dropped(bundle: Bundle) -> None:
    coding = Coding(bundle, 2, np.array([[1e6] * factories.D, [0.0] * factories.D], np.float32))
    coding.tuning = Tuning(
        tuner(bundle).point(None, "gaussian", factories.RATE_MAX), coding.tuning.name, coding.tuning.encoder, bundle
    )
    (message,) = coding.next(0, 2, 8) or []
    assert [picture.item for picture in message.pictures] == ["1"]
    assert message.batch.first_sequence == 0
    assert coding.drops == [("0", "MalformedMessageError")]


def test_the_encoder_runs_in_batches_and_gives_what_the_graph_gives(bundle: Bundle) -> None:
    images, _ = factories.make_images(11)
    latents = tuner(bundle).encoder("full").encode(images)
    assert latents.latent == pytest.approx(factories.make_latents(images), abs=1e-4)
    assert latents.head_logits is not None
    assert latents.head_logits.shape == (11, factories.D)


@pytest.mark.parametrize("content", [b"", b"junk" * 100])
def test_a_file_that_is_no_graph_is_an_inference_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(content)
    with pytest.raises(InferenceError, match="export the bundle again"):
        OnnxEncoder(path, SPEC, factories.D, threads=1, batch_images=4)


def test_a_decoder_is_no_encoder(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(factories.decoder_onnx())
    with pytest.raises(InferenceError, match="is no encoder of 8 x 8 images"):
        OnnxEncoder(path, SPEC, factories.D, threads=1, batch_images=4)


def test_an_encoder_of_other_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(factories.encoder_onnx())
    with pytest.raises(InferenceError, match="is no encoder of 9 x 8 images"):
        OnnxEncoder(path, InputSpec(9, 8, 1, "L"), factories.D, threads=1, batch_images=4)


def test_an_encoder_of_another_width_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(factories.encoder_onnx())
    encoder = OnnxEncoder(path, SPEC, factories.D + 1, threads=1, batch_images=4)
    with pytest.raises(InferenceError, match="latents of shape"):
        encoder.encode(factories.make_images(2)[0])


def test_defaults_are_the_bundles(bundle: Bundle) -> None:
    point = tuner(bundle).point(None, None, None)
    assert (point.variant, point.model, point.rate_scale) == ("full", "gaussian", factories.RATE_DEFAULT)


@pytest.mark.parametrize("rate_scale", [0.0, -1.0, float("nan"), float("inf"), 1e30, factories.RATE_MAX * 1.01])
def test_a_rate_scale_out_of_range_is_refused(bundle: Bundle, rate_scale: float) -> None:
    with pytest.raises(RateScaleError):
        tuner(bundle).point(None, None, rate_scale)


@pytest.mark.parametrize(("variant", "model"), [("huge", None), (None, "fancy")])
def test_a_name_the_bundle_lacks_is_refused(bundle: Bundle, variant: str | None, model: str | None) -> None:
    with pytest.raises(UnknownVariantError):
        tuner(bundle).point(variant, model, None)


def test_a_command_changes_what_it_names_and_keeps_the_rest(bundle: Bundle) -> None:
    tune = tuner(bundle)
    now = tune.point("full", "anchored", 3.0)
    changed = [
        tune.changed(now, SetOperatingPoint(1, rate_scale=4.0)),
        tune.changed(now, SetOperatingPoint(1, variant="small")),
        tune.changed(now, SetOperatingPoint(1, model="gaussian")),
    ]
    assert [(p.variant, p.model, p.rate_scale) for p in changed] == [
        ("full", "anchored", 4.0),
        ("small", "anchored", 3.0),
        ("full", "gaussian", 3.0),
    ]


def far_out(count: int) -> NDArray[np.float32]:
    """Latents at the first anchor, every third so far from all of them that its residual costs much."""
    latent = np.tile(np.array([factories.ANCHOR, 0, 0, 0], np.float32), (count, 1))
    latent[::3] += np.array([500.0, 400.0, 300.0, 200.0], np.float32)
    return latent


def test_an_image_over_the_cap_is_sent_as_its_anchor_alone(bundle: Bundle) -> None:
    plain = Coding(bundle, 9, far_out(9), rate_scale=factories.RATE_MAX)
    capped = Coding(bundle, 9, far_out(9), rate_scale=factories.RATE_MAX, caps=Caps(image_bits=40.0))
    (free,), (held,) = plain.next(0, 9) or [], capped.next(0, 9) or []
    assert max(picture.ideal_bits for picture in free.pictures) > 40
    assert max(picture.ideal_bits for picture in held.pictures) <= 40
    assert [picture.level for picture in held.pictures] == [0, 1, 1] * 3
    assert capped.drops == []
    ((_, coded),) = capped.seen
    decoded = capped.tuning.point.codec.decode(held.batch.payload, 9, held.batch.crc32)
    assert (decoded.level == coded.level).all(), "and what is sent decodes"


def test_an_image_that_no_level_brings_under_the_cap_is_dropped(bundle: Bundle) -> None:
    coding = Coding(bundle, 6, far_out(6), rate_scale=factories.RATE_MAX, caps=Caps(image_bits=8.0))
    messages = coding.next(4, 6) or []
    sent = [picture for message in messages for picture in message.pictures]
    assert all(picture.ideal_bits <= 8 for picture in sent)
    assert len(sent) + len(coding.drops) == 6
    assert {reason for _, reason in coding.drops} == {"over_cap"}
    assert coding.drops, "at this rate scale level 0 is so improbable that it costs 24 bits"
    assert [message.batch.first_sequence for message in messages] == [4][: len(messages)]


@pytest.mark.parametrize("cap", [64, 100, 1000])
def test_no_message_passes_the_cap_and_none_of_its_images_is_lost(bundle: Bundle, cap: int) -> None:
    images, _ = factories.make_images(64)
    coding = Coding(
        bundle, 64, factories.make_latents(images), rate_scale=factories.RATE_MAX, caps=Caps(message_bits=cap)
    )
    messages = coding.next(0, 64) or []
    assert max(8 * len(message.batch.payload) for message in messages) <= cap
    assert [s for m in messages for s in range(m.batch.first_sequence, m.end)] == list(range(64))
    assert coding.drops == []
