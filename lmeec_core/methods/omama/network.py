"""O-MaMa's network (ICCV 2025): cross attention between an object and the other view, and an
embedding in which the same object has the same direction in both views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIM = 768
"""Channels of the published patch tokens, and of the embedding."""
HEADS = 4

EGO_GRID = (50, 50)
"""Patches (height, width) of the ego images that the released tables of positions are for."""
EXO_GRID = (38, 68)

Grid = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Sizes of a matcher; see :func:`published` for the released ones.

    Attributes:
        dim: channels C of the patch tokens, of the two parts of a descriptor, and of the embedding.
        heads: number of heads of the cross attention.
        query_grid, target_grid: patches (height, width) of the images that the tables of positions
            are for.
        visible_head: whether to include the layers that the released checkpoint has but that are
            not used.
    """

    dim: int
    heads: int
    query_grid: Grid
    target_grid: Grid
    visible_head: bool = False


def published(reverse: bool) -> Layout:
    """Sizes of the released matcher; `reverse` True is exo to ego, False ego to exo."""
    grids = (EXO_GRID, EGO_GRID) if reverse else (EGO_GRID, EXO_GRID)
    return Layout(DIM, HEADS, *grids, visible_head=True)


class CrossAttention(nn.Module):
    """Objects attend to the patches of the other view; the result replaces the object.

    One layer norm serves both inputs, and there is no residual connection around the attention.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_input = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.project = nn.Sequential(nn.Linear(dim, dim))
        self.norm_output = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, objects: Tensor, tokens: Tensor) -> Tensor:
        """Cross embeddings (B, N, C) of objects (B, N, C) from tokens (B, P, C) with positions."""
        objects, tokens = self.norm_input(objects), self.norm_input(tokens)

        def split(values: Tensor) -> Tensor:
            return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            split(self.query(objects)), split(self.key(tokens)), split(self.value(tokens))
        )
        y: Tensor = self.project(attended.transpose(1, 2).flatten(2))
        return y + self.mlp(self.norm_output(y))


class Head(nn.Module):
    """Three linear layers; `mlp` names their entries in the released checkpoint."""

    def __init__(self, dims: tuple[int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d = dims
        self.mlp = nn.Sequential(
            nn.Linear(a, b), nn.ReLU(), nn.Linear(b, c), nn.ReLU(), nn.Linear(c, d)
        )

    def forward(self, descriptors: Tensor) -> Tensor:
        """Embeddings (..., d) of descriptors (..., a)."""
        embedded: Tensor = self.mlp(descriptors)
        return embedded


class OMaMa(nn.Module):
    """The matcher. With the published layout, it has the tensor names and shapes of the released
    checkpoint (11,812,994 values).

    Args:
        layout: sizes. It also decides which table of positions is for which view.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        dim = layout.dim
        self.pos_embed_T = nn.Parameter(_table(layout.target_grid, dim))
        self.pos_embed_Q = nn.Parameter(_table(layout.query_grid, dim))
        self.mlp = Head((3 * dim, dim, dim, dim))
        if layout.visible_head:
            self.mlp_visible = nn.Sequential(
                nn.Linear(2 * dim, dim),
                nn.ReLU(),
                nn.Linear(dim, 256),
                nn.ReLU(),
                nn.Linear(256, 128),
                nn.ReLU(),
                nn.Linear(128, 2),
            )
        self.CROSS_context_attn = CrossAttention(dim, layout.heads)

    @property
    def reverse(self) -> bool:
        """Whether the tables of positions match the released exo to ego checkpoint."""
        return self.layout.target_grid == EGO_GRID

    def query_positions(self, grid: Grid) -> Tensor:
        """Positions (1, P, C) of the patches of a query image of any size, row by row."""
        return _resized(self.pos_embed_Q, self.layout.query_grid, grid)

    def target_positions(self, grid: Grid) -> Tensor:
        """Positions (1, P, C) of the patches of a target image of any size, row by row."""
        return _resized(self.pos_embed_T, self.layout.target_grid, grid)

    def cross(self, objects: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """Cross embeddings (N, C) of one view's objects.

        Args:
            objects: (N, C) object descriptors.
            tokens: (C, h, w) patch tokens of the other view.
            positions: (1, h w, C) of that view.
        """
        patches = tokens.flatten(1).T[None] + positions
        crossed: Tensor = self.CROSS_context_attn(objects[None], patches)[0]
        return crossed

    def embed(self, descriptors: Tensor, cross: Tensor) -> Tensor:
        """Unit vectors (N, C) of objects.

        Args:
            descriptors: (N, 2C), object and context.
            cross: (N, C), see :meth:`cross`.
        """
        return F.normalize(self.mlp(torch.cat((cross, descriptors), dim=-1)), dim=-1)


def _table(grid: Grid, dim: int) -> Tensor:
    table = torch.empty(1, grid[0] * grid[1], dim)
    return nn.init.trunc_normal_(table, std=0.02)


def _resized(table: Tensor, own: Grid, grid: Grid) -> Tensor:
    """A table for another grid, so that a place in the image keeps its position.

    This is also needed if the number of patches is the same: a portrait image has as many as a
    landscape image, but in different rows.
    """
    if own == grid:
        return table
    image = table.transpose(1, 2).unflatten(2, own)
    resized = F.interpolate(image, size=grid, mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)
