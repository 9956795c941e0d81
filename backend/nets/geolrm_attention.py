"""GeoLRM's two attentions: 3D RoPE self-attention, and deformable cross-attention into the views (section 3.3).

Both follow what the published weights were run with, which is not always what the paper says: see the docstrings.
Tokens of one scene, [N, width]; no batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ENTRIES_AT_ONCE = 1 << 21  # gathered rows of one piece of the sampling: 8 MB of indices and as much of weights
_WITHOUT_BAGS = ("mps",)  # devices whose embedding_bag knows no weights
_BASE = 10_000.0


def rotary_table(index: Tensor, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [N, 1, 3, head_width / 6] of 3D RoPE for voxel indices [N, 3]."""
    pairs = head_width // 6
    exponents = torch.arange(pairs, device=index.device, dtype=torch.float32) / pairs
    angles = index[:, None, :, None].float() * _BASE**-exponents
    return angles.cos(), angles.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """x [N, heads, D] turned by its place: each axis owns a third of D, and pairs the halves of that third."""
    cosine, sine = table
    u, v = x.unflatten(-1, (3, 2, -1)).unbind(-2)
    return torch.stack([u * cosine - v * sine, v * cosine + u * sine], -2).flatten(-3).to(x.dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention, over the tokens (the paper), or over the heads of each token (as released in fp32).

    The released code's fp32 branch forgets to bring the heads forward: every token attends over its own heads, and the
    result's head slices are dealt to other rows in a fixed order, which is how tokens mix there. All published
    configurations run that branch. 3D RoPE cancels in it, as query and key of one token turn alike.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wq = nn.Linear(width, width, bias=False)
        self.wk = nn.Linear(width, width, bias=False)
        self.wv = nn.Linear(width, width, bias=False)
        self.wo = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """x [N, width]; rotary: of the tokens' places, or None to attend over heads as released."""
        x = x.to(self.wq.weight.dtype)
        query, key, value = (project(x).unflatten(-1, (self.heads, -1)) for project in (self.wq, self.wk, self.wv))
        if rotary is None:
            # [N, 1, heads, D]: the tokens are the batch.
            mixed = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
            return self.wo(mixed.transpose(0, 1).reshape(x.shape))
        query, key = rotate(query, rotary), rotate(key, rotary)
        query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
        return self.wo(F.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1).flatten(1))


def deformable_sampling(
    value: Tensor,  # [T, heads, D]: tokens of one view, level after level, row by row
    levels: list[tuple[int, int]],  # (rows, columns) of each, two or more
    places: Tensor,  # [N, 2]: (u, v), the picture being [0, 1] x [0, 1]
    offsets: Tensor,  # [N, heads, levels, points, 2]: (x, y) in tokens of the level
    weights: Tensor,  # [N, heads, levels, points]
) -> Tensor:
    """[N, heads * D]: bilinear samples at places + offsets, weighted and summed; outside of a level counts zero.

    For a piece of the N at a time, so that what lies in memory between is bounded.
    """
    sample = sampling_by_grid if value.device.type in _WITHOUT_BAGS else _sampling_by_bags
    piece = max(1, _ENTRIES_AT_ONCE // (4 * weights[0].numel()))
    parts = zip(*(tensor.split(piece) for tensor in (places, offsets, weights)), strict=True)
    return torch.cat([sample(value, levels, *part) for part in parts])


def _sampling_by_bags(
    value: Tensor, levels: list[tuple[int, int]], places: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """A sample is a weighted sum of four tokens' rows, and a sum of samples one of many: `embedding_bag` gathers and
    sums them at once, so that only indices and weights lie in memory, never the samples.

    Of the two tokens beside a sample along an axis, the first is held inside of the level, and each weighs as its
    distance says: so what lies outside weighs nothing and needs no other case.
    """
    heads, count, points = offsets.shape[1:4]
    bag = (-1, count * points * 4)
    size = offsets.new_tensor([[columns, rows] for rows, columns in levels])  # [levels, 2]
    starts = [sum(rows * columns for rows, columns in levels[:i]) for i in range(len(levels))]
    origin = (places[:, None] * size - 0.5)[:, None, :, None]  # [N, 1, levels, 1, 2]
    firsts, nears, fars = [], [], []
    for axis in range(2):
        at = origin[..., axis] + offsets[..., axis]
        first = torch.minimum(at.floor().clamp_min(0.0), size[:, None, axis] - 2.0)
        at = at - first
        firsts.append(first.int())
        nears.append((1.0 - at.abs()).clamp_min(0.0))
        fars.append((1.0 - (at - 1.0).abs()).clamp_min(0.0))

    columns = size[:, :1].int()
    head = torch.arange(heads, dtype=torch.int32, device=value.device)[:, None, None]
    start = columns.new_tensor(starts)[:, None] * heads + head
    corner = torch.cat([columns * 0, columns * 0 + 1, columns, columns + 1], -1)[:, None] * heads  # [levels, 1, 4]
    rows = ((firsts[1] * columns + firsts[0]) * heads + start)[..., None] + corner
    upper, lower = nears[1] * weights, fars[1] * weights
    part = torch.stack([upper * nears[0], upper * fars[0], lower * nears[0], lower * fars[0]], -1)
    table = value.reshape(-1, value.shape[-1])
    summed = F.embedding_bag(rows.view(bag), table, mode="sum", per_sample_weights=part.view(bag).to(table.dtype))
    return summed.unflatten(0, (-1, heads)).flatten(1)


def sampling_by_grid(
    value: Tensor, levels: list[tuple[int, int]], places: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_sampling` by grid_sample: to read, and for devices without weighted bags."""
    maps = value.float().split([rows * columns for rows, columns in levels])
    total = torch.zeros((), device=value.device)
    for level, ((rows, columns), tokens) in enumerate(zip(levels, maps, strict=True)):
        grid = tokens.permute(1, 2, 0).unflatten(2, (rows, columns))  # [heads, D, rows, columns]
        size = places.new_tensor([columns, rows])
        where = 2.0 * (places[:, None, None] + offsets[:, :, level] / size) - 1.0
        samples = F.grid_sample(grid, where.transpose(0, 1), align_corners=False)  # [heads, D, N, points]
        total = total + (samples * weights[:, :, level].transpose(0, 1)[:, None]).sum(-1)
    return total.permute(2, 0, 1).flatten(1).to(value.dtype)


class DeformableAttention(nn.Module):
    """Where in a picture a token looks, and what it sees there."""

    def __init__(self, width: int, image_width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.shape = (heads, levels, points)
        self.value_proj = nn.Linear(image_width, width)
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)

    def plan(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets [N, heads, levels, points, 2] in tokens, and weights, a softmax over levels and points together.

        They come from the query alone, so they are the same in every view.
        """
        offsets = self.sampling_offsets(queries).float().unflatten(-1, (*self.shape, 2))
        weights = self.attention_weights(queries).float().unflatten(-1, (self.shape[0], -1)).softmax(-1)
        return offsets, weights.unflatten(-1, self.shape[1:])

    def forward(
        self, features: Tensor, levels: list[tuple[int, int]], places: Tensor, plan: tuple[Tensor, Tensor]
    ) -> Tensor:
        """[N, width] seen in one view: features [T, image width] at places [N, 2]."""
        value = self.value_proj(features).unflatten(-1, (self.shape[0], -1))
        return deformable_sampling(value, levels, places, *plan)


class CrossAttention(nn.Module):
    """Looks into every view where a token projects to, and fuses the views by a learned softmax.

    Two-dimensional, as released; the three-dimensional kernel in the released repository is never used. Views are taken
    one by one and the softmax is kept running, so memory does not grow with their number.
    """

    def __init__(self, width: int, image_width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.deformable_attention = DeformableAttention(width, image_width, heads, levels, points)
        self.cross_view_weight = nn.Linear(width, 1)
        self.output_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, features: Tensor, levels: list[tuple[int, int]], places: Tensor) -> Tensor:
        """x [N, width]; features [V, T, image width]; places [V, N, 2]. Returns [N, width]."""
        x = x.to(self.output_proj.weight.dtype)
        plan = self.deformable_attention.plan(x)
        fused = highest = total = torch.zeros(())
        for view, (view_features, view_places) in enumerate(zip(features, places, strict=True)):
            seen = self.deformable_attention(view_features, levels, view_places, plan)
            score = self.cross_view_weight(seen).float()
            if view == 0:
                fused, highest, total = seen.float(), score, torch.ones_like(score)
                continue
            new_highest = torch.maximum(highest, score)
            keep, add = (highest - new_highest).exp(), (score - new_highest).exp()
            fused, total, highest = fused * keep + seen * add, total * keep + add, new_highest
        return self.output_proj((fused / total).to(x.dtype))
