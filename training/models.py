"""The encoder/decoder pair: a CIFAR-style ResNet cut in two by a bottleneck of d numbers (paper.md, models).

Shapes: N images of height x width pixels and C channels, d latent entries, K classes.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training.blocks import GridPool, Stage, grid_sides, map_sizes, stem_stride

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
STAGES = 4
HEAD_WIDTH = 128
DECODER_SIDE = 4
GROWTHS = 3  # 2 x 2 stride-2 transposed convolutions of the paper's decoder, 1 x 1 to 8 x 8


@dataclass(frozen=True, slots=True)
class PairConfig:
    """What makes a pair; ValueError for a setting out of range.

    ``image`` is (height, width, channels) in pixels. ``patch`` folds squares of so many pixels a side into channels
    before the stem (space-to-depth: fewer, wider convolutions for the same multiply-accumulates; 1 folds nothing).
    ``width`` is the first stage's channels (64 is full width);
    ``cut`` how many stages are the sensor's (1 to 4); ``grid`` the side of the pooled map before the bottleneck;
    ``bottleneck`` two linear layers over that map with ``hidden`` numbers between ("dense"), or 1 x 1 convolutions that
    leave each of its cells d / cells entries of its own ("spatial", with far fewer parameters);
    ``head`` adds a classifier on the latent to the sensor, which names the anchor. ``decoder`` grows the latent by one
    linear layer ("linear") or by the paper's three transposed convolutions ("transposed"); ``decoder_width`` is the
    channels it starts from, None for the encoder's last.
    """

    image: tuple[int, int, int] = (32, 32, 3)
    classes: int = 10
    backbone: str = "resnet18"
    width: int = 64
    cut: int = 2
    grid: int = 4
    hidden: int = 512
    d: int = 16
    head: bool = True
    patch: int = 1
    decoder: Literal["linear", "transposed"] = "linear"
    decoder_width: int | None = None
    bottleneck: Literal["dense", "spatial"] = "dense"

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        if self.backbone not in BLOCKS:
            raise ValueError(f"backbone must be one of {', '.join(BLOCKS)}, not {self.backbone!r}")
        if not 1 <= self.cut <= STAGES:
            raise ValueError(f"cut must be 1 to {STAGES}, not {self.cut}")
        if self.decoder not in ("linear", "transposed"):
            raise ValueError(f"decoder must be linear or transposed, not {self.decoder!r}")
        if self.bottleneck not in ("dense", "spatial"):
            raise ValueError(f"bottleneck must be dense or spatial, not {self.bottleneck!r}")
        if len(self.image) != 3 or min(self.image) < 1 or self.image[2] not in (1, 3):
            raise ValueError(f"image must be height, width and 1 or 3 channels, not {self.image}")
        if self.classes < 2:
            raise ValueError(f"classes must be at least 2, not {self.classes}")
        for name in ("width", "grid", "hidden", "d", "patch", "decoder_width"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, not {size}")
        if self.image[0] % self.patch or self.image[1] % self.patch:
            raise ValueError(
                f"patch must be a divisor of the image's sides, {self.image[0]} x {self.image[1]}, not {self.patch}"
            )
        rows, columns = grid_sides(self.map_size, self.grid)
        if self.bottleneck == "spatial" and self.d % (rows * columns):
            raise ValueError(f"d must be a multiple of the pooled map's {rows * columns} cells, not {self.d}")

    @property
    def stride(self) -> int:
        """The stem's."""
        return stem_stride(self.image[0] // self.patch, self.image[1] // self.patch)

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of what the last stage on the sensor leaves."""
        height, width = self.image[0] // self.patch, self.image[1] // self.patch
        return map_sizes(height, width, self.stride, self.cut)[-1]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return {**asdict(self), "image": list(self.image)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PairConfig":
        """The configuration that ``to_dict`` gave."""
        return cls(**{**values, "image": tuple(values["image"])})


class Encoded(NamedTuple):
    """What a sensor computes: ``latent`` (N, d), and ``head_logits`` (N, K) where there is a head."""

    latent: Tensor
    head_logits: Tensor | None


class Encoder(nn.Module):
    """uint8 images to latents: normalisation, folding, stem, stages up to the cut, pooled grid, bottleneck, head."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        channels = config.image[2]
        self.register_buffer("mean", torch.full((channels,), 0.5))
        self.register_buffer("std", torch.full((channels,), 0.25))
        stride = config.stride
        kernel = max(3, 2 * stride - 1)  # so that a large stride skips no pixel
        self.fold = nn.PixelUnshuffle(config.patch) if config.patch > 1 else nn.Identity()
        self.stem = nn.Sequential(
            nn.Conv2d(channels * config.patch**2, config.width, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(config.width),
            nn.ReLU(inplace=True),
        )
        widths = [config.width << max(i - 1, 0) for i in range(config.cut + 1)]
        blocks = BLOCKS[config.backbone]
        self.stages = nn.Sequential(
            *(Stage(widths[i], widths[i + 1], blocks[i], 1 if i == 0 else 2) for i in range(config.cut))
        )
        self.pool = GridPool(config.map_size, config.grid)
        shape = _dense if config.bottleneck == "dense" else _spatial
        self.bottleneck = shape(config, widths[-1], self.pool.cells)
        self.head = _head(config) if config.head else None

    def forward(self, images: Tensor) -> Encoded:
        """uint8 (N, height, width, C) -> latent (N, d), head logits (N, K) or None."""
        x = (images.permute(0, 3, 1, 2).float() / 255 - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)
        x = self.stages(self.stem(self.fold(x).contiguous(memory_format=torch.channels_last)))
        latent = self.bottleneck(self.pool(x))
        return Encoded(latent, None if self.head is None else self.head(latent))


def _dense(config: PairConfig, channels: int, cells: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * cells, config.hidden),
        nn.BatchNorm1d(config.hidden),
        nn.ReLU(inplace=True),
        nn.Linear(config.hidden, config.d),
    )


def _spatial(config: PairConfig, channels: int, cells: int) -> nn.Module:
    """Its entries go by channel, then by row and column of the map."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, config.d // cells, 1),
        nn.Flatten(),
    )


def _head(config: PairConfig) -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm1d(config.d),
        nn.Linear(config.d, HEAD_WIDTH),
        nn.ReLU(inplace=True),
        nn.Linear(HEAD_WIDTH, config.classes),
    )


class Decoder(nn.Module):
    """Latents to logits: grown to a map, the stages after the cut (at least one), average, classifier."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        channels = config.decoder_width or config.width << (config.cut - 1)
        self.grow = _grow_linear(config.d, channels) if config.decoder == "linear" else _grow_map(config.d, channels)
        stages: list[nn.Module] = []
        for number in range(min(config.cut, STAGES - 1), STAGES):
            # the grown map has the size that the stage after the cut leaves behind
            stages.append(Stage(channels, 2 * channels, BLOCKS[config.backbone][number], 2 if stages else 1))
            channels *= 2
        self.stages = nn.Sequential(*stages)
        self.classify = nn.Linear(channels, config.classes)

    def forward(self, latent: Tensor) -> Tensor:
        """(N, d) -> (N, K)."""
        logits: Tensor = self.classify(self.stages(self.grow(latent)).mean((2, 3)))
        return logits


def _grow_linear(d: int, channels: int) -> nn.Module:
    cells = DECODER_SIDE**2
    return nn.Sequential(
        nn.Linear(d, channels * cells),
        nn.BatchNorm1d(channels * cells),
        nn.ReLU(inplace=True),
        nn.Unflatten(1, (channels, DECODER_SIDE, DECODER_SIDE)),
    )


def _grow_map(d: int, channels: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(d, channels), nn.Unflatten(1, (channels, 1, 1))]
    for _ in range(GROWTHS):
        layers += [nn.ConvTranspose2d(channels, channels, 2, 2), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Pair(nn.Module):
    """An encoder and the decoder trained with it."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, images: Tensor) -> tuple[Tensor, Encoded]:
        """uint8 (N, height, width, C) -> the decoder's logits (N, K), and what the sensor computed."""
        encoded = self.encoder(images)
        return self.decoder(encoded.latent), encoded


def make_pair(config: PairConfig) -> Pair:
    """A new pair, its convolutions laid out channels-last; weights are drawn from torch's global generator."""
    return Pair(config).to(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one image: multiply-accumulates, and the parameters that do them."""

    macs: int
    parameters: int


def encoder_cost(pair: Pair) -> Cost:
    """What the sensor pays, head included."""
    return cost(pair.encoder, torch.zeros(1, *pair.config.image, dtype=torch.uint8))


def decoder_cost(pair: Pair) -> Cost:
    """What the server pays."""
    return cost(pair.decoder, torch.zeros(1, pair.config.d))


def cost(half: nn.Module, image: Tensor) -> Cost:
    """What running a half on one ``image``, its one input (1, ...), takes."""
    was_training = half.training
    device = next(half.parameters()).device
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        half.eval()(image.to(device))
    half.train(was_training)
    return Cost(counter.get_total_flops() // 2, sum(parameter.numel() for parameter in half.parameters()))
