"""LGM's asymmetric U-Net with attention across views (arXiv 2402.05054, section 3.3 and figure 3).

Views travel in the batch; only the attention lets them see each other. "Asymmetric": there are fewer steps up than
down, so the output is a half or a quarter as wide as the input. Module names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_HALF = 0.5**0.5  # a sum of two unit-variance branches has unit variance again


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice; [B, in, H, W] to [B, out, H, W]."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return (hidden + self.shortcut(x)) * _HALF


class SelfAttention(nn.Module):
    """Plain multi-head self-attention over tokens [B, L, width], query, key and value in one projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class MultiViewAttention(nn.Module):
    """Self-attention over the pixels of all views of an object at once; x [B * views, C, H, W]."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width)
        self.attn = SelfAttention(width, heads)

    def forward(self, x: Tensor, views: int) -> Tensor:
        height, columns = x.shape[-2:]
        tokens = self.norm(x).unflatten(0, (-1, views)).permute(0, 1, 3, 4, 2).flatten(1, 3)
        mixed = self.attn(tokens).unflatten(1, (views, height, columns)).permute(0, 1, 4, 2, 3).flatten(0, 1)
        return (mixed + x) * _HALF


class Stage(nn.Module):
    """Residual blocks, each followed by attention across views where the stage has it."""

    nets: nn.ModuleList
    attns: nn.ModuleList | None

    def _build(self, widths: list[tuple[int, int]], attention: bool, heads: int, groups: int) -> None:
        self.nets = nn.ModuleList(ResidualBlock(inputs, outputs, groups) for inputs, outputs in widths)
        self.attns = nn.ModuleList(MultiViewAttention(o, heads, groups) for _, o in widths) if attention else None

    def _block(self, index: int, x: Tensor, views: int) -> Tensor:
        x = self.nets[index](x)
        return x if self.attns is None else self.attns[index](x, views)


class DownStage(Stage):
    """Keeps the result of every block, and of the stride-2 convolution at its end, for the way up."""

    def __init__(
        self, inputs: int, outputs: int, layers: int, last: bool, attention: bool, heads: int, groups: int
    ) -> None:
        super().__init__()
        self._build([(inputs if i == 0 else outputs, outputs) for i in range(layers)], attention, heads, groups)
        self.downsample = None if last else nn.Conv2d(outputs, outputs, 3, stride=2, padding=1)

    def forward(self, x: Tensor, views: int) -> list[Tensor]:
        results = []
        for index in range(len(self.nets)):
            x = self._block(index, x, views)
            results.append(x)
        if self.downsample is not None:
            results.append(self.downsample(x))
        return results


class MiddleStage(Stage):
    """Residual block, then attention and residual block."""

    def __init__(self, width: int, attention: bool, heads: int, groups: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(ResidualBlock(width, width, groups) for _ in range(2))
        self.attns = nn.ModuleList([MultiViewAttention(width, heads, groups)]) if attention else None

    def forward(self, x: Tensor, views: int) -> Tensor:
        x = self.nets[0](x)
        if self.attns is not None:
            x = self.attns[0](x, views)
        return self.nets[1](x)


class UpStage(Stage):
    """Takes one kept result a block, the latest first."""

    def __init__(
        self, inputs: int, skip: int, outputs: int, layers: int, last: bool, attention: bool, heads: int, groups: int
    ) -> None:
        super().__init__()
        widths = [
            ((inputs if i == 0 else outputs) + (skip if i == layers - 1 else outputs), outputs) for i in range(layers)
        ]
        self._build(widths, attention, heads, groups)
        self.upsample = None if last else nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor, kept: list[Tensor], views: int) -> Tensor:
        for index in range(len(self.nets)):
            x = self._block(index, torch.cat([x, kept.pop()], 1), views)
        if self.upsample is not None:
            x = self.upsample(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class UNet(nn.Module):
    """[B * views, in, H, W] to [B * views, out, H', W'], H' = H / 2^(len(down) - len(up)).

    down, up: widths of the stages; down_attention, up_attention: which of them attend across views; layers: residual
    blocks of a stage down, one more on the way up. H must be divisible by 2^(len(down) - 1).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        down: tuple[int, ...],
        down_attention: tuple[bool, ...],
        up: tuple[int, ...],
        up_attention: tuple[bool, ...],
        middle_attention: bool = True,
        layers: int = 2,
        heads: int = 16,
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(inputs, down[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownStage(down[max(i - 1, 0)], width, layers, i == len(down) - 1, down_attention[i], heads, groups)
            for i, width in enumerate(down)
        )
        self.mid_block = MiddleStage(down[-1], middle_attention, heads, groups)
        self.up_blocks = nn.ModuleList(
            UpStage(
                up[i - 1] if i else down[-1],
                down[max(-2 - i, -len(down))],
                width,
                layers + 1,
                i == len(up) - 1,
                up_attention[i],
                heads,
                groups,
            )
            for i, width in enumerate(up)
        )
        self.norm_out = nn.GroupNorm(groups, up[-1])
        self.conv_out = nn.Conv2d(up[-1], outputs, 3, padding=1)

    def forward(self, x: Tensor, views: int) -> Tensor:
        x = self.conv_in(x)
        kept = [x]
        for down in self.down_blocks:
            kept += down(x, views)
            x = kept[-1]
        x = self.mid_block(x, views)
        for up in self.up_blocks:
            x = up(x, kept, views)
        return self.conv_out(F.silu(self.norm_out(x)))
