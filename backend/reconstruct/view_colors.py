"""Colours of Gaussians on a surface from the pictures that show them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from backend.cameras import world_to_camera_opencv
from backend.datatypes import Gaussians, Views
from backend.render.geometry import rasterization_geometry

_SHARPNESS = 4.0  # power of the cosine between view and normal: the camera that looks most squarely decides
_LEAST_COSINE = 0.2
_OWN = 0.02  # the weight of the colour that a Gaussian has
_NEAR = 0.05  # how far behind what a camera sees a Gaussian may lie and still be what it sees, object 1.8 wide
_SOLID = 0.9  # alpha of a pixel that shows nothing but the object


@torch.no_grad()
def painted_by(views: Views, gaussians: Gaussians, normals: Tensor) -> Gaussians:
    """The Gaussians with the colours that the views show where they see them squarely; normals [N, 3] outward."""
    cameras = views.cameras
    viewmats, (height, width) = world_to_camera_opencv(cameras), views.rgba.shape[-2:]
    g = gaussians
    depths, _, _ = rasterization_geometry(
        g.means, g.quats, g.scales, g.opacities, viewmats, cameras.intrinsics, width, height, median=True
    )
    total, weights = _OWN * g.colors, torch.full_like(g.opacities, _OWN)
    for view, rgba in enumerate(views.rgba):
        seen = g.means @ viewmats[view, :3, :3].T + viewmats[view, :3, 3]
        pixels = seen @ cameras.intrinsics[view].T
        where = pixels[:, :2] / pixels[:, 2:].clamp_min(1e-6)
        grid = (where / where.new_tensor([width, height]) * 2 - 1)[None, None]
        picture = torch.cat([rgba, depths[view].permute(2, 0, 1)])[None]
        found = F.grid_sample(picture, grid, align_corners=False)[0, :, 0].T
        eye = F.normalize(cameras.camera_to_world[view, :3, 3] - g.means, dim=-1)
        cosine = (eye * normals).sum(-1)
        shown = (seen[:, 2] > 1e-3) & (grid[0, 0].abs().amax(-1) < 1) & (found[:, 3] > _SOLID)
        shown &= (cosine > _LEAST_COSINE) & (found[:, 4] > seen[:, 2] - _NEAR)
        weight = torch.where(shown, cosine.clamp_min(0) ** _SHARPNESS, 0.0)
        total = total + weight[:, None] * found[:, :3]
        weights = weights + weight
    return replace(gaussians, colors=(total / weights[:, None]).clamp(0, 1))
