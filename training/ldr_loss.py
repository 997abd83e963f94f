"""The LDR loss: groups of latents made compact, all of them together made spread out (paper.md, Eq. 1 and 2).

    R(Z)       = 1/2 logdet(I + gamma1 d / (m eps2) Z Z^T)
    R_c(Z, Pi) = sum over groups j of m_j / (2 m) logdet(I + d / (m_j eps2) Z_j Z_j^T)
    loss       = R_c - gamma2 R                                  (minimised; nats)

Z is d x m, a column of unit norm a sample; group j has m_j of the m samples. Groups are the labels (Eq. 1), or the
augmentations of one image each (Eq. 2). ``eps2`` is the precision squared, gamma1 and gamma2 are those of the public
MCR2 code (Yu et al., 2020): 1 and 1 with labels, 20 and 0.05 with self-labels.
"""

import torch
from torch import Tensor


def ldr_loss(features: Tensor, groups: Tensor, eps2: float = 0.5, gamma1: float = 1.0, gamma2: float = 1.0) -> Tensor:
    """The loss of ``features`` (m, d), rows of unit norm, in ``groups`` (m,) of any integers: a float64 scalar.

    Computed in float64 whatever the autocast, for the matrices are small. Features that are no numbers give NaN.
    ValueError for shapes that do not fit or settings that are not above 0.
    """
    if features.ndim != 2 or groups.shape != features.shape[:1] or not len(features):
        raise ValueError(f"features must be (m, d) and groups (m,), not {(*features.shape,)} and {(*groups.shape,)}")
    if not (eps2 > 0 and gamma1 > 0 and gamma2 > 0):
        raise ValueError(f"eps2, gamma1 and gamma2 must be above 0, not {eps2}, {gamma1} and {gamma2}")
    with torch.autocast(features.device.type, enabled=False):
        rows = features.double()
        m, d = rows.shape
        grouped, sizes = _by_group(rows, groups)
        compact = (sizes / (2 * m) * _logdet(grouped, d / (sizes * eps2))).sum()
        spread = _logdet(rows[None], rows.new_tensor([gamma1 * d / (m * eps2)]))[0] / 2
        loss: Tensor = compact - gamma2 * spread
    return loss


def _by_group(rows: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """``rows`` (m, d) as (K, largest group, d), filled up with zeros, and the groups' sizes (K,) float64."""
    _, number, counts = torch.unique(groups, return_inverse=True, return_counts=True)
    order = torch.argsort(number, stable=True)
    first = torch.cumsum(counts, 0) - counts
    place = torch.arange(len(rows), device=rows.device) - first[number[order]]
    grouped = rows.new_zeros(len(counts), int(counts.max()), rows.shape[1])
    return grouped.index_put((number[order], place), rows[order]), counts.to(rows.dtype)


def _logdet(rows: Tensor, scale: Tensor) -> Tensor:
    """logdet(I + scale Z Z^T), (K,), of ``rows`` (K, n, d) = Z^T and ``scale`` (K,); zero rows change nothing.

    It equals logdet(I + scale Z^T Z), so the smaller of the two products is taken.
    """
    _, n, d = rows.shape
    gram = rows.mT @ rows if d <= n else rows @ rows.mT
    matrix = torch.eye(min(n, d), dtype=rows.dtype, device=rows.device) + scale[:, None, None] * gram
    factor, failed = torch.linalg.cholesky_ex(matrix)
    logdet = 2 * torch.diagonal(factor, dim1=1, dim2=2).log().sum(1)
    return torch.where(failed == 0, logdet, torch.nan)
