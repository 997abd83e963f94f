"""training.views and side_branch: the public augmentations over batches, and what the LDR loss sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from training.side_branch import SideBranch
from training.views import ViewConfig, _grey, _turn_hue, make_views, self_labelled

STILL = ViewConfig((1.0, 1.0), (1.0, 1.0), False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, size: tuple[int, int] = (16, 16), channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, *size, channels), dtype=torch.uint8, generator=seeded(5))


def test_without_changes_a_view_is_the_image() -> None:
    images = pictures(4)
    assert torch.equal(make_views(images, STILL, seeded()), images)


def test_about_half_are_mirrored() -> None:
    images = pictures(200)
    views = make_views(images, replace(STILL, flip=True), seeded())
    same = (views == images).flatten(1).all(1)
    assert torch.equal(views[~same], images[~same].flip(2))
    assert 70 < int(same.sum()) < 130


def test_crops_keep_the_share_of_the_area_they_are_told() -> None:
    ramp = torch.arange(64, dtype=torch.uint8)
    images = (ramp.view(1, 64, 1, 1) + torch.zeros(500, 64, 64, 1)).to(torch.uint8)  # brightness tells the row
    config = replace(STILL, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    views = make_views(images, config, seeded()).float()
    rows = views[:, -1].mean((1, 2)) - views[:, 0].mean((1, 2))
    assert (rows - 31.5).abs().max() < 1.6  # half of each side
    tops = views[:, 0].mean((1, 2))
    assert tops.min() < 3 and tops.max() > 28  # from anywhere
    assert torch.equal(make_views(images[:9], config, seeded(1)), make_views(images[:9], config, seeded(1)))


@pytest.mark.parametrize("turn", [-0.1, 0.0, 0.07, 0.5])
def test_hue_and_grey_are_torchvisions(turn: float) -> None:
    images = pictures(8).permute(0, 3, 1, 2).float() / 255
    ours = _turn_hue(images, torch.full((8, 1, 1, 1), turn))
    torch.testing.assert_close(ours, TF.adjust_hue(images, turn), rtol=0, atol=1e-5)
    torch.testing.assert_close(_grey(images), TF.rgb_to_grayscale(images), rtol=0, atol=1e-3)


def test_colours_change_for_so_many_images_and_grey_images_have_none() -> None:
    images = pictures(400)
    views = make_views(
        images, replace(STILL, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter=0.8), seeded()
    )
    changed = (views != images).flatten(1).any(1).float().mean()
    assert 0.72 < float(changed) < 0.88
    greyed = make_views(images, replace(STILL, grey=0.2), seeded())
    equal = ((greyed[..., 0] == greyed[..., 1]) & (greyed[..., 1] == greyed[..., 2])).flatten(1).all(1)
    assert 0.13 < float(equal.float().mean()) < 0.27
    single = pictures(5, (8, 8), 1)
    assert torch.equal(make_views(single, replace(STILL, brightness=0.4, jitter=1.0, grey=1.0), seeded()), single)


def test_self_labels_name_the_image_a_view_is_of() -> None:
    levels = torch.tensor([10, 120, 250], dtype=torch.uint8)
    images = levels.view(3, 1, 1, 1).expand(3, 8, 8, 1)
    views, numbers = self_labelled(images, 4, replace(STILL, scale=(0.3, 1.0), flip=True), seeded())
    assert views.shape == (12, 8, 8, 1)
    assert views.dtype == torch.uint8
    assert numbers.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    np.testing.assert_array_equal(views[:, 3, 3, 0], levels[numbers])


@pytest.mark.parametrize("change", [{"scale": (0.0, 1.0)}, {"ratio": (2.0, 1.0)}, {"hue": 0.6}, {"grey": 1.1}])
def test_settings_out_of_range(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must"):
        replace(STILL, **change)  # type: ignore[arg-type]


def test_the_side_branch_gives_rows_of_unit_norm() -> None:
    side = SideBranch(6)
    out = side(torch.randn(20, 6, generator=seeded()) * 100)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(20))
    with torch.autocast("cpu", torch.bfloat16):
        assert side(torch.randn(20, 6)).dtype == torch.float32
