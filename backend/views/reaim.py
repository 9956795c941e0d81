"""Turning a camera after the fact: a picture as a camera at the same place would see it, aimed and zoomed otherwise.

Where the place stays, this is exact: no point of the scene appears or hides (a homography).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.cameras import look_at, rays
from backend.datatypes import Cameras
from backend.formats.images import resize


def aimed_at_origin(camera_to_world: Tensor, half_width: float, size: int) -> Cameras:
    """V square cameras at the given places that look at the origin, +Y up.

    camera_to_world [V, 4, 4]. half_width: of the square at the origin, across the line of sight, that fills a picture:
    cameras farther away have narrower lenses, and an object fills the same share of every picture.
    """
    positions = camera_to_world[:, :3, 3]
    focal = 0.5 * size * positions.norm(dim=-1) / half_width
    intrinsics = torch.eye(3).repeat(len(positions), 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, :2, 2] = size / 2
    return Cameras(look_at(positions, torch.zeros_like(positions)), intrinsics, size, size)


def reaim(rgba: Tensor, camera_to_world: Tensor, intrinsics: Tensor, target: Cameras) -> Tensor:
    """[4, S, S]: the picture rgba [4, H, W] of one camera as the one camera in `target` sees it, straight alpha.

    camera_to_world [4, 4], intrinsics [3, 3] in pixels of the picture. What the picture does not show is transparent.
    """
    # Sampling a picture much finer than the target would alias: reduce it first.
    finer = float(intrinsics[0, 0] / target.intrinsics[0, 0, 0])
    if finer > 1.5:
        height, width = (max(1, math.ceil(side / finer)) for side in rgba.shape[1:])
        scale = intrinsics.new_tensor([width / rgba.shape[2], height / rgba.shape[1], 1.0])
        rgba, intrinsics = resize(rgba, height, width), intrinsics * scale[:, None]
    height, width = rgba.shape[1:]
    _, directions = rays(target)
    local = directions[0] @ camera_to_world[:3, :3]
    ahead = (-local[..., 2]).clamp_min(1e-6)
    x = intrinsics[0, 0] * local[..., 0] / ahead + intrinsics[0, 2]
    y = -intrinsics[1, 1] * local[..., 1] / ahead + intrinsics[1, 2]
    seen = local[..., 2] < -1e-6
    grid = torch.stack([x / width * 2 - 1, y / height * 2 - 1], dim=-1)
    grid = torch.where(seen[..., None], grid, grid.new_tensor(9.0))
    premultiplied = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    sampled = torch.nn.functional.grid_sample(premultiplied[None], grid[None], mode="bilinear", align_corners=False)[0]
    return torch.cat([sampled[:3] / sampled[3:].clamp_min(1e-4), sampled[3:]]).clamp(0, 1)
