"""Normals that agree with depths: what makes fitted discs lie in one surface (2D Gaussian splatting, arXiv 2403.17888,
section 4.2, equation 14)."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.datatypes import Cameras, Gaussians
from backend.render.gaussian_reference import rotation_matrices

CHANNELS = 4  # normal in the camera's axes, and depth


def geometry_channels(gaussians: Gaussians, viewmat: Tensor) -> tuple[Tensor, Tensor]:
    """[N, CHANNELS] to be blended like colours, and the depth that was taken off the last of them.

    A Gaussian's normal is its shortest axis, turned towards the camera; depth is that of its centre. Differentiable.
    """
    axes = rotation_matrices(gaussians.quats)
    shortest = gaussians.scales.argmin(dim=-1)
    normals = axes.gather(2, shortest[:, None, None].expand(-1, 3, 1))[..., 0] @ viewmat[:3, :3].T
    places = gaussians.means @ viewmat[:3, :3].T + viewmat[:3, 3]
    away = (normals * places).sum(dim=-1, keepdim=True) > 0
    depth = places[:, 2:]
    middle = depth.detach().median()  # of small numbers the sums are more exact
    return torch.cat([torch.where(away, -normals, normals), depth - middle], dim=-1), middle


def normal_disagreement(blended: Tensor, alpha: Tensor, middle: Tensor, cameras: Cameras, solid: Tensor) -> Tensor:
    """Mean over the object's inner pixels of 1 - cosine between blended normals and those of the blended depth.

    blended: [CHANNELS, H, W] of geometry_channels; alpha [H, W]; cameras: the one that looks; solid [H, W] bool: where
    the object is.
    """
    depth = blended[3] / alpha.clamp_min(1e-3) + middle
    height, width = depth.shape
    focal, center = cameras.intrinsics[0].diagonal()[:2], cameras.intrinsics[0, :2, 2]
    x = (torch.arange(width, device=depth.device) + 0.5 - center[0]) / focal[0]
    y = (torch.arange(height, device=depth.device) + 0.5 - center[1]) / focal[1]
    points = torch.stack([x[None, :] * depth, y[:, None] * depth, depth])
    across = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    of_depth = torch.nn.functional.normalize(torch.linalg.cross(down, across, dim=0), dim=0)
    inner = solid & (alpha.detach() > 0.5)
    inner = inner[1:-1, 1:-1] & inner[1:-1, 2:] & inner[1:-1, :-2] & inner[2:, 1:-1] & inner[:-2, 1:-1]
    agreement = (blended[:3, 1:-1, 1:-1] * of_depth).sum(dim=0)
    return ((alpha.detach()[1:-1, 1:-1] - agreement) * inner).sum() / inner.sum().clamp_min(1)
