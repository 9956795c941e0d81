"""Camera geometry: orbits, rays, Plücker coordinates and the conventions of other programs.

World: +Y up, azimuth 0 looks from +Z, 90 from +X; positive elevation is above. Camera axes: OpenGL.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.datatypes import Cameras


def look_at(positions: Tensor, targets: Tensor, up: tuple[float, float, float] = (0.0, 1.0, 0.0)) -> Tensor:
    """[V, 4, 4] camera_to_world of cameras at `positions` [V, 3] that look at `targets` [V, 3]."""
    backward = torch.nn.functional.normalize(positions - targets, dim=-1)
    up_axis = positions.new_tensor(up).expand_as(backward)
    right = torch.linalg.cross(up_axis, backward, dim=-1)
    # Straight above or below the target `up` says nothing about the right-hand side: take +x.
    degenerate = right.norm(dim=-1, keepdim=True) < 1e-6
    right = torch.where(degenerate, positions.new_tensor([1.0, 0.0, 0.0]).expand_as(right), right)
    right = torch.nn.functional.normalize(right, dim=-1)
    true_up = torch.linalg.cross(backward, right, dim=-1)
    pose = torch.eye(4, dtype=positions.dtype, device=positions.device).repeat(positions.shape[0], 1, 1)
    pose[:, :3, :4] = torch.stack([right, true_up, backward, positions], dim=-1)
    return pose


def orbit_positions(azimuths: Tensor, elevations: Tensor, radius: float | Tensor) -> Tensor:
    """[V, 3] points on a sphere round the origin; angles [V] in degrees."""
    azimuth, elevation = torch.deg2rad(azimuths), torch.deg2rad(elevations)
    direction = torch.stack(
        [elevation.cos() * azimuth.sin(), elevation.sin(), elevation.cos() * azimuth.cos()],
        dim=-1,
    )
    return direction * torch.as_tensor(radius, dtype=direction.dtype, device=direction.device).reshape(-1, 1)


def pinhole(views: int, fov_degrees: float, width: int, height: int) -> Tensor:
    """[V, 3, 3] intrinsics with the vertical field of view `fov_degrees` and a centred principal point."""
    focal = 0.5 * height / math.tan(math.radians(fov_degrees) / 2)
    return torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]).repeat(views, 1, 1)


def orbit(
    azimuths: Tensor | list[float],
    elevations: Tensor | list[float] | float,
    radius: float,
    fov_degrees: float,
    size: int,
) -> Cameras:
    """Square cameras on a sphere that look at the origin; angles in degrees, one a view."""
    azimuth = torch.as_tensor(azimuths, dtype=torch.float32)
    elevation = torch.as_tensor(elevations, dtype=torch.float32).expand_as(azimuth)
    positions = orbit_positions(azimuth, elevation, radius)
    return Cameras(
        look_at(positions, torch.zeros_like(positions)), pinhole(len(azimuth), fov_degrees, size, size), size, size
    )


def rays(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Origins and unit directions of the rays through all pixel centres, both [V, H, W, 3]."""
    device = cameras.intrinsics.device
    u = torch.arange(cameras.width, device=device) + 0.5
    v = torch.arange(cameras.height, device=device) + 0.5
    focal_x, focal_y = cameras.intrinsics[:, 0, 0, None, None], cameras.intrinsics[:, 1, 1, None, None]
    center_x, center_y = cameras.intrinsics[:, 0, 2, None, None], cameras.intrinsics[:, 1, 2, None, None]
    x = ((u[None, None, :] - center_x) / focal_x).expand(-1, cameras.height, -1)
    y = (-(v[None, :, None] - center_y) / focal_y).expand(-1, -1, cameras.width)
    local = torch.stack([x, y, -torch.ones_like(x)], dim=-1)
    directions = torch.einsum("vij,vhwj->vhwi", cameras.camera_to_world[:, :3, :3], local)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    origins = cameras.camera_to_world[:, None, None, :3, 3].expand_as(directions)
    return origins, directions


def plucker(cameras: Cameras) -> Tensor:
    """[V, 6, H, W] Plücker coordinates of the pixel rays: moment o x d, then direction d."""
    origins, directions = rays(cameras)
    return torch.cat([torch.linalg.cross(origins, directions, dim=-1), directions], dim=-1).permute(0, 3, 1, 2)


def world_to_camera_opencv(cameras: Cameras) -> Tensor:
    """[V, 4, 4] world-to-camera matrices with OpenCV axes (x right, y down, looking along +z): gsplat's `viewmats`."""
    flip = torch.diag(cameras.camera_to_world.new_tensor([1.0, -1.0, -1.0, 1.0]))
    return torch.linalg.inv(cameras.camera_to_world @ flip)
