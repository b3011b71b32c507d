"""The classifier of `multi_sa`: attention on several layers, stacked, and class activation read from the stack.

Reconstruction of sections 4.1 to 4.3 of our description of Multi-SA: the publication's layers and sizes are not
known. Small, to be trained from scratch on a few hundred images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_noisylabel.methods import multi_sa_formulas as formulas

STAGES = 5
SHORTEST = 16
"""A side is halved while it has at least so many voxels."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What the classifier makes of images: `maps` (B, F, *grid) of the whole network before any relu, `scores` (B, F).

    `each` and `each_score` are the same of the auxiliary head of each layer, `rows` (B, N, N) its attention
    on the grid `nodes`.
    """

    maps: Tensor
    scores: Tensor
    each: tuple[Tensor, ...]
    each_score: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
    nodes: tuple[int, ...]


class SelfAttention(nn.Module):
    """O = F + gamma * context at one layer; gamma starts at 0, so the layer is unchanged at first.

    On grids of more than `nodes` positions, attention is computed on an average of neighbouring ones, and the
    context brought back to the grid. Queries and keys start equal and see how a position differs from the mean of
    the image, values start as the features: so alike positions attend to each other from the first step. With
    random starts all attend to all, and the classifier learns to say anywhere that something is somewhere.
    """

    def __init__(self, channels: int, n_dims: int, nodes: int) -> None:
        super().__init__()
        conv = _conv(n_dims)
        self.queries = conv(channels, channels // 2, 1)
        self.keys = conv(channels, channels // 2, 1)
        self.values = conv(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))
        self.nodes = nodes
        nn.init.orthogonal_(self.queries.get_parameter("weight"))
        self.keys.load_state_dict(self.queries.state_dict())
        nn.init.dirac_(self.values.get_parameter("weight"))
        nn.init.zeros_(self.values.get_parameter("bias"))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The attended features, (B, C, *grid), and the rows of the attention, (B, N, N)."""
        size = features.shape[2:]
        coarse = node_grid(size, self.nodes)
        small = pooled_map(features, coarse)
        differing = small - small.flatten(2).mean(-1).view(*small.shape[:2], *(1,) * len(size))
        rows = formulas.attention(self.queries(differing).flatten(2), self.keys(differing).flatten(2))
        values = self.values(small).flatten(2)
        if coarse == tuple(size):
            return formulas.attended(features, values, rows, self.gamma), rows
        context = formulas.attended(torch.zeros_like(small), values, rows, 1.0)
        return features + self.gamma * resized(context, size), rows


class Classifier(nn.Module):
    """Images (B, C, *spatial) to `Seen`: five stages, attention at `layers`, stacked, one head.

    With one layer there is no stack: its 1x1 convolution gives the maps, as in plain class activation. The
    auxiliary heads see the layers before attention, which keeps what they know where it was seen.
    """

    def __init__(
        self, n_dims: int, in_channels: int, findings: int, size: Sequence[int], *, layers: Sequence[int] = (3, 4, 5),
        attention: bool = True, width: int = 8, embedding: int = 16, dropout: float = 0.2, share: float = 0.1,
        nodes: int = 1024, auxiliary: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        conv, self.layers, self.share, self.nodes = _conv(n_dims), tuple(layers), share, nodes
        widths = [width, 2 * width, 4 * width, 4 * width, 4 * width]
        first, second = strides(size)
        plan = [(first, 1), (second, 1), ((1,) * n_dims, 1), ((1,) * n_dims, 2), ((1,) * n_dims, 2)]
        before = [in_channels, *widths[:-1]]
        self.stages = nn.ModuleList(
            _stage(n_dims, a, b, step, dilation) for a, b, (step, dilation) in zip(before, widths, plan, strict=True)
        )
        own = [widths[layer - 1] for layer in self.layers]
        self.attention = nn.ModuleList(SelfAttention(c, n_dims, nodes) for c in own) if attention else None
        self.auxiliary = nn.ModuleList(conv(c, findings, 1, bias=False) for c in own) if auxiliary else None
        self.branches = self.mix = None
        if len(own) > 1:
            self.branches = nn.ModuleList(
                nn.Sequential(conv(c, embedding, 1), _norm(n_dims)(embedding), nn.ReLU()) for c in own
            )
            mixed = conv(len(own) * embedding, 4 * embedding, 3, padding=1)
            self.mix = nn.Sequential(mixed, nn.ReLU(), nn.Dropout(dropout))
        self.head = conv(own[0] if len(own) == 1 else 4 * embedding, findings, 1, bias=False)

    @property
    def gammas(self) -> tuple[float, ...]:
        """How much of its context each layer takes in."""
        named = dict(self.named_parameters())
        return tuple(float(p.detach()) for name, p in named.items() if name.endswith("gamma"))

    def features(self, images: Tensor) -> list[Tensor]:
        """The feature maps of `layers`, before attention."""
        found, x = [], images
        for number, stage in enumerate(self.stages, 1):
            x = stage(x)
            if number in self.layers:
                found.append(x)
        return found

    def forward(self, images: Tensor) -> Seen:
        plain = self.features(images)
        each, rows = plain, []
        if self.attention is not None:
            pairs = [a(f) for a, f in zip(self.attention, plain, strict=True)]
            each, rows = [o for o, _ in pairs], [r for _, r in pairs]
        grid = each[-1].shape[2:]
        if self.branches is None or self.mix is None:
            stack = each[0]
        else:
            stack = self.mix(torch.cat([resized(b(o), grid) for b, o in zip(self.branches, each, strict=True)], 1))
        maps = self.head(stack)
        own = [resized(head(f), grid) for head, f in zip(self.auxiliary or (), plain, strict=False)]
        scores = [formulas.presence_score(m, self.share) for m in own]
        nodes = node_grid(grid, self.nodes)
        return Seen(maps, formulas.presence_score(maps, self.share), tuple(own), tuple(scores), tuple(rows), nodes)


def node_grid(size: Sequence[int], nodes: int) -> tuple[int, ...]:
    """The finest grid of at most `nodes` positions with the proportions of `size`; `size` itself where it fits."""
    grid = [int(s) for s in size]
    while _product(grid) > nodes and max(grid) > 1:
        grid[grid.index(max(grid))] -= 1
    return tuple(grid)


def strides(size: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How the first two stages halve an image of `size`: only sides that are long enough."""
    first = tuple(2 if s >= SHORTEST else 1 for s in size)
    second = tuple(2 if s // f >= SHORTEST else 1 for s, f in zip(size, first, strict=True))
    return first, second


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, *grid) on another grid, linear in between; as it is where the grid is that."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear" if maps.ndim == 4 else "trilinear", align_corners=False)


def pooled_map(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, *grid) averaged to a coarser grid, such as that of the attention."""
    return maps if tuple(maps.shape[2:]) == tuple(size) else _pooled(maps, size)


def _conv(n_dims: int) -> type[nn.Module]:
    return nn.Conv2d if n_dims == 2 else nn.Conv3d


def _norm(n_dims: int) -> type[nn.Module]:
    """Over the batch: norms within an image take away how much of something there is, which is what is asked."""
    return nn.BatchNorm2d if n_dims == 2 else nn.BatchNorm3d


def _pooled(maps: Tensor, size: Sequence[int]) -> Tensor:
    pool = F.adaptive_avg_pool2d if maps.ndim == 4 else F.adaptive_avg_pool3d
    return pool(maps, tuple(size))  # type: ignore[arg-type]


def _stage(n_dims: int, before: int, after: int, step: Sequence[int], dilation: int) -> nn.Sequential:
    conv, norm = _conv(n_dims), _norm(n_dims)
    return nn.Sequential(
        conv(before, after, 3, stride=tuple(step), padding=1), norm(after), nn.ReLU(),
        conv(after, after, 3, padding=dilation, dilation=dilation), norm(after), nn.ReLU(),
    )  # fmt: skip


def _product(values: Sequence[int]) -> int:
    out = 1
    for v in values:
        out *= v
    return out
