"""LGM's asymmetric U-Net with attention across views (arXiv 2402.05054, section 3.3 and figure 3).

Views travel in the batch; only the attention lets them see each other. "Asymmetric": there are fewer steps up than
down, so the output is a half or a quarter as wide as the input. Module names are those of the published checkpoints.

Where no gradient is wanted, results are written over what nobody reads any more: the same values in less memory.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

T = TypeVar("T")
_HALF = 0.5**0.5  # a sum of two unit-variance branches has unit variance again


def finished(walk: Generator[None, None, T]) -> T:
    """The result of a walk without its pauses."""
    while True:
        try:
            next(walk)
        except StopIteration as end:
            return end.value


def _sum(branch: Tensor, x: Tensor) -> Tensor:
    """Of a branch's own result, which may be written over, and its input."""
    if torch.is_grad_enabled() or branch.dtype != x.dtype:
        return (branch + x) * _HALF
    return branch.add_(x).mul_(_HALF)


def upsample_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of x [B, in, H, W] doubled by nearest neighbours, [B, out, 2H, 2W], in 4/9 of the products.

    A window of the doubled picture lies on 2x2 pixels of the small one, on which ones depends on the parity of its row
    and column: rows (and columns) of the kernel that fall on the same pixel are added up first.
    """
    batch, _, height, width = x.shape
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    shape = (batch, weight.shape[0], 2 * height, 2 * width)
    result = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    padded = F.pad(x, (1, 1, 1, 1))
    for row in range(2):
        rows = _halved(weight, 2, row)
        for column in range(2):
            kernel = _halved(rows, 3, column).to(x.dtype, memory_format=layout)
            window = padded[:, :, row : row + height + 1, column : column + width + 1]
            result[:, :, row::2, column::2] = F.conv2d(window, kernel, bias)
    return result


def _halved(weight: Tensor, axis: int, parity: int) -> Tensor:
    """Three rows of a kernel as two: those of a window that begins on an even (0) or an odd (1) pixel's neighbour."""
    first, middle, last = weight.float().unbind(axis)
    return torch.stack([first, middle + last] if parity == 0 else [first + middle, last], axis)


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
        spare = not torch.is_grad_enabled()
        hidden = self.conv1(F.silu(self.norm1(x), inplace=spare))
        hidden = self.conv2(F.silu(self.norm2(hidden), inplace=spare))
        return _sum(hidden, self.shortcut(x))


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
        return _sum(mixed, x)


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
    """Takes one kept result a block, the latest first. folded: whether inference computes `upsample_conv`."""

    folded = False

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
            if self.folded and not torch.is_grad_enabled():
                return upsample_conv(x, self.upsample.weight, self.upsample.bias)
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

    def fold(self, folded: bool = True) -> None:
        """Let inference add up the upsampling kernels' rows first: faster, equal but for rounding."""
        for up in self.up_blocks:
            up.folded = folded  # type: ignore[assignment]

    def forward(self, x: Tensor, views: int) -> Tensor:
        return finished(self.walk(x, views))

    def walk(self, x: Tensor, views: int) -> Generator[None, None, Tensor]:
        """`forward`, a stage at a time: pauses after each of `stages`, so that it can be given up."""
        # The first results, the largest ones, have no counterpart on the shorter way up.
        unused = self.unused
        kept = [self.conv_in(x.to(self.conv_in.weight.dtype))]
        for down in self.down_blocks:
            kept += down(kept[-1], views)
            dropped = min(unused, len(kept) - 1)
            del kept[:dropped]
            unused -= dropped
            yield
        x = self.mid_block(kept[-1], views)
        for up in self.up_blocks:
            x = up(x, kept, views)
            yield
        # The last layers may have a finer dtype than the rest: what they round is seen in every position.
        x = self.norm_out(x.to(self.norm_out.weight.dtype))
        return self.conv_out(F.silu(x, inplace=not torch.is_grad_enabled()))

    @property
    def unused(self) -> int:
        """How many results of the way down the way up has no place for."""
        results = 1 + sum(len(down.nets) + int(down.downsample is not None) for down in self.down_blocks)  # type: ignore[arg-type, misc]
        return results - sum(len(up.nets) for up in self.up_blocks)  # type: ignore[arg-type, misc]

    @property
    def stages(self) -> int:
        return len(self.down_blocks) + len(self.up_blocks)
