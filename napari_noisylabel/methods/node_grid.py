"""A coarse grid over a patch: blocks of voxels, as equal in millimetres as voxels allow, are its nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def block_in_mm(shape: Sequence[int], spacing: Sequence[float], most: int) -> tuple[int, ...]:
    """Voxels per axis of the smallest block that makes at most `most` nodes of a patch.

    Parameters
    ----------
    shape : (*spatial) of the patch.
    spacing : mm per voxel; no side of a block is longer than the others by more than a voxel's
        width, unless one voxel is longer already, or the patch has no more voxels that way.
    most : at least 1.
    """
    edges = sorted({s * m for s, n in zip(spacing, shape, strict=True) for m in range(1, n + 1)})
    for edge in edges:
        block = tuple(min(n, max(1, math.floor(edge / s + 1e-6))) for n, s in zip(shape, spacing, strict=True))
        if node_count(shape, block) <= most:
            return block
    return tuple(int(n) for n in shape)


def block_by_count(shape: Sequence[int], most: int) -> tuple[int, ...]:
    """Voxels per axis of the block that makes equally many nodes along each axis, at most `most` in all."""
    each = max(1, math.floor(most ** (1 / len(shape)) + 1e-6))
    return tuple(math.ceil(n / each) for n in shape)


def node_count(shape: Sequence[int], block: Sequence[int]) -> int:
    """Nodes of a patch; blocks that reach over its end count."""
    return math.prod(-(-n // b) for n, b in zip(shape, block, strict=True))


def to_nodes(values: Tensor, block: Sequence[int]) -> Tensor:
    """Mean over the voxels of each block: (B, C, *spatial) -> (B, C, *nodes). Blocks at the end may be cut off."""
    pool = F.avg_pool2d if len(block) == 2 else F.avg_pool3d
    return pool(values, tuple(block), ceil_mode=True, count_include_pad=False)


def to_voxels(values: Tensor, block: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Linear interpolation between the centres of blocks: (B, C, *nodes) -> (B, C, *shape)."""
    whole = [n * b for n, b in zip(values.shape[2:], block, strict=True)]
    mode = "bilinear" if len(block) == 2 else "trilinear"
    fine = F.interpolate(values, size=whole, mode=mode, align_corners=False)
    return fine[(slice(None), slice(None), *(slice(0, n) for n in shape))]


def at_nodes(maps: Tensor, block: Sequence[int]) -> Tensor:
    """The voxel in the middle of each block: (B, *spatial) -> (B, *nodes)."""
    for axis, b in enumerate(block):
        n = maps.shape[1 + axis]
        index = [min(first + b // 2, n - 1) for first in range(0, n, b)]
        maps = maps.index_select(1 + axis, maps.new_tensor(index).long())
    return maps
