"""DINOv2's vision transformer as an image encoder (arXiv 2304.07193), with the key names of `facebook/dinov2-base`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Dinov2Config:
    """Sizes of the network. grid: side of the table of positions in patches (518 / 14 for the published weights)."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    patch: int = 14
    grid: int = 37

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str = "", heads: int = 0) -> Dinov2Config:
        """The sizes that the shapes of a checkpoint tell. heads: the only one they do not; by default width / 64."""
        patches = state[f"{prefix}embeddings.patch_embeddings.projection.weight"]
        positions = state[f"{prefix}embeddings.position_embeddings"]
        stem = f"{prefix}encoder.layer."
        layers = {key[len(stem) :].split(".")[0] for key in state if key.startswith(stem)}
        width = int(patches.shape[0])
        grid = round((positions.shape[1] - 1) ** 0.5)
        return cls(width, len(layers), heads or max(1, width // 64), int(patches.shape[-1]), grid)


class Embeddings(nn.Module):
    """Patches to tokens, with the class token in front and learned positions added."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.width))
        self.mask_token = nn.Parameter(torch.zeros(1, config.width))  # in the checkpoints; training alone uses it
        self.position_embeddings = nn.Parameter(0.02 * torch.randn(1, config.grid**2 + 1, config.width))
        self.patch_embeddings = nn.ModuleDict(
            {"projection": nn.Conv2d(3, config.width, config.patch, stride=config.patch)}
        )

    def forward(self, images: Tensor) -> Tensor:
        """[V, 3, H, W] to [V, 1 + H W / patch^2, width]."""
        patches = self.patch_embeddings["projection"](images)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        return tokens + self.positions(*patches.shape[-2:])

    def positions(self, rows: int, columns: int) -> Tensor:
        """[1, 1 + rows * columns, width]: the table, resized as transformers 4.34 does.

        That release adds 0.1 to the wanted size so that rounding cannot lose a row, and lets the interpolation use the
        factor which that gives; later ones pass a size, and differ from what the published networks were trained on.
        """
        table = self.position_embeddings
        side = round((table.shape[1] - 1) ** 0.5)
        if rows == columns == side:
            return table
        factors = ((rows + 0.1) / side, (columns + 0.1) / side)
        grid = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
        resized = F.interpolate(grid, scale_factor=factors, mode="bicubic", align_corners=False)
        return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2).to(table.dtype)], 1)


class Attention(nn.Module):
    """Multi-head self-attention over tokens [V, L, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            self.attention[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        return self.output["dense"](F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers round a GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.lambda1


class Layer(nn.Module):
    """Attention and MLP, each normalised before and scaled after."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.layer_scale1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.layer_scale2 = LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        return x + self.layer_scale2(self.mlp(self.norm2(x)))


class Dinov2(nn.Module):
    """Images to one map of features: the last layer's patches, normalised."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        layers = nn.ModuleList(Layer(config.width, config.heads) for _ in range(config.layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.layernorm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """images [V, 3, H, W], normalised as ImageNet's; H and W multiples of the patch. To [V, width, h, w]."""
        tokens = self.embeddings(images)
        for layer in self.encoder["layer"].children():
            tokens = layer(tokens)
        rows = images.shape[-2] // self.config.patch
        return self.layernorm(tokens[:, 1:]).transpose(1, 2).unflatten(2, (rows, -1))
