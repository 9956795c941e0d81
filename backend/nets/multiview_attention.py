"""The transformer of the multi-view diffusion models (MVDream, arXiv 2308.16512, section 3.1): self-attention over all
views of an object at once, cross-attention to its words, and to its picture where there is one (ImageDream, arXiv
2312.02201, section 3.2). Module names are the released checkpoints'.
"""

from __future__ import annotations

from typing import cast

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.nn import functional as F

# Attention without a fused kernel holds every score at once; more than this many are made a part at a time. The
# released size (two groups of 5,120 tokens, five heads) stays below.
MOST_SCORES = 2**28


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """[B, N, heads * d]: softmax(q k / sqrt(d)) v for query [B, N, heads * d], key and value [B, M, heads * d]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    rows = max(1, MOST_SCORES // (q.shape[0] * heads * k.shape[2]))
    parts = [F.scaled_dot_product_attention(part, k, v) for part in q.split(rows, dim=2)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, 2)).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Of tokens [B, N, width] to a context [B, M, context], or to themselves."""

    def __init__(self, width: int, context: int, heads: int, pictured: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))
        if pictured:
            self.to_k_ip = nn.Linear(context, width, bias=False)
            self.to_v_ip = nn.Linear(context, width, bias=False)

    def forward(self, x: Tensor, context: Tensor, picture: Tensor | None = None, weight: float = 1.0) -> Tensor:
        """picture [B, P, context]: a second context, whose result is added with `weight`."""
        query = self.to_q(x)
        out = attend(query, self.to_k(context), self.to_v(context), self.heads)
        if picture is not None:
            out = out + weight * attend(query, self.to_k_ip(picture), self.to_v_ip(picture), self.heads)
        return self.to_out(out)


class TransformerBlock(nn.Module):
    """Attention among an object's tokens, to its words (and picture), and a feed-forward network; all residual."""

    def __init__(self, width: int, context: int, heads: int, pictured: bool) -> None:
        super().__init__()
        self.attn1 = Attention(width, width, heads)
        self.attn2 = Attention(width, context, heads, pictured)
        self.ff = FeedForward(width, activation_fn="geglu")
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, words: Tensor, picture: Tensor | None, weight: float) -> Tensor:
        own = self.norm1(x)
        x = x + self.attn1(own, own)
        x = x + self.attn2(self.norm2(x), words, picture, weight)
        return x + self.ff(self.norm3(x))


class MultiViewTransformer(nn.Module):
    """`depth` blocks on feature maps [G * V, width, h, w], of which V belong to one object.

    The views' tokens stand in one row, so attention to the words, which all views share, needs no copies of them.
    """

    def __init__(self, width: int, context: int, heads: int, depth: int, pictured: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(width, context, heads, pictured) for _ in range(depth))
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Tensor, words: Tensor, picture: Tensor | None, weight: float) -> Tensor:
        """words [G, L, context]; picture [G, P, context]."""
        rows, _, height, width = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(len(words), -1, x.shape[1])  # view, row, column
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, words, picture, weight)
        tokens = self.proj_out(tokens)
        return x + tokens.reshape(rows, height, width, -1).permute(0, 3, 1, 2)


class PerceiverAttention(nn.Module):
    """Of latents [B, P, width] to a picture's tokens [B, N, width] and themselves."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, picture: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm2(latents)
        key, value = self.to_kv(torch.cat([self.norm1(picture), latents], 1)).chunk(2, -1)
        return self.to_out(attend(self.to_q(latents), key, value, self.heads))


class Resampler(nn.Module):
    """A picture's many tokens [B, N, inputs] as a few learned ones [B, count, width] for cross-attention."""

    def __init__(
        self, inputs: int, width: int, count: int, layers: int = 4, heads: int = 12, head_width: int = 64
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, count, width) / width**0.5)
        self.proj_in = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(width, heads, head_width),
                    nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, 4 * width, bias=False),
                        nn.GELU(),
                        nn.Linear(4 * width, width, bias=False),
                    ),
                ]
            )
            for _ in range(layers)
        )
        self.proj_out = nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.proj_in(tokens)
        latents = self.latents.expand(len(tokens), -1, -1)
        for layer in self.layers:
            attention, feed_forward = cast(nn.ModuleList, layer)
            latents = latents + attention(tokens, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))
