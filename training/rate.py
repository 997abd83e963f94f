"""The baseline with a rate term: end to end on cross-entropy plus weight x bits, one pair a weight (paper.md)."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.ce import CETrainingConfig, answers_loss, train_from_scratch
from training.loop import StepLoss
from training.models import Pair
from training.parallel import random_rows, whole_batch
from training.progress import Progress

METHOD = "rate"
LEAST_SIGMA = 1e-2  # bins; below it a bin holds all, and the gradient is nothing
LEAST_PROBABILITY = 1e-9


@dataclass(frozen=True, slots=True)
class RateTrainingConfig(CETrainingConfig):
    """A CE-T run whose loss also counts bits: ``rate_weight`` times the bits of an image's latent, rounded to whole
    numbers. ValueError for a setting out of range."""

    rate_weight: float = 0.01

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        CETrainingConfig.__post_init__(self)
        if not 0 < self.rate_weight < float("inf"):
            raise ValueError(f"rate_weight must be above 0, not {self.rate_weight}")


def run_train_rate(config: RateTrainingConfig, progress: Progress | None = None) -> Path:
    """Train a pair and return its checkpoint; errors as ``run_train_ce``."""

    def loss_function(pair: Pair, images: Tensor, labels: Tensor) -> StepLoss:
        return rate_loss(pair, images, labels, config)

    return train_from_scratch(METHOD, config, loss_function, progress)


def rate_loss(pair: Pair, images: Tensor, labels: Tensor, config: RateTrainingConfig) -> StepLoss:
    """Cross-entropy of the answers from the latent with a bin's noise, plus ``rate_weight`` times its bits."""
    encoded = pair.encoder(images)
    noisy = encoded.latent.float() + random_rows(encoded.latent, encoded.latent.shape[1]) - 0.5
    head = encoded.head_logits
    loss, logits = answers_loss(pair.decoder(noisy), head, labels, config.label_smoothing, config.head_weight)
    return StepLoss(loss + config.rate_weight * gaussian_bits(whole_batch(noisy)), logits)


def gaussian_bits(latent: Tensor) -> Tensor:
    """Mean bits of a row of ``latent`` (B, d) in bins of width 1, each entry coded by the Normal of the batch's own
    mean and deviation (Balle et al., 2017, with that prior); float32, a scalar.
    """
    with torch.autocast(latent.device.type, enabled=False):
        x = latent.float()
        centred = x - x.mean(0)
        sigma = x.std(0, correction=0).clamp(min=LEAST_SIGMA)
        # both tails mirrored to one side, where the difference of two small numbers keeps its digits
        inner, outer = (0.5 - centred.abs()) / sigma, (-0.5 - centred.abs()) / sigma
        probability = (_normal_cdf(inner) - _normal_cdf(outer)).clamp(min=LEAST_PROBABILITY)
        bits: Tensor = -probability.log2().sum(1).mean()
    return bits


def _normal_cdf(x: Tensor) -> Tensor:
    half: Tensor = torch.special.erfc(-x / math.sqrt(2)) / 2
    return half
