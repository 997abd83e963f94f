"""What a camera does to pictures, at a strength: to see how robust a pair is (paper, section 4.2)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as F

BATCH = 1000

# kind -> strengths measured; rotation in degrees, flips without strength, colours as the paper's jitter factor
STRENGTHS: dict[str, tuple[float, ...]] = {
    "rotation": (10.0, 20.0, 30.0),
    "horizontal flip": (1.0,),
    "vertical flip": (1.0,),
    "colour jitter": (0.2, 0.4, 0.8),
}


def distort(images: NDArray[np.uint8], kind: str, strength: float, seed: int = 0) -> NDArray[np.uint8]:
    """``images`` (N, H, W, C) distorted, each by its own draw of the same ``seed``; ValueError for an unknown kind.

    Rotation turns by an angle drawn from +-``strength`` degrees, bilinearly, the corners mirrored; colour jitter draws
    factors for brightness, contrast and saturation from 1 +- ``strength`` (grey images: the first two).
    """
    if kind not in STRENGTHS:
        raise ValueError(f"a distortion is one of {', '.join(STRENGTHS)}, not {kind!r}")
    generator = np.random.default_rng(seed)
    out = np.empty_like(images)
    for start in range(0, len(images), BATCH):
        part = torch.from_numpy(images[start : start + BATCH]).permute(0, 3, 1, 2)
        out[start : start + BATCH] = _distort(part, kind, strength, generator).permute(0, 2, 3, 1).numpy()
    return out


def _distort(images: torch.Tensor, kind: str, strength: float, generator: np.random.Generator) -> torch.Tensor:
    if kind == "horizontal flip":
        return images.flip(3)
    if kind == "vertical flip":
        return images.flip(2)
    draws = generator.uniform(-strength, strength, (len(images), 3))
    each = _rotate if kind == "rotation" else _recolour
    return torch.stack([each(image, draw) for image, draw in zip(images, draws, strict=True)])


def _rotate(image: torch.Tensor, draw: NDArray[np.float64]) -> torch.Tensor:
    border = min(image.shape[1:]) // 2 - 1
    padded = F.pad(image, [border] * 4, padding_mode="reflect") if border > 0 else image
    turned = F.rotate(padded, float(draw[0]), F.InterpolationMode.BILINEAR)
    cropped: torch.Tensor = F.center_crop(turned, list(image.shape[1:]))
    return cropped


def _recolour(image: torch.Tensor, draw: NDArray[np.float64]) -> torch.Tensor:
    brightness, contrast, saturation = np.maximum(1 + draw, 0).tolist()
    image = F.adjust_contrast(F.adjust_brightness(image, brightness), contrast)
    return F.adjust_saturation(image, saturation) if image.shape[0] == 3 else image
