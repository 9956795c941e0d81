"""Pictures of a set of Gaussians from a set of cameras."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.cameras import world_to_camera_opencv
from backend.datatypes import Cameras, Gaussians
from backend.render.rasterize import rasterization


def render_gaussians(gaussians: Gaussians, cameras: Cameras, background: Tensor | float | None = None) -> Tensor:
    """[V, 4, H, W]: RGBA pictures, differentiable in the Gaussians.

    Without a background the alpha is straight: where nothing is, the colour is 0. With one (a number, or a tensor [3]
    or [V, 3]) the colour is composited over it, and alpha still says what the Gaussians cover. Colours are not clamped.
    """
    colors, alphas, _ = rasterization(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.colors,
        world_to_camera_opencv(cameras).to(gaussians.means),
        cameras.intrinsics.to(gaussians.means),
        cameras.width,
        cameras.height,
    )
    if background is None:
        # Below a thousandth of alpha the quotient would be noise, and its gradient would explode.
        colors = colors / alphas.clamp(min=1e-3)
    else:
        behind = torch.as_tensor(background, dtype=colors.dtype, device=colors.device)
        colors = colors + (1.0 - alphas) * (behind[:, None, None, :] if behind.ndim == 2 else behind)
    return torch.cat([colors, alphas], dim=-1).permute(0, 3, 1, 2)
