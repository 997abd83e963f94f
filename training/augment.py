"""Random crops and flips of a whole batch of uint8 images at once."""

import torch
from torch import Tensor
from torch.nn import functional as F


def reflect_pad(images: Tensor, pad: int) -> Tensor:
    """Images (N, H, W, C) uint8 with a mirrored border of ``pad`` pixels, no wider than the image allows.

    Done once for a whole data set, so that a batch's crops are a single gather.
    """
    pad = min(pad, images.shape[1] - 1, images.shape[2] - 1)
    if pad <= 0:
        return images
    rows, columns = (_mirrored(images.shape[axis], pad).to(images.device) for axis in (1, 2))
    return images[:, rows][:, :, columns]


def random_crop_flip(
    padded: Tensor, picks: Tensor, size: tuple[int, int], flip: bool, generator: torch.Generator
) -> Tensor:
    """The images ``picks`` (B,) of ``padded`` (N, H', W', C), each cropped to ``size`` at its own place and, if
    ``flip``, mirrored half the time: (B, H, W, C) uint8. ``generator`` is on the CPU, whatever the images' device.
    """
    batch, device = len(picks), padded.device
    height, width = size
    top = torch.randint(padded.shape[1] - height + 1, (batch, 1), generator=generator)
    left = torch.randint(padded.shape[2] - width + 1, (batch, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    if flip:
        mirrored = torch.rand((batch, 1), generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    picks, rows, columns = picks.to(device), rows.to(device), columns.to(device)
    return padded[picks[:, None, None], rows[:, :, None], columns[:, None, :]]


def _mirrored(size: int, pad: int) -> Tensor:
    """Indices (size + 2 pad,) that run ``pad`` past both ends and come back."""
    return F.pad(torch.arange(size).float()[None], (pad, pad), mode="reflect")[0].long()
