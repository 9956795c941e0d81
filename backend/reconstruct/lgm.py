"""LGM as a reconstructor: four posed views in, Gaussians in the canonical frame out."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from backend.cameras import plucker, rays
from backend.datatypes import Cameras, Gaussians, Step, Views
from backend.errors import BadInput
from backend.nets.lgm import Lgm, LgmConfig, ray_gaussians
from backend.reconstruct.turning import first_azimuth, gaussians_about_up, turned_about_up
from backend.render.visual_hull import hull_distances
from backend.views.signed import to_signed
from backend.weights import STARTER_PACK, load_checkpoint, load_into

VIEWS = 4
FAINTEST = 0.05  # Gaussians below this opacity are noise that the surface should not see
REACH = 1.15  # half the side of the cube outside which nothing of an object can be


def resize_rgba(rgba: Tensor, size: int) -> Tensor:
    """[V, 4, H, W] straight RGBA to [V, 4, size, size], colours weighted by alpha so that no background bleeds in."""
    if rgba.shape[-1] == size and rgba.shape[-2] == size:
        return rgba
    alpha = rgba[:, 3:]
    premultiplied = torch.cat([rgba[:, :3] * alpha, alpha], 1)
    smaller = F.interpolate(premultiplied, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return torch.cat([smaller[:, :3] / smaller[:, 3:].clamp_min(1e-4), smaller[:, 3:]], 1).clamp(0, 1)


def network_input(rgba: Tensor, cameras: Cameras, hull: Tensor) -> Tensor:
    """[V, 11, H, W]: signed RGBA, Plücker rays, and where the rays enter the visual hull ([V, h, w], from the point
    nearest to the origin), of V views."""
    size = (rgba.shape[-2], rgba.shape[-1])
    return torch.cat([to_signed(rgba), plucker(cameras), F.interpolate(hull[:, None], size=size, mode="nearest")], 1)


def gaussian_rows(network: Lgm, rgba: Tensor, cameras: list[Cameras]) -> Tensor:
    """[B, N, 14] (position, opacity, scale, rotation, colour) of views rgba [B, V, 4, S, S], one Cameras a scene."""
    side = rgba.shape[-1] // network.config.stride
    start = torch.stack([hull_distances(p[:, 3], views, side) for p, views in zip(rgba, cameras, strict=True)])
    small = torch.stack([resize_rgba(pictures, side) for pictures in rgba])
    origins, directions = (
        torch.stack(parts) for parts in zip(*(rays(c.resized(side, side)) for c in cameras), strict=True)
    )
    nearest = -(origins * directions).sum(-1)
    images = [network_input(*scene) for scene in zip(rgba, cameras, start - nearest, strict=True)]
    raw = network(torch.stack(images))
    return ray_gaussians(raw.float(), origins, directions, start, small[:, :, :3])


def as_gaussians(rows: Tensor) -> Gaussians:
    """[N, 14] rows as Gaussians."""
    means, opacities, scales, quats, colors = rows.split([3, 1, 3, 4, 3], -1)
    return Gaussians(means, scales, quats, opacities[:, 0], colors)


class LgmReconstructor:
    """The starter pack's reconstructor."""

    def __init__(self, network: Lgm, size: int, device: str = "cpu") -> None:
        self.network = network.to(device).eval()
        self.size = size
        self.device = device

    @classmethod
    def load(cls, path: Path | None = None, device: str = "cpu") -> LgmReconstructor:
        """Reads a checkpoint, by default the starter pack's. Raises MissingWeights."""
        path = path or STARTER_PACK / "lgm.safetensors"
        state, metadata = load_checkpoint(path)
        network = Lgm(LgmConfig.from_dict(metadata["config"]))
        load_into(network, state, path.name)
        return cls(network, metadata["size"], device)

    @torch.inference_mode()
    def reconstruct(self, views: Views, warnings: list[str] | None = None) -> Generator[Step, None, Gaussians]:
        """Gaussians of an object that four cameras round the origin look at, in the cameras' own frame.

        Raises BadInput when there are not four views, or when they show nothing.
        """
        if len(views) != VIEWS:
            raise BadInput(f"This model needs {VIEWS} views, not {len(views)}.", "Choose four pictures from all sides.")
        rgba = resize_rgba(views.rgba, self.size).to(self.device)
        azimuth = first_azimuth(views.cameras)  # in training the first camera mostly stood at about 0 degrees
        cameras = views.cameras if abs(azimuth) < 0.01 else turned_about_up(views.cameras, -azimuth)
        cameras = cameras.resized(self.size, self.size).to(self.device)
        gaussians = as_gaussians(gaussian_rows(self.network, rgba[None], [cameras])[0].cpu())
        kept = (gaussians.opacities > FAINTEST) & (gaussians.means.abs().amax(-1) < REACH)
        if not kept.any():
            raise BadInput(
                "Nothing can be made out in the views.", "Choose pictures that show one object on a plain background."
            )
        yield Step(1, 1, "Placing Gaussians")
        gaussians = gaussians[kept]
        return gaussians if abs(azimuth) < 0.01 else gaussians_about_up(gaussians, azimuth)
