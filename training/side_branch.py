"""The side branch: what the LDR loss sees of the latent. It learns beside the pair, and is never part of it."""

from torch import Tensor, nn
from torch.nn import functional as F


class SideBranch(nn.Module):
    """Batch normalisation, ReLU, Linear(d, d), rows scaled to unit norm (paper.md, models)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(d), nn.ReLU(), nn.Linear(d, d))

    def forward(self, latent: Tensor) -> Tensor:
        """(N, d) -> (N, d), rows of unit norm, float32."""
        return F.normalize(self.layers(latent).float(), dim=1)
