"""Transformer blocks modulated by a condition (DiT section 3.2, its gates opened), for the denoisers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoidal_embedding(values: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """[B, width] cosines then sines of scalars [B] at geometrically spaced frequencies."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values[:, None].float() * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Attention(nn.Module):
    """Multi-head attention; `context` None attends to the input itself.

    x [B, L, width], context [B, M, width], mask [B, M] True where a key may be looked at.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(width, 2 * width)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        query = self.to_query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.to_key_value(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = None if mask is None else mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    """Two linear layers round a GELU; [..., width] to [..., width]."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__(
            nn.Linear(width, expansion * width), nn.GELU(approximate="tanh"), nn.Linear(expansion * width, width)
        )


def _modulated(norm: nn.Module, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return norm(x) * (1.0 + scale) + shift


class ModulatedBlock(nn.Module):
    """Self-attention, optionally cross-attention, feed-forward; each normalised, shifted, scaled and gated.

    The modulation is the sum of one vector shared by all blocks (see `Modulation`) and a table of this block's own:
    a fraction of the parameters of a projection in every block (PixArt-alpha section 2.3). What the condition adds
    starts at zero, the table's own gates at one: where all gates start closed, a network this shallow spends its first
    thousands of steps opening them.
    """

    def __init__(self, width: int, heads: int, cross: bool) -> None:
        super().__init__()
        branches = 3 if cross else 2
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(branches))
        self.attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads) if cross else None
        self.feed_forward = FeedForward(width)
        table = torch.zeros(branches, 3, width)
        table[:, 2] = 1.0
        self.table = nn.Parameter(table.flatten(0, 1))

    def forward(
        self, x: Tensor, modulation: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """x [B, L, width]; modulation [B, branches * 3, width]; mask: of the keys of the attention with padding."""
        parts = (modulation + self.table).unsqueeze(2).unbind(1)
        own_mask = mask if self.cross_attention is None else None
        x = x + parts[2] * self.attention(_modulated(self.norms[0], x, parts[0], parts[1]), mask=own_mask)
        if self.cross_attention is not None:
            x = x + parts[5] * self.cross_attention(_modulated(self.norms[1], x, parts[3], parts[4]), context, mask)
        return x + parts[-1] * self.feed_forward(_modulated(self.norms[-1], x, parts[-3], parts[-2]))


class Modulation(nn.Module):
    """One condition vector [B, width] to the shifts, scales and gates [B, branches * 3, width] of a stack of blocks."""

    def __init__(self, width: int, branches: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, branches * 3 * width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, condition: Tensor) -> Tensor:
        return self.project(F.silu(condition)).unflatten(-1, (-1, condition.shape[-1]))
