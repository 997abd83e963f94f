"""training.ldr_loss against the formulas as written, with dense matrices, in numpy's float64."""

import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from training.ldr_loss import ldr_loss


def reference(
    z: NDArray[np.float64], labels: NDArray[np.int64], eps2: float, gamma1: float, gamma2: float
) -> np.float64:
    """Eq. (1) of paper.md with dense memberships; ``z`` is d x m."""
    d, m = z.shape
    rate = 0.5 * np.linalg.slogdet(np.eye(d) + gamma1 * d / (m * eps2) * z @ z.T)[1]
    compact = np.float64(0)
    for label in np.unique(labels):
        pi = np.diag((labels == label).astype(np.float64))
        members = np.trace(pi)
        compact += members / (2 * m) * np.linalg.slogdet(np.eye(d) + d / (members * eps2) * z @ pi @ z.T)[1]
    return np.float64(compact - gamma2 * rate)


def some_features(m: int, d: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(m, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(
    ("m", "d", "classes", "eps2", "gamma1", "gamma2"),
    [
        (60, 8, 5, 0.5, 1.0, 1.0),  # d x d
        (30, 40, 6, 0.5, 1.0, 1.0),  # more entries than samples: m_j x m_j
        (100, 16, 2, 0.01, 20.0, 0.05),
        (12, 4, 12, 0.5, 1.0, 1.0),  # groups of one
        (12, 4, 1, 2.0, 1.0, 1.0),  # one group
        (1, 3, 1, 0.5, 1.0, 1.0),
    ],
)
def test_it_is_the_formula(m: int, d: int, classes: int, eps2: float, gamma1: float, gamma2: float) -> None:
    features = some_features(m, d)
    labels = np.random.default_rng(1).integers(0, classes, m) * 7 - 3  # any integers
    wanted = reference(features.numpy().T, labels, eps2, gamma1, gamma2)
    groups = torch.from_numpy(labels)
    assert abs(float(ldr_loss(features, groups, eps2, gamma1, gamma2)) - wanted) < 1e-10
    assert abs(float(ldr_loss(features.float(), groups, eps2, gamma1, gamma2)) - wanted) < 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        assert abs(float(ldr_loss(features, groups, eps2, gamma1, gamma2)) - wanted) < 1e-10


@pytest.mark.parametrize(("m", "d"), [(9, 4), (6, 7)])
def test_gradients(m: int, d: int) -> None:
    features = some_features(m, d).requires_grad_()
    groups = torch.arange(m) % 3
    assert torch.autograd.gradcheck(lambda x: ldr_loss(F.normalize(x), groups, 0.5, 1.0, 1.0), features)
    assert torch.autograd.gradcheck(lambda x: ldr_loss(x, groups, 0.5, 20.0, 0.05), features)


def test_the_order_of_samples_and_the_names_of_groups_do_not_matter() -> None:
    features, groups = some_features(50, 6), torch.arange(50) % 4
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    first, second = ldr_loss(features, groups), ldr_loss(features[order], 100 - groups[order])
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


def test_classes_on_axes_of_their_own_are_best() -> None:
    groups = torch.arange(40) % 4
    apart = F.one_hot(groups, 8).double()
    heap = torch.ones(40, 8, dtype=torch.float64) / 8**0.5
    assert ldr_loss(apart, groups) < ldr_loss(some_features(40, 8), groups) < -1e-3
    assert abs(float(ldr_loss(heap, groups))) < 1e-12  # nothing told apart, nothing gained


def test_a_hundred_classes_in_a_batch_of_a_thousand_take_milliseconds() -> None:
    features, groups = some_features(1000, 128).float().requires_grad_(), torch.arange(1000) % 100
    ldr_loss(features, groups).backward()
    started = time.perf_counter()
    for _ in range(3):
        ldr_loss(features, groups).backward()
    assert (time.perf_counter() - started) / 3 < 0.5  # a dense m x m mask a class takes many times that


def test_no_numbers_give_nan_and_wrong_shapes_are_refused() -> None:
    features, groups = some_features(6, 3), torch.arange(6)
    assert torch.isnan(ldr_loss(features * torch.nan, groups))
    with pytest.raises(ValueError, match="features must be"):
        ldr_loss(features, groups[:5])
    with pytest.raises(ValueError, match="features must be"):
        ldr_loss(features[:0], groups[:0])
    with pytest.raises(ValueError, match="must be above 0"):
        ldr_loss(features, groups, eps2=0.0)
