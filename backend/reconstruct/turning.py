"""Scenes turned about the vertical axis: for networks that only know some azimuths."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.datatypes import Cameras, Gaussians


def turned_about_up(cameras: Cameras, degrees: float) -> Cameras:
    """The cameras moved around +Y, to azimuths greater by so many degrees."""
    pose = cameras.camera_to_world.clone()
    pose[:, :3] = _about_up(degrees) @ pose[:, :3]
    return Cameras(pose, cameras.intrinsics, cameras.width, cameras.height)


def gaussians_about_up(gaussians: Gaussians, degrees: float) -> Gaussians:
    """The Gaussians turned about +Y likewise."""
    half = math.radians(degrees) / 2
    c, s = math.cos(half), math.sin(half)
    left = gaussians.quats.new_tensor([[c, 0.0, -s, 0.0], [0.0, c, 0.0, s], [s, 0.0, c, 0.0], [0.0, -s, 0.0, c]])
    means = gaussians.means @ _about_up(degrees).T
    return Gaussians(means, gaussians.scales, gaussians.quats @ left.T, gaussians.opacities, gaussians.colors)


def _about_up(degrees: float) -> Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def first_azimuth(cameras: Cameras) -> float:
    """Of the first camera, in degrees; 0 where it looks straight down or up."""
    x, _, z = cameras.camera_to_world[0, :3, 3].tolist()
    return math.degrees(math.atan2(x, z)) if math.hypot(x, z) > 1e-3 else 0.0
