"""Frames -> coded messages: encode, drop what is not finite, choose, code. Runs in a worker thread."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_sensor.encoder import EncodeMeter, Encoder, Latents
from edge_sensor.frame_queue import FrameQueue
from edge_sensor.sources import Frame
from edge_sensor.window import CodedMessage, Picture
from latentwire.bundle import Bundle
from latentwire.codec.latent_codec import EncodedBatch
from latentwire.errors import InferenceError, MalformedMessageError, NonFiniteLatentError
from latentwire.messages import LatentBatch, OperatingPointName
from latentwire.operating_point import OperatingPoint
from latentwire.wire import from_sensor_to_proto, grpc_bytes

_HOPELESS_IMAGES = 1000
_TOO_LARGE = MalformedMessageError.__name__

Observer = Callable[[CodedMessage, EncodedBatch], None]
OnDrop = Callable[[str, str], None]
OVER_CAP = "over_cap"  # why an image is dropped: it takes more bits than an image, or a message, may


@dataclass(frozen=True, slots=True)
class Caps:
    """What is never passed, at any rate: an image's own ideal bits, and a message's payload bits."""

    image_bits: float = math.inf
    message_bits: float = math.inf


@dataclass(frozen=True, slots=True)
class Tuning:
    """What images are coded with now.

    The operating point, its name on the wire, the variant's encoder, and the bundle that both are of.
    ``on_trial``: the encoder has yet to prove itself, so what would drop an image is its failure instead.
    """

    point: OperatingPoint
    name: OperatingPointName
    encoder: Encoder
    bundle: Bundle
    on_trial: bool = False


class MessageCoder:
    """Takes frames from the queue and makes messages of them.

    ``dropped`` is told item and reason of every image that cannot be coded; ``observer``, if any, sees every
    message with the symbols it codes. Both are called in the worker thread.
    """

    def __init__(
        self,
        queue: FrameQueue,
        dropped: OnDrop,
        delay_s: float,
        observer: Observer | None = None,
        caps: Caps = Caps(),
    ) -> None:
        self._queue = queue
        self._dropped = dropped
        self._delay_s = delay_s
        self._observer = observer
        self._caps = caps
        self.meter = EncodeMeter()
        self._coded = 0
        self._lost = 0
        self._frames: list[Frame] = []  # taken from the queue and not yet coded

    def next_messages(
        self, tuning: Tuning, first_sequence: int, images: int, max_payload_bytes: int
    ) -> list[CodedMessage] | None:
        """Wait for up to ``images`` frames and code them, numbered from ``first_sequence`` on.

        Mostly one message; none when no frame could be coded; several when a payload would pass the server's
        limit.
        None: the source has ended. Raises the source's error, or InferenceError; then no frame is lost: the next
        call codes the same ones, maybe with another encoder.
        """
        if not self._frames:
            taken = self._queue.take(images, self._delay_s)
            if not taken:
                return None if taken is None else []
            self._frames = taken
        frames = self._frames[:images]
        latents = self.meter.encode(tuning.encoder, np.stack([frame.image for frame in frames]))
        finite, latents = self._finite(frames, latents, tuning.on_trial)
        messages = self._code(tuning, finite, latents, first_sequence, max_payload_bytes) if finite else []
        del self._frames[: len(frames)]
        return messages

    def _finite(self, frames: list[Frame], latents: Latents, on_trial: bool) -> tuple[list[Frame], Latents]:
        """Only the rows that can be quantized; a bundle that gives none at all is reported as broken."""
        finite = _finite_rows(latents.latent)
        if latents.head_logits is not None:
            finite &= _finite_rows(latents.head_logits)
        if finite.all():
            return frames, latents
        if on_trial:
            raise InferenceError(f"the encoder gives latents that are no numbers for {frames[0].item}")
        for row in np.flatnonzero(~finite):
            self._drop(frames[row], NonFiniteLatentError.__name__)
        if self._lost >= _HOPELESS_IMAGES and not self._coded and not finite.any():
            raise InferenceError(f"the encoder gave no usable latent in {self._lost} images; export the bundle again")
        head = None if latents.head_logits is None else latents.head_logits[finite]
        kept_frames = [frames[row] for row in np.flatnonzero(finite)]
        return kept_frames, Latents(latents.latent[finite], head)

    def _code(
        self, tuning: Tuning, frames: list[Frame], latents: Latents, first: int, max_payload_bytes: int
    ) -> list[CodedMessage]:
        codec = tuning.point.codec
        choice = codec.choose(latents.latent, latents.head_logits)
        coded = codec.encode(latents.latent, choice)
        if (over := coded.image_bits > self._caps.image_bits).any():
            # At its anchor an image costs least. One whose anchor alone is too much is left out.
            choice = replace(choice, level=np.where(over, 0, choice.level).astype(np.int32))
            coded = codec.encode(latents.latent, choice)
            if (over := coded.image_bits > self._caps.image_bits).any():
                return self._without(over, tuning, frames, latents, first, max_payload_bytes)
        if 8 * len(coded.payload) > min(8 * max_payload_bytes, self._caps.message_bits):
            return self._halves(tuning, frames, latents, first, max_payload_bytes)
        batch = LatentBatch(first, len(frames), tuning.name.id, coded.payload, coded.crc32)
        pictures = map(Picture.of, frames, coded.level.tolist(), coded.image_bits.tolist())
        grpc_bits = 8 * grpc_bytes(from_sensor_to_proto(batch))
        message = CodedMessage(batch, tuning.name, tuple(pictures), grpc_bits, place=frames[-1].place)
        self._coded += len(frames)
        if self._observer is not None:
            self._observer(message, coded)
        return [message]

    def _halves(
        self, tuning: Tuning, frames: list[Frame], latents: Latents, first: int, max_payload_bytes: int
    ) -> list[CodedMessage]:
        """Code a message that is over the server's limit, or the cap, as two.

        A single image that is over it is dropped.
        """
        if len(frames) == 1:
            self._drop(frames[0], OVER_CAP if self._caps.message_bits < 8 * max_payload_bytes else _TOO_LARGE)
            return []
        messages: list[CodedMessage] = []
        middle = len(frames) // 2
        for rows in (slice(None, middle), slice(middle, None)):
            head = None if latents.head_logits is None else latents.head_logits[rows]
            half = Latents(latents.latent[rows], head)
            next_first = messages[-1].end if messages else first
            messages += self._code(tuning, frames[rows], half, next_first, max_payload_bytes)
        return messages

    def _without(
        self,
        over: NDArray[np.bool_],
        tuning: Tuning,
        frames: list[Frame],
        latents: Latents,
        first: int,
        max_payload_bytes: int,
    ) -> list[CodedMessage]:
        """Code a message less the images that are over the cap."""
        for row in np.flatnonzero(over):
            self._drop(frames[row], OVER_CAP)
        kept = [frames[row] for row in np.flatnonzero(~over)]
        head = None if latents.head_logits is None else latents.head_logits[~over]
        rest = Latents(latents.latent[~over], head)
        return self._code(tuning, kept, rest, first, max_payload_bytes) if kept else []

    def _drop(self, frame: Frame, reason: str) -> None:
        self._lost += 1
        self._dropped(frame.item, reason)


def _finite_rows(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(array), axis=1)
    return finite
