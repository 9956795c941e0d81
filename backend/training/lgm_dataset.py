"""Training examples for the reconstructor: four given views of a world object, and views that must come out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from backend.cameras import look_at, orbit, orbit_positions, pinhole
from backend.datatypes import Cameras
from backend.training.dataset import random_light
from backend.training.world.scene import sample_object
from backend.training.world.tracer import render_batch
from backend.views.dmv3d import AZIMUTHS, FOV_DEGREES, RADIUS

SEEN_VIEWS, NOVEL_VIEWS = 1, 2  # that must come out, a scene


@dataclass(frozen=True)
class LgmBatch:
    """given [B, 4, 4, S, S], with cameras, one a scene; at the Gaussians' pixels the alpha [B, 4, s, s] and the
    distance along the ray [B, 4, s, s], 0 where there is none to learn; wanted [B, W, 4, S, S] bare colours, with
    wanted_cameras; captions."""

    given: Tensor
    cameras: list[Cameras]
    alpha: Tensor
    distance: Tensor
    wanted: Tensor
    wanted_cameras: list[Cameras]
    captions: list[str]


def _input_cameras(rng: np.random.Generator, size: int, jitter_share: float) -> Cameras:
    """Mostly the generator's own four; sometimes a user's: uneven angles, heights, distances and lenses."""
    if rng.random() >= jitter_share:
        return orbit(list(AZIMUTHS), [float(rng.uniform(5, 35))] * 4, RADIUS, FOV_DEGREES, size)
    azimuths = torch.tensor(AZIMUTHS) + torch.from_numpy(rng.uniform(-25, 25, 4)).float()
    elevations = torch.from_numpy(rng.uniform(-10, 45, 4)).float()
    fov = float(rng.uniform(42, 58))
    # A longer lens stands further away, so that the object keeps its size in the frame.
    fitting = RADIUS * np.tan(np.radians(FOV_DEGREES / 2)) / np.tan(np.radians(fov / 2))
    radius = torch.from_numpy(rng.uniform(0.95, 1.15, 4) * fitting).float()
    positions = orbit_positions(azimuths, elevations, radius)
    return Cameras(look_at(positions, torch.zeros_like(positions)), pinhole(4, fov, size, size), size, size)


def novel_cameras(rng: np.random.Generator, size: int) -> Cameras:
    """Views from anywhere, also a little from below."""
    azimuths = torch.from_numpy(rng.uniform(0, 360, NOVEL_VIEWS)).float()
    elevations = torch.from_numpy(rng.uniform(-20, 60, NOVEL_VIEWS)).float()
    return orbit(azimuths, elevations, RADIUS, FOV_DEGREES, size)


def _soften(rng: np.random.Generator, rgba: Tensor) -> Tensor:
    """Views as a denoiser makes them: blurred, and not quite agreeing with each other (LGM section 3.4)."""
    premultiplied = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
    size = rgba.shape[-1]
    small = F.interpolate(premultiplied, scale_factor=float(rng.uniform(0.3, 0.8)), mode="area")
    soft = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    if rng.random() < 0.5:  # a smooth random warp of a pixel or two, another for each view
        shift = torch.from_numpy(rng.normal(size=(4, 2, 5, 5))).float() * 0.015
        field = F.interpolate(shift, size=(size, size), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
        ticks = (torch.arange(size) + 0.5) / size * 2 - 1
        grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)
        soft = F.grid_sample(soft, grid + field, align_corners=False)
    return torch.cat([soft[:, :3] / soft[:, 3:].clamp_min(1e-3), soft[:, 3:]], 1).clamp(0, 1)


def joined(one: Cameras, other: Cameras) -> Cameras:
    """All cameras of both, which must see pictures of the same size."""
    poses = torch.cat([one.camera_to_world, other.camera_to_world])
    return Cameras(poses, torch.cat([one.intrinsics, other.intrinsics]), one.width, one.height)


def lgm_batch(seed: int, first: int, count: int, size: int, stride: int, easy: bool = False) -> LgmBatch:
    """Examples `first` to `first + count - 1`; Gaussians stand at every `stride`-th pixel.

    easy: the generator's cameras, bare colours and sharp views only, as in evaluation.
    """
    rng = np.random.default_rng([seed, first, 2])
    scenes = [sample_object(seed, first + i) for i in range(count)]
    rows = [scene.placed(0.0 if easy or rng.random() < 0.6 else float(rng.uniform(0, 360))) for scene in scenes]
    cameras = [_input_cameras(rng, size, 0.0 if easy else 0.35) for _ in scenes]
    given, _ = render_batch(rows, cameras)
    surface, distance = render_batch(rows, [views.resized(size // stride, size // stride) for views in cameras])

    chosen = rng.integers(0, 4, (count, SEEN_VIEWS))
    novel = [novel_cameras(rng, size) for _ in scenes]
    wanted_cameras = [joined(c[list(index)], n) for c, index, n in zip(cameras, chosen, novel, strict=True)]
    seen = torch.stack([given[i, index] for i, index in enumerate(chosen)])
    wanted = torch.cat([seen, render_batch(rows, novel)[0]], 1)

    if not easy:
        lights = np.stack([random_light(rng, bare=0.6) for _ in scenes])
        lit = [i for i in range(count) if lights[i, 3] < 1]
        if lit:
            given[lit] = render_batch([rows[i] for i in lit], [cameras[i] for i in lit], lights[lit])[0]
        for i in range(count):
            if rng.random() < 0.5:
                given[i] = _soften(rng, given[i])
    captions = [scene.caption for scene in scenes]
    return LgmBatch(given, cameras, surface[:, :, 3], distance, wanted, wanted_cameras, captions)
