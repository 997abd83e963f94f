"""Augmentations over whole batches of images, uint8 (B, H, W, C)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def reflect_pad(images: Tensor, border: int) -> Tensor:
    """uint8 (N, H, W, C) with ``border`` mirrored pixels on each side; at most one less than the image has."""
    height, width = images.shape[1:3]
    border = min(border, height - 1, width - 1)
    if border <= 0:
        return images
    # reflection is not implemented for uint8, so in parts, or a large data set would be held four times over
    parts = [
        F.pad(part.permute(0, 3, 1, 2).float(), (border,) * 4, mode="reflect").to(torch.uint8).permute(0, 2, 3, 1)
        for part in torch.split(images, 4096)
    ]
    return torch.cat(parts).contiguous()


def random_crop_flip(
    padded: Tensor, picks: Tensor, size: tuple[int, int], flip: bool, generator: torch.Generator
) -> Tensor:
    """Random crops of ``size`` (h, w) from the images ``picks`` (B,) of a padded set, half of them mirrored if
    ``flip``; uint8 (B, h, w, C). All that is random is drawn from ``generator``, on the CPU.
    """
    (height, width), device = size, padded.device
    count = len(picks)
    top = torch.randint(0, padded.shape[1] - height + 1, (count, 1, 1), generator=generator)
    left = torch.randint(0, padded.shape[2] - width + 1, (count, 1, 1), generator=generator)
    columns = torch.arange(width).view(1, 1, -1).expand(count, 1, -1)
    if flip:
        mirrored = torch.rand(count, 1, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(2), columns)
    rows = top + torch.arange(height).view(1, -1, 1)
    return padded[picks.view(-1, 1, 1).to(device), rows.to(device), (left + columns).to(device)]
