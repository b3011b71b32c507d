from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_noisylabel.methods.node_grid import (
    at_nodes,
    block_by_count,
    block_in_mm,
    node_count,
    to_nodes,
    to_voxels,
)

PATCHES = [((96, 96, 96), (1, 1, 1)), ((16, 128, 96), (5, 0.8, 0.7)), ((384, 384), (0.5, 0.5)), ((8, 8, 8), (1, 2, 9)),
           ((192, 24), (0.3, 2.0)), ((40, 56, 40), (1, 1, 1)), ((512, 512, 400), (1, 0.6, 0.6))]  # fmt: skip


@pytest.mark.parametrize(("shape", "spacing"), PATCHES)
@pytest.mark.parametrize("most", [8, 1024, 1728])
def test_a_grid_never_has_more_nodes_than_allowed_and_no_smaller_block_would_do(shape, spacing, most):
    block = block_in_mm(shape, spacing, most)
    assert node_count(shape, block) <= most
    assert all(1 <= b <= n for b, n in zip(block, shape, strict=True))
    edge = max((b * s for b, s in zip(block, spacing, strict=True) if b > 1), default=0)
    smaller = [min(n, max(1, int((edge - 1e-3) / s))) for n, s in zip(shape, spacing, strict=True)]
    assert tuple(smaller) == block or node_count(shape, smaller) > most


@pytest.mark.parametrize(("shape", "spacing"), PATCHES)
def test_blocks_are_as_long_as_they_are_wide_in_mm_up_to_one_voxel(shape, spacing):
    block = block_in_mm(shape, spacing, 500)
    sides = [b * s for b, s in zip(block, spacing, strict=True)]
    edge = max(side for side, b in zip(sides, block, strict=True) if b > 1)
    for side, width, b, n in zip(sides, spacing, block, shape, strict=True):
        assert b == n or side > edge - width - 1e-6
        assert b == 1 or side <= edge


def test_blocks_by_count_make_as_many_nodes_along_each_axis():
    assert block_by_count((256, 320), 4096) == (4, 5)
    assert block_by_count((256, 320), 1024) == (8, 10)
    for shape, _ in PATCHES:
        assert node_count(shape, block_by_count(shape, 1000)) <= 1000


@pytest.mark.parametrize(("shape", "block"), [((7, 10), (3, 4)), ((5, 6, 9), (2, 6, 4))])
def test_a_node_is_the_mean_of_its_voxels_and_has_the_label_of_the_middle_one(shape, block):
    values = torch.rand(2, 3, *shape, dtype=torch.float64)
    labels = torch.randint(0, 9, (2, *shape))
    means, own = to_nodes(values, block), at_nodes(labels, block)
    assert own.shape[1:] == means.shape[2:] == tuple(-(-n // b) for n, b in zip(shape, block, strict=True))
    for at in np.ndindex(*own.shape[1:]):
        box = tuple(slice(i * b, (i + 1) * b) for i, b in zip(at, block, strict=True))
        middle = tuple(min(i * b + b // 2, n - 1) for i, b, n in zip(at, block, shape, strict=True))
        torch.testing.assert_close(means[(..., *at)], values[(..., *box)].flatten(2).mean(2))
        assert (own[(..., *at)] == labels[(..., *middle)]).all()


def test_back_at_the_voxels_a_ramp_is_a_ramp_in_the_right_place():
    rows, columns = np.mgrid[:11, :18]
    ramp = torch.from_numpy(2.0 * rows - columns)[None, None]
    back = to_voxels(to_nodes(ramp, (3, 2)), (3, 2), (11, 18))
    assert back.shape == ramp.shape
    torch.testing.assert_close(back[..., 1:8, 1:-1], ramp[..., 1:8, 1:-1])
