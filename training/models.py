"""The encoder/decoder pair: a ResNet cut in two around a bottleneck of d numbers (paper.md, "Models").

::

    image uint8 (N, H, W, C)
      └ Encoder: normalise · stem · stages 1..cut · pool to grid x grid · Linear · BN · ReLU · Linear
          └ latent (N, d) ── head: BN · Linear · ReLU · Linear ── head logits (N, K)
              └ Decoder: grow to a map · stages cut+1..4 · pool · Linear ── logits (N, K)

Both halves are ordinary modules, so later training steps freeze one of them or hang a side branch on the latent.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training.blocks import GridPool, Stage, map_sizes, stem_stride

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
SEED_SIDE = 4  # of the map a "linear" decoder starts from
MAX_GROWN_SIDE = 8  # of the map a "transposed" decoder grows, as in DuPHiL


@dataclass(frozen=True, slots=True)
class PairConfig:
    """What the pair looks like; ValueError on a setting that makes no pair.

    ``image`` is (height, width, channels) in pixels and ``classes`` how many there are: training sets both from its
    data. ``width`` is the first stage's channels (64 is full width) and ``decoder_width`` the same for the decoder,
    ``width`` if None. ``cut`` is the last stage of the encoder, 1 to 4. ``grid`` is the side of the pooled map before
    the bottleneck (no larger than the map). ``head`` adds a classifier on the latent to the encoder. ``decoder`` is
    how the map is grown back: "linear" in one layer to 4 x 4, "transposed" by DuPHiL's transposed convolutions.
    ``stride`` is the stem's, None for one that fits the image.
    """

    image: tuple[int, int, int] = (32, 32, 3)
    classes: int = 10
    d: int = 16
    backbone: Literal["resnet18", "resnet34"] = "resnet18"
    width: int = 64
    cut: int = 2
    grid: int = 4
    hidden: int = 512
    head: bool = True
    head_hidden: int = 128
    decoder: Literal["linear", "transposed"] = "linear"
    decoder_width: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that make no pair."""
        if self.backbone not in BLOCKS:
            raise ValueError(f"backbone must be one of {', '.join(BLOCKS)}, not {self.backbone!r}")
        if self.decoder not in ("linear", "transposed"):
            raise ValueError(f"decoder must be linear or transposed, not {self.decoder!r}")
        if self.cut not in (1, 2, 3, 4):
            raise ValueError(f"cut must be 1 to 4 (the stages on the sensor), not {self.cut}")
        if self.stride not in (None, 1, 2, 4):
            raise ValueError(f"stride must be 1, 2 or 4, not {self.stride}")
        if len(self.image) != 3 or min(self.image) < 1 or self.image[2] not in (1, 3):
            raise ValueError(f"image must be height, width and 1 or 3 channels, not {self.image}")
        if self.classes < 2:
            raise ValueError(f"there must be at least 2 classes, not {self.classes}")
        for name in ("d", "width", "grid", "hidden", "head_hidden", "decoder_width"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, not {size}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return {**asdict(self), "image": list(self.image)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "PairConfig":
        """Rebuild from ``to_dict``'s values."""
        return PairConfig(**{**values, "image": tuple(values["image"])})


class Encoded(NamedTuple):
    """The encoder's output: ``latent`` (N, d) and ``head_logits`` (N, K), None where the pair has no head."""

    latent: Tensor
    head_logits: Tensor | None


class Encoder(nn.Module):
    """The sensor's half: images uint8 (N, H, W, C) -> ``Encoded``. It normalises by its own ``mean`` and ``std``."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        height, width, channels = config.image
        stride = config.stride or stem_stride(height, width)
        self.register_buffer("mean", torch.full((channels,), 127.5))
        self.register_buffer("std", torch.full((channels,), 64.0))
        kernel = max(3, 2 * stride - 1)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, config.width, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(config.width),
            nn.ReLU(inplace=True),
        )
        stages, before = [], config.width
        for number in range(config.cut):
            after = config.width << number
            stages.append(Stage(before, after, BLOCKS[config.backbone][number], 1 if number == 0 else 2))
            before = after
        self.stages = nn.Sequential(*stages)
        self.pool = GridPool(map_sizes(height, width, stride, config.cut)[-1], config.grid)
        self.bottleneck = nn.Sequential(
            nn.Linear(before * self.pool.cells, config.hidden, bias=False),
            nn.BatchNorm1d(config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, config.d),
        )
        self.head = _head(config) if config.head else None

    def forward(self, images: Tensor) -> Encoded:
        """Images uint8 (N, H, W, C) -> latent (N, d) and head logits."""
        # an NHWC tensor seen as NCHW is channels-last already: no copy
        x = ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        features = self.pool(self.stages(self.stem(x)))
        latent = self.bottleneck(features.flatten(1))
        return Encoded(latent, self.head(latent) if self.head is not None else None)


class Decoder(nn.Module):
    """The server's half: latent (N, d) -> logits (N, K)."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        base = config.decoder_width or config.width
        blocks = BLOCKS[config.backbone][config.cut :]
        strides = [2] * len(blocks)
        self.grow: nn.Module
        if config.decoder == "linear":
            # trials.md, pair A: one wide layer to a small map, and all later stages as wide as the last
            channels = [8 * base] * (len(blocks) + 1)
            strides[:1] = [1] * len(blocks[:1])
            self.grow = _seed(config.d, channels[0])
        else:
            height, width, _ = config.image
            stride = config.stride or stem_stride(height, width)
            side = min(map_sizes(height, width, stride, config.cut)[-1])
            channels = [base << (config.cut - 1 + step) for step in range(len(blocks) + 1)]
            self.grow = _transposed(config.d, channels[0], min(side, MAX_GROWN_SIDE))
        steps = zip(channels[:-1], channels[1:], blocks, strides, strict=True)
        self.stages = nn.Sequential(*(Stage(*step) for step in steps))
        self.classify = nn.Linear(channels[-1], config.classes)

    def forward(self, latent: Tensor) -> Tensor:
        """Latent (N, d) -> logits (N, K)."""
        logits: Tensor = self.classify(self.stages(self.grow(latent)).mean(dim=(2, 3)))
        return logits


def _head(config: PairConfig) -> nn.Module:
    """(N, d) -> (N, K): the small classifier that names the anchor on the sensor (trials.md, pair H)."""
    return nn.Sequential(
        nn.BatchNorm1d(config.d),
        nn.Linear(config.d, config.head_hidden),
        nn.ReLU(inplace=True),
        nn.Linear(config.head_hidden, config.classes),
    )


def _seed(d: int, channels: int) -> nn.Module:
    """(N, d) -> (N, channels, 4, 4) in one layer."""
    return nn.Sequential(
        nn.Linear(d, channels * SEED_SIDE**2, bias=False),
        nn.Unflatten(1, (channels, SEED_SIDE, SEED_SIDE)),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def _transposed(d: int, channels: int, side: int) -> nn.Module:
    """(N, d) -> (N, channels, 2**k, 2**k), the largest such map within ``side``, by k transposed convolutions."""
    layers: list[nn.Module] = [nn.Linear(d, channels), nn.Unflatten(1, (channels, 1, 1))]
    for _ in range(side.bit_length() - 1):
        layers += [
            nn.ConvTranspose2d(channels, channels, 2, 2, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class Pair(nn.Module):
    """Both halves, as end-to-end training sees them."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, images: Tensor) -> tuple[Tensor, Encoded]:
        """Images uint8 (N, H, W, C) -> the decoder's logits (N, K), and what the encoder made."""
        encoded: Encoded = self.encoder(images)
        return self.decoder(encoded.latent), encoded


def make_pair(config: PairConfig) -> Pair:
    """A pair with fresh weights from torch's global random state, in channels-last memory."""
    pair = Pair(config)
    for module in pair.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    pair.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return pair


@dataclass(frozen=True, slots=True)
class Cost:
    """What one half costs for one image: multiply-accumulates and parameters."""

    macs: int
    parameters: int


def costs(config: PairConfig) -> tuple[Cost, Cost]:
    """The encoder's and the decoder's cost (convolutions and matrix products; the rest is a few per cent)."""
    pair = make_pair(config).eval()
    image = torch.zeros((1, *config.image), dtype=torch.uint8)
    return _cost(pair.encoder, image), _cost(pair.decoder, torch.zeros(1, config.d))


def _cost(half: nn.Module, example: Tensor) -> Cost:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        half(example)
    return Cost(counter.get_total_flops() // 2, sum(parameter.numel() for parameter in half.parameters()))
