"""Augmented views of whole batches, as the public MCR2 code makes them for self-labels (Yu et al., 2020).

Random resized crops, mirror images, colour jitter and grey, with torchvision's distributions. Two differences make
whole batches possible: the order of the four colour changes is drawn once a batch, not once an image, and a crop that
would leave the image is cut to it instead of drawn again.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

GREY = (0.299, 0.587, 0.114)  # ITU-R 601


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """How a view may differ: the share of the area that a crop keeps (``scale``) and its shape (``ratio``), mirror
    images (``flip``), strength and probability of colour changes, probability of grey. ValueError if out of range."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter: float = 0.8
    grey: float = 0.2

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must rise within 0 to 1, not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must rise above 0, not {self.ratio}")
        for name in ("brightness", "contrast", "saturation", "jitter", "grey"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, not {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must be 0 to 0.5, not {self.hue}")


@dataclass(frozen=True, slots=True)
class SelfLabels:
    """A batch of Eq. (2): ``views`` views of each of ``images`` images (a batch has fewer if the data has)."""

    images: int = 20
    views: int = 50
    config: ViewConfig = ViewConfig()

    def __post_init__(self) -> None:
        """Refuse batches without groups."""
        if self.images < 2 or self.views < 2:
            raise ValueError(f"self-labels need at least 2 images of 2 views, not {self.images} of {self.views}")


def self_labelled(images: Tensor, views: int, config: ViewConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``views`` views of each of ``images`` (n, H, W, C) uint8: (n x views, H, W, C) uint8 and the images' numbers
    (n x views,) int64, by which Eq. (2) groups them.
    """
    numbers = torch.arange(len(images), device=images.device).repeat_interleave(views)
    return make_views(images[numbers], config, generator), numbers


def make_views(images: Tensor, config: ViewConfig, generator: torch.Generator) -> Tensor:
    """A view of each image, uint8 (N, H, W, C). All that is random is drawn from ``generator``, on the CPU."""
    x = images.permute(0, 3, 1, 2).float() / 255
    x = _crop(x, config, generator)
    if x.shape[1] == 3:  # grey images have no colour to change
        x = _recolour(x, config, generator)
    return (x * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _crop(x: Tensor, config: ViewConfig, generator: torch.Generator) -> Tensor:
    """A random part of each image (N, C, H, W), resized to the whole's size; half of them mirrored."""
    count, _, height, width = x.shape
    area = _uniform(count, *config.scale, generator)
    ratio = _uniform(count, math.log(config.ratio[0]), math.log(config.ratio[1]), generator).exp()
    # shares of the image's sides; the ratio is that of the crop in pixels
    across = (area * ratio * height / width).sqrt().clamp(max=1)
    down = (area / ratio * width / height).sqrt().clamp(max=1)
    right = _uniform(count, -1, 1, generator) * (1 - across)  # the crop's centre, in -1..1
    below = _uniform(count, -1, 1, generator) * (1 - down)
    mirrored = torch.rand(count, generator=generator) < 0.5
    if config.flip:
        across = torch.where(mirrored, -across, across)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2], theta[:, 1, 1], theta[:, 1, 2] = across, right, down, below
    grid = F.affine_grid(theta.to(x.device), [*x.shape], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _recolour(x: Tensor, config: ViewConfig, generator: torch.Generator) -> Tensor:
    count = len(x)
    changed = x
    for kind in torch.randperm(4, generator=generator).tolist():
        name = ("brightness", "contrast", "saturation", "hue")[kind]
        strength = getattr(config, name)
        draw = _uniform(count, -strength, strength, generator).to(x.device).view(-1, 1, 1, 1)
        if name == "hue":
            changed = _turn_hue(changed, draw)
        else:
            base = {
                "brightness": torch.zeros_like(changed[:, :1]),
                "contrast": _grey(changed).mean((2, 3), keepdim=True),
                "saturation": _grey(changed),
            }[name]
            changed = (base + (1 + draw) * (changed - base)).clamp(0, 1)
    jittered = (torch.rand(count, generator=generator) < config.jitter).view(-1, 1, 1, 1).to(x.device)
    x = torch.where(jittered, changed, x)
    greyed = (torch.rand(count, generator=generator) < config.grey).view(-1, 1, 1, 1).to(x.device)
    return torch.where(greyed, _grey(x), x)


def _grey(x: Tensor) -> Tensor:
    weights = x.new_tensor(GREY).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def _turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """``x`` (N, 3, H, W) in 0..1 with its hue moved by ``turn`` (N, 1, 1, 1), in turns of the colour circle."""
    value, spread = x.amax(1, keepdim=True), x.amax(1, keepdim=True) - x.amin(1, keepdim=True)
    r, g, b = x[:, :1], x[:, 1:2], x[:, 2:]
    safe = spread.clamp(min=1e-8)
    sixths = torch.where(
        value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    )  # where there is no spread the hue does not matter
    k = (x.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1) + sixths + 6 * turn) % 6
    return value - spread * torch.minimum(k, 4 - k).clamp(0, 1)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
