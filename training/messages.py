"""What a server gets of training images: really quantized latents, at operating points over the whole knob.

::

    image --crop, flip--> the bundle's encoder --latent--> the codec, at a drawn point --> latent, conditions
                          teachers' pairs      --> probabilities, averaged

Encoded once in a few passes of augmentation and kept; coded anew, at another point, each time they are drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentwire.bundle import Bundle
from latentwire.datasets import Dataset
from latentwire.operating_point import PLAIN_CONDITIONS, OperatingPoint
from training.augment import random_crop_flip, reflect_pad
from training.inference import OnnxGraph
from training.models import Pair

IMAGES_PER_MESSAGE = 64
POINTS = 33  # of a model's knob that are drawn from, its two ends among them, at equal ratios
ENCODED_AT_ONCE = 1024
Reals = NDArray[np.float32]
EMPTY: Reals = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Passes:
    """P passes of augmentation over N images: ``latent`` (P, N, d) and ``head_logits`` (P, N, K) float32, the latter
    None without a head; ``taught`` (P, N, K) float32, the teachers' mean probabilities, None without teachers;
    ``labels`` (N,) int64."""

    latent: Reals
    head_logits: Reals | None
    taught: Reals | None
    labels: NDArray[np.int64]


def encode_passes(
    encoder: OnnxGraph,
    teachers: Sequence[Pair],
    dataset: Dataset,
    passes: int,
    crop: int,
    flip: bool,
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Passes:
    """Encode ``dataset`` in as many ``passes``, each with crops and flips of its own that follow from ``seed``.

    ``crop`` and ``flip`` are those of ``training.loop.Walk``; ``teachers`` answer on their own device. InferenceError
    if the graph cannot take the images.
    """
    padded = reflect_pad(torch.from_numpy(dataset.images), crop)
    size = (dataset.images.shape[1], dataset.images.shape[2])
    found: dict[str, list[Reals]] = {"latent": [], "head_logits": [], "taught": []}
    for number in range(passes):
        progress(f"encoding {len(dataset)} images, pass {number + 1} of {passes}")
        generator = torch.Generator().manual_seed(passes * seed + number)
        parts: dict[str, list[Reals]] = {name: [] for name in found}
        for picks in torch.split(torch.arange(len(dataset)), ENCODED_AT_ONCE):
            images = random_crop_flip(padded, picks, size, flip, generator)
            for name, values in encoder.run(images.numpy()).items():
                parts[name].append(values)
            if teachers:
                parts["taught"].append(teach(teachers, images))
        for name, pieces in parts.items():
            found[name].append(np.concatenate(pieces) if pieces else EMPTY)
    whole = {name: np.stack(parts) for name, parts in found.items() if len(parts[0])}
    return Passes(whole["latent"], whole.get("head_logits"), whole.get("taught"), dataset.labels)


def teach(teachers: Sequence[Pair], images: Tensor) -> Reals:
    """The mean of the teachers' probabilities, (N, K) float32, for uint8 images (N, H, W, C)."""
    total = torch.zeros(())
    with torch.inference_mode():
        for teacher in teachers:
            logits, _ = teacher(images.to(next(teacher.parameters()).device))
            total = total + logits.float().softmax(1).cpu()
    mean: Reals = (total / len(teachers)).numpy()
    return mean


class Messages:
    """Batches of images as a server sees them, at points drawn from a variant's knobs; ``training.loop.Inputs``.

    ``width`` is how many conditions go with a latent. Half the messages are of the default model, the others of the
    rest, all equally often.
    """

    def __init__(self, bundle: Bundle, variant: str, passes: Passes, device: torch.device) -> None:
        """Derive the points, for batches on ``device``; BundleCorruptError if the bundle's models are none."""
        entry = bundle.manifest.variant(variant)
        names = [entry.default_model, *(name for name in entry.models if name != entry.default_model)]
        self.points = [_points(bundle, variant, name) for name in names]
        self.width = PLAIN_CONDITIONS + max(len(points[0].codec.anchors) for points in self.points)
        self._passes, self._device = passes, device

    def draw(self, epoch: int, picks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The images ``picks`` (B,) in the epoch's pass, coded and decoded again.

        Returns float32 (B, d + ``width`` [+ K]), an image's latent, its conditions, and what the teachers say of it
        where there are any; and the labels (B,).
        """
        number, rows = epoch % len(self._passes.latent), []
        for part in torch.split(picks, IMAGES_PER_MESSAGE):
            rows.append(self._coded(number, part.numpy(), self._draw_point(generator)))
        labels = torch.from_numpy(self._passes.labels[picks.numpy()])
        return torch.from_numpy(np.concatenate(rows)).to(self._device), labels.to(self._device)

    def _draw_point(self, generator: torch.Generator) -> OperatingPoint:
        of_default, model, point = torch.rand(3, generator=generator).tolist()
        others = self.points[1:]
        points = others[int(model * len(others))] if others and of_default < 0.5 else self.points[0]
        return points[int(point * len(points))]

    def _coded(self, number: int, picks: NDArray[np.int64], point: OperatingPoint) -> Reals:
        passes, codec = self._passes, point.codec
        latent = passes.latent[number, picks]
        head = None if passes.head_logits is None else passes.head_logits[number, picks]
        message = codec.encode(latent, codec.choose(latent, head))
        decoded = codec.decode(message.payload, message.images, message.crc32)
        parts = [decoded.latent, point.conditions(decoded.anchor, decoded.level, self.width)]
        if passes.taught is not None:
            parts.append(passes.taught[number, picks])
        return np.concatenate(parts, axis=1)


def _points(bundle: Bundle, variant: str, model: str) -> list[OperatingPoint]:
    parameters = bundle.codec_parameters(variant, model)
    scales = np.geomspace(parameters.rate_min, parameters.rate_max, POINTS)
    # geomspace may miss the ends by a digit, and beyond them there is no point
    scales = np.clip(scales, parameters.rate_min, parameters.rate_max)
    return [OperatingPoint.derive(parameters, variant, model, scale) for scale in scales.tolist()]
