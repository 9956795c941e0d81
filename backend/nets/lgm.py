"""LGM: posed views to pixel-aligned 3D Gaussians through an asymmetric U-Net (arXiv 2402.05054, section 3.3)."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.errors import MissingWeights
from backend.nets.unet import UNet, finished


@dataclass(frozen=True)
class LgmConfig:
    """Sizes of the network. inputs: colour channels plus six of Plücker rays (and the hull's distance).

    along_rays: the small model places a Gaussian by its distance from the visual hull along its pixel's ray and a shift
    across it, and corrects the pixel's own colour; the published ones predict positions and colours outright.
    """

    inputs: int = 9
    down: tuple[int, ...] = (64, 128, 256, 512, 1024, 1024)
    down_attention: tuple[bool, ...] = (False, False, False, True, True, True)
    up: tuple[int, ...] = (1024, 1024, 512, 256, 128)
    up_attention: tuple[bool, ...] = (True, True, True, False, False)
    layers: int = 2
    heads: int = 16
    groups: int = 32
    along_rays: bool = False

    @property
    def stride(self) -> int:
        """Input pixels a Gaussian, along one side."""
        return 2 ** (len(self.down) - len(self.up))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]], heads: int = 16, groups: int = 32) -> LgmConfig:
        """The sizes that a state dict's shapes tell. heads, groups: none tells them; the published ones' by default.

        Raises MissingWeights where these are not the shapes of an LGM.
        """

        def count(pattern: str) -> int:
            return len({match[1] for key in shapes if (match := re.match(pattern, key))})

        def stages(way: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
            stems = [f"unet.{way}_blocks.{index}." for index in range(count(rf"unet\.{way}_blocks\.(\d+)\."))]
            widths = tuple(shapes[f"{stem}nets.0.conv1.weight"][0] for stem in stems)
            return widths, tuple(f"{stem}attns.0.norm.weight" in shapes for stem in stems)

        try:
            inputs, layers = shapes["unet.conv_in.weight"][1], count(r"unet\.down_blocks\.0\.nets\.(\d+)\.")
            (down, down_attention), (up, up_attention) = stages("down"), stages("up")
        except (KeyError, IndexError) as error:
            raise MissingWeights(
                f"These are not LGM's weights: {error.args[0]} is missing or misshapen.", "Choose another file."
            ) from error
        if not 0 < len(up) <= len(down):
            raise MissingWeights("These are not LGM's weights: they lack stages of its U-Net.", "Choose another file.")
        return cls(inputs, down, down_attention, up, up_attention, layers, heads, groups)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LgmConfig:
        known = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**known)  # type: ignore[arg-type]


TINY = LgmConfig(
    down=(32, 64, 128, 256, 512), down_attention=(False, False, False, False, True), up=(512, 256, 128),
    up_attention=(True, False, False),
)  # fmt: skip
SMALL = LgmConfig(up=(1024, 1024, 512, 256), up_attention=(True, True, True, False))
BIG = LgmConfig()
STARTER = LgmConfig(
    inputs=11, down=(16, 32, 64, 128), down_attention=(False, False, False, True), up=(128, 64, 32),
    up_attention=(True, False, False), layers=1, heads=4, groups=8, along_rays=True,
)  # fmt: skip


class Lgm(nn.Module):
    """The network; `forward` gives the raw 14 channels a pixel, the functions below make Gaussians of them."""

    def __init__(self, config: LgmConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(
            config.inputs, 14, config.down, config.down_attention, config.up, config.up_attention,
            layers=config.layers, heads=config.heads, groups=config.groups,
        )  # fmt: skip
        self.conv = nn.Conv2d(14, 14, 1)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, V, inputs, H, W] to raw values [B, V, 14, H', W']: position, opacity, scale, rotation, colour."""
        return finished(self.walk(images))

    def walk(self, images: Tensor) -> Generator[None, None, Tensor]:
        """`forward` with a pause after each of the U-Net's stages."""
        batch, views = images.shape[:2]
        raw = yield from self.unet.walk(images.flatten(0, 1), views)
        return self.conv(raw).unflatten(0, (batch, views))


def absolute_gaussians(raw: Tensor) -> Tensor:
    """The published activations: raw [B, V, 14, h, w] to [B, V * h * w, 14] in the model's frame (|position| <= 1)."""
    x = raw.permute(0, 1, 3, 4, 2).flatten(1, 3)
    position, opacity, scale, rotation, color = x.split([3, 1, 3, 4, 3], -1)
    return torch.cat(
        [
            position.clamp(-1, 1),
            opacity.sigmoid(),
            0.1 * F.softplus(scale),
            F.normalize(rotation, dim=-1),
            0.5 * torch.tanh(color) + 0.5,
        ],
        -1,
    )


def ray_gaussians(raw: Tensor, origins: Tensor, directions: Tensor, start: Tensor, rgb: Tensor) -> Tensor:
    """The small model's activations: positions relative to a start along each pixel's ray.

    raw [B, V, 14, h, w]; origins, directions [B, V, h, w, 3]; start [B, V, h, w], where the ray enters the visual hull;
    rgb [B, V, 3, h, w], the pictures at the Gaussians' resolution. Returns [B, V * h * w, 14].
    """
    x = raw.permute(0, 1, 3, 4, 2)
    along, across, opacity, scale, rotation, color = x.split([1, 2, 1, 3, 4, 3], -1)
    right = F.normalize(torch.linalg.cross(directions, _not_parallel(directions), dim=-1), dim=-1)
    down = torch.linalg.cross(directions, right, dim=-1)
    distance = start[..., None] + 0.3 * along
    shift = 0.1 * (across[..., :1] * right + across[..., 1:] * down)
    position = origins + distance * directions + shift
    seen = rgb.permute(0, 1, 3, 4, 2).clamp(0.02, 0.98)
    result = torch.cat(
        [
            position,
            opacity.sigmoid(),
            0.03 * F.softplus(scale),
            F.normalize(rotation + rotation.new_tensor([1.0, 0.0, 0.0, 0.0]), dim=-1),
            torch.sigmoid(torch.logit(seen) + color),
        ],
        -1,
    )
    return result.flatten(1, 3)


def _not_parallel(directions: Tensor) -> Tensor:
    """An axis that none of the rays comes near: y, or x for rays that run along y."""
    upright = directions[..., 1:2].abs() > 0.9
    y, x = directions.new_tensor([0.0, 1.0, 0.0]), directions.new_tensor([1.0, 0.0, 0.0])
    return torch.where(upright, x, y).expand_as(directions)
