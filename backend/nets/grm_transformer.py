"""GRM's transformer blocks and its upsampler (arXiv 2403.14621, section 3.1): attention in windows of a token sequence.

A block works through a few windows at a time, so that what it needs beside its input and output is small whatever the
number of Gaussians. Module names are those of the published weights.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.errors import BadInput
from backend.nets.grm_config import HEAD_WIDTH, GrmConfig

CHUNK = 2**20  # numbers of a sequence that are taken at a time, if a window is not longer


def chunk_of(x: Tensor) -> int:
    """CHUNK, or more where starting a kernel costs more than memory does."""
    return CHUNK if x.device.type == "cpu" else 8 * CHUNK


class Attention(nn.Module):
    """Multi-head self-attention, [P, L, width] to the same; the rows of in_proj are query, key and value."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        joint = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = joint.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers round t * sigmoid(1.702 t)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        # silu(1.702 t) / 1.702 is the same, with one tensor of this width less.
        return self.c_proj(F.silu(self.c_fc(x).mul_(1.702)).mul_(1 / 1.702))


class Block(nn.Module):
    """Attention and feed-forward, each on the normalised sequence and added to it; [B, L, width] to the same.

    window: consecutive tokens that attend to each other (None: all); it divides L. shifted: windows begin half a window
    early; the first holds the sequence's end and its beginning, without a mask between them.
    """

    def __init__(self, width: int, window: int | None, shifted: bool) -> None:
        super().__init__()
        self.window, self.shifted = window, shifted
        self.attn = Attention(width)
        self.layernorm1 = nn.LayerNorm(width)
        self.mlp = FeedForward(width)
        self.layernorm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        window = self.window or length
        if length % window:
            raise BadInput(f"GRM's windows of {window} tokens do not divide {length}.", "Give four views.")
        if window == length:
            return self._within(x)
        early = window // 2 if self.shifted else 0
        first, last = (window - early) % window, length - early
        out = torch.empty_like(x)
        step = max(1, chunk_of(x) // (batch * window * width)) * window
        for start in range(first, last, step):
            end = min(start + step, last)
            part = x[:, start:end].reshape(-1, window, width)
            out[:, start:end] = self._within(part).view(batch, end - start, width)
        if early:
            ends = self._within(torch.cat([x[:, last:], x[:, :first]], 1))
            out[:, last:], out[:, :first] = ends[:, :early], ends[:, early:]
        return out

    def _within(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.layernorm1(x))
        return x + self.mlp(self.layernorm2(x))


class Blocks(nn.Module):
    """A stack of blocks; every second one has shifted windows."""

    def __init__(self, width: int, layers: int, window: int | None) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, window, index % 2 == 1) for index in range(layers))


class JointShuffle(nn.Module):
    """A linear layer and a 2 x pixel shuffle of the tokens of all views taken as one square picture, row by row.

    [B, L, width] to [B, 4 L, out_width]; L is a square. The views' own rows are not adjacent in that picture: a token's
    four children do not lie where it lay. The published weights were trained so.
    """

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.residual_fc = nn.Linear(width, 4 * out_width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        side = math.isqrt(length)
        # Published rows are (channel, dy, dx): with (dy, dx, channel) whole tokens are moved, not single numbers.
        weight = self.residual_fc.weight.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)
        bias = self.residual_fc.bias.unflatten(0, (-1, 4)).t().flatten()
        out = x.new_empty(batch, side, 2, side, 2, bias.numel() // 4)
        step = max(1, chunk_of(x) // (batch * side * width))
        for row in range(0, side, step):
            part = F.linear(x[:, row * side : (row + step) * side], weight, bias)
            out[:, row : row + step] = part.view(batch, -1, side, 2, 2, out.shape[-1]).transpose(2, 3)
        return out.view(batch, 4 * length, -1)


class Upsampler(nn.Module):
    """Stages of a joint shuffle and two blocks; the second one's windows are shifted."""

    def __init__(self, config: GrmConfig) -> None:
        super().__init__()
        width = config.width
        for stage, narrower in enumerate(config.stage_widths):
            self.add_module(f"upsampler_{stage}", JointShuffle(width, narrower))
            self.add_module(f"attention_{stage}", Blocks(narrower, 2, config.window_size))
            width = narrower
        self.stages = config.decoder_ratio
        self.layernorm2 = nn.LayerNorm(width)

    def walk(self, x: Tensor) -> Generator[None, None, Tensor]:
        """[B, L, width] to [B, L * 4^stages, width of the last stage], a block at a time."""
        for stage in range(self.stages):
            x = self.get_submodule(f"upsampler_{stage}")(x)
            for block in self.get_submodule(f"attention_{stage}.resblocks").children():
                x = block(x)
                yield
        return self.layernorm2(x)
