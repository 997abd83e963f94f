"""training.models, blocks and augment: shapes at every size, what the pieces compute, and what a pair costs."""

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch.nn import functional as F

from training.augment import random_crop_flip, reflect_pad
from training.blocks import GridPool, map_sizes, stem_stride
from training.models import PairConfig, decoder_cost, encoder_cost, make_pair

TINY = PairConfig(width=2, hidden=8, d=3, classes=5)
SIZES = [(8, 8, 1), (32, 32, 3), (64, 64, 3), (33, 57, 3), (5, 3, 1), (1, 1, 1), (130, 200, 3)]


@pytest.mark.parametrize("image", SIZES)
@pytest.mark.parametrize("cut", [1, 2, 3, 4])
@pytest.mark.parametrize("decoder", ["linear", "transposed"])
def test_a_pair_takes_any_image(
    image: tuple[int, int, int], cut: int, decoder: Literal["linear", "transposed"]
) -> None:
    pair = make_pair(replace(TINY, image=image, cut=cut, decoder=decoder)).eval()
    with torch.inference_mode():
        logits, encoded = pair(torch.zeros(2, *image, dtype=torch.uint8))
    assert encoded.latent.shape == (2, 3)
    assert encoded.head_logits is not None
    assert encoded.head_logits.shape == logits.shape == (2, 5)


def test_without_a_head_there_are_no_head_logits() -> None:
    pair = make_pair(replace(TINY, head=False)).eval()
    assert pair(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))[1].head_logits is None
    assert not any("head" in name for name in pair.state_dict())


def test_resnet34_is_deeper() -> None:
    shallow, deep = (make_pair(replace(TINY, backbone=name)) for name in ("resnet18", "resnet34"))
    assert [len(stage) for stage in shallow.encoder.stages] == [2, 2]  # type: ignore[arg-type]
    assert [len(stage) for stage in deep.encoder.stages] == [3, 4]  # type: ignore[arg-type]
    assert [len(stage) for stage in deep.decoder.stages] == [6, 3]  # type: ignore[arg-type]


def test_cost_of_the_trials_pair() -> None:
    """trials.md counts 18.5 M multiply-accumulates for the quarter-width encoder to layer2."""
    pair = make_pair(PairConfig(width=16, d=16))
    cost = encoder_cost(pair)
    assert round(cost.macs / 1e6, 1) == 18.5
    assert cost.parameters == sum(parameter.numel() for parameter in pair.encoder.parameters())
    assert decoder_cost(pair).macs > 0


def test_cost_of_the_stem_is_counted_by_hand() -> None:
    config = PairConfig(image=(4, 4, 1), width=1, cut=1, grid=1, hidden=1, d=1, head=False)
    # 16 places: 9 for the stem, four 3 x 3 convolutions of one channel; then two products of one number
    assert encoder_cost(make_pair(config)).macs == 16 * 9 + 4 * 16 * 9 + 1 + 1


def test_folded_pixels_lose_nothing_and_cost_a_wider_stage_no_more() -> None:
    """trials.md counts 19.3 M multiply-accumulates for pair F: width 32 on 16 x 16 x 12."""
    pair = make_pair(PairConfig(width=32, d=32, patch=2))
    assert round(encoder_cost(pair).macs / 1e6, 1) == 19.3
    image = torch.arange(4 * 6 * 3, dtype=torch.uint8).reshape(1, 4, 6, 3)
    folded = pair.encoder.fold(image.permute(0, 3, 1, 2).float())
    assert folded.shape == (1, 12, 2, 3)
    assert folded[0, :, 1, 2].reshape(3, 2, 2).permute(1, 2, 0).equal(image[0, 2:, 4:].float())


def test_a_spatial_bottleneck_looks_at_each_cell_alone() -> None:
    config = PairConfig(width=4, grid=4, d=32, bottleneck="spatial")
    dense, spatial = make_pair(replace(config, bottleneck="dense")), make_pair(config).eval()
    assert encoder_cost(spatial).parameters < encoder_cost(dense).parameters / 4
    pooled = torch.randn(1, 8, 4, 4)
    changed = pooled.clone()
    changed[..., 1, 2] += 1
    with torch.no_grad():
        moved = (spatial.encoder.bottleneck(changed) - spatial.encoder.bottleneck(pooled)).reshape(2, 4, 4)
    assert moved[:, 1, 2].abs().min() > 0
    moved[:, 1, 2] = 0
    assert moved.abs().max() == 0


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 4), (2, 3)])
@pytest.mark.parametrize("grid", [1, 2, 3, 4])
def test_grid_pool_is_adaptive_average_pooling(size: tuple[int, int], grid: int) -> None:
    x = torch.randn(2, 3, *size)
    sides = (min(grid, size[0]), min(grid, size[1]))
    pool = GridPool(size, grid)
    torch.testing.assert_close(pool(x), F.adaptive_avg_pool2d(x, sides))
    assert pool.cells == sides[0] * sides[1]


def test_strides_fit_the_image() -> None:
    assert [stem_stride(side, side) for side in (8, 32, 63, 64, 96, 128, 224)] == [1, 1, 1, 2, 2, 4, 4]
    assert map_sizes(33, 8, 1, 3) == [(33, 8), (33, 8), (17, 4), (9, 2)]


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "vgg"},
        {"cut": 0},
        {"cut": 5},
        {"decoder": "mlp"},
        {"bottleneck": "conv"},
        {"bottleneck": "spatial", "d": 24},  # 16 cells
        {"d": 0},
        {"grid": 0},
        {"width": 0},
        {"decoder_width": 0},
        {"patch": 0},
        {"patch": 3},
        {"classes": 1},
        {"image": (0, 8, 1)},
    ],
)
def test_settings_that_make_no_pair(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(TINY, **change)


def test_a_pair_config_survives_its_dictionary() -> None:
    config = replace(TINY, image=(33, 57, 3), decoder_width=7, head=False)
    assert PairConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("size", [(1, 5), (4, 4), (6, 9)])
def test_reflect_pad_mirrors(size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (3, *size, 2), dtype=torch.uint8)
    padded = reflect_pad(images, 2)
    border = min(2, size[0] - 1, size[1] - 1)
    wanted = F.pad(images.permute(0, 3, 1, 2).float(), (border,) * 4, mode="reflect").permute(0, 2, 3, 1)
    assert torch.equal(padded.float(), wanted)


def test_crops_are_windows_of_their_own_image() -> None:
    rows, columns = torch.meshgrid(torch.arange(10), torch.arange(12), indexing="ij")
    number = torch.arange(3).view(3, 1, 1).expand(3, 10, 12)
    padded = torch.stack([rows.expand(3, -1, -1), columns.expand(3, -1, -1), number], 3).to(torch.uint8)
    picks = torch.tensor([2, 0, 1, 2] * 64)
    crops = random_crop_flip(padded, picks, (6, 7), True, torch.Generator().manual_seed(0))
    assert crops.shape == (256, 6, 7, 3)
    assert torch.equal(crops[:, 0, 0, 2].long(), picks)
    assert set(crops[:, 0, 0, 0].tolist()) == set(range(5))  # every vertical place
    step = crops[:, 0, 1, 1].int() - crops[:, 0, 0, 1].int()
    assert 64 < int((step == -1).sum()) < 192  # about half are mirrored
    assert set(step.tolist()) == {-1, 1}
    assert int((crops[:, 1, 0, 0].int() - crops[:, 0, 0, 0].int()).unique()) == 1


def test_without_flips_nothing_is_mirrored() -> None:
    image = torch.arange(8, dtype=torch.uint8).view(1, 1, 8, 1).expand(1, 4, 8, 1)
    crops = random_crop_flip(image, torch.zeros(50).long(), (4, 8), False, torch.Generator().manual_seed(0))
    assert torch.equal(crops, image.expand(50, -1, -1, -1))
