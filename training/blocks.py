"""The pieces a pair is built from: residual stages, and pooling to a grid that exports to any ONNX runtime."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_STEM_MAP = 64  # a stem map's shorter side stays below this, or the sensor pays for pixels it need not see
MAX_STEM_STRIDE = 4


def stem_stride(height: int, width: int) -> int:
    """The stem's stride for images of that size: 1 below 64 pixels, as in CIFAR's ResNets, then 2, then 4."""
    stride = 1
    while stride < MAX_STEM_STRIDE and min(height, width) // stride >= LARGEST_STEM_MAP:
        stride *= 2
    return stride


def map_sizes(height: int, width: int, stride: int, stages: int) -> list[tuple[int, int]]:
    """The map's (height, width) after the stem and after each of ``stages`` stages, whose strides are 1, 2, 2, 2."""
    sizes = [(-(-height // stride), -(-width // stride))]
    for number in range(stages):
        step = 1 if number == 0 else 2
        sizes.append((-(-sizes[-1][0] // step), -(-sizes[-1][1] // step)))
    return sizes


class BasicBlock(nn.Module):
    """ResNet's basic block: two 3 x 3 convolutions and a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
            if stride != 1 or before != after
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, h, w) -> (N, after, ceil(h / stride), ceil(w / stride))."""
        inner = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x), inplace=True)


class Stage(nn.Sequential):
    """Basic blocks, the first with the stride."""

    def __init__(self, before: int, after: int, blocks: int, stride: int) -> None:
        first = BasicBlock(before, after, stride)
        super().__init__(first, *(BasicBlock(after, after, 1) for _ in range(blocks - 1)))


class GridPool(nn.Module):
    """Adaptive average pooling of a map of fixed ``size`` (h, w) to ``grid`` x ``grid``, or to the map's own side
    where that is smaller.

    Where the grid divides the map it is plain average pooling. Elsewhere it is two products with the pooling
    matrices, for ONNX has no adaptive pooling.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, size: tuple[int, int], grid: int) -> None:
        super().__init__()
        sides = grid_sides(size, grid)
        self.cells = sides[0] * sides[1]
        self.kernel = None
        if size[0] % sides[0] == 0 and size[1] % sides[1] == 0:
            self.kernel = (size[0] // sides[0], size[1] // sides[1])
        else:
            self.register_buffer("rows", _pooling_matrix(size[0], sides[0]), persistent=False)
            self.register_buffer("columns", _pooling_matrix(size[1], sides[1]).T.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c, h, w) -> (N, c, grid, grid)."""
        if self.kernel is not None:
            return F.avg_pool2d(x, self.kernel)
        return self.rows @ x @ self.columns


def grid_sides(size: tuple[int, int], grid: int) -> tuple[int, int]:
    """Rows and columns of a map of ``size`` (h, w) pooled to ``grid`` x ``grid``, or to its own side where smaller."""
    return min(grid, size[0]), min(grid, size[1])


def _pooling_matrix(size: int, cells: int) -> Tensor:
    """(cells, size): row i averages the pixels from floor(i size / cells) to ceil((i + 1) size / cells)."""
    matrix = torch.zeros(cells, size)
    for cell in range(cells):
        start, end = cell * size // cells, -(-(cell + 1) * size // cells)
        matrix[cell, start:end] = 1 / (end - start)
    return matrix
