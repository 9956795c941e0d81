"""Training examples from the world, made on the fly: example `index` of `seed` is the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backend.cameras import look_at, orbit, orbit_positions
from backend.datatypes import Cameras
from backend.training.world.primitives import BOUND, POSITION
from backend.training.world.scene import WorldObject, sample_object
from backend.training.world.tracer import render_batch, signed_distances, trace_rays
from backend.views.dmv3d import AZIMUTHS, FOV_DEGREES, PICTURE_FRACTION, RADIUS

HELD_OUT_SEED = 1_000_003  # added to a seed for examples that training never sees
PICTURE_ELEVATIONS = (-5.0, 45.0)  # degrees, from which pictures are taken
# How wrongly a picture's camera is told, standard deviations in degrees; EXACT_SHARE of them are right.
AZIMUTH_ERROR, ELEVATION_ERROR, EXACT_SHARE = 8.0, 4.0, 0.4


@dataclass(frozen=True)
class RaySupervision:
    """What single rays and points of an object must come to.

    origins, directions [B, R, 3]; rgba [B, R, 4], straight alpha; distance [B, R]; points [B, K, 3]; inside [B, K].
    """

    origins: Tensor
    directions: Tensor
    rgba: Tensor
    distance: Tensor
    points: Tensor
    inside: Tensor


@dataclass(frozen=True)
class Dmv3dBatch:
    """rgba [B, 4, 4, S, S] bare base colour; pictured [B, 4, S, S] view 0 as a user's picture may look (lit);
    clean_first [B]; kinds; captions; cameras, one a scene, where the network is told that the views were taken: a
    picture's own camera is not quite right, as nobody knows it exactly; supervision."""

    rgba: Tensor
    pictured: Tensor
    clean_first: Tensor
    kinds: list[str]
    captions: list[str]
    cameras: list[Cameras]
    supervision: RaySupervision


def random_light(rng: np.random.Generator, bare: float) -> np.ndarray:
    """[4]: direction to a lamp from above and the ambient share; with probability `bare` no shading at all."""
    if rng.random() < bare:
        return np.array([0.0, 1.0, 0.0, 1.0], np.float32)
    direction = rng.normal(size=3)
    direction[1] = abs(direction[1]) + 0.3
    direction /= np.linalg.norm(direction)
    return np.array([*direction, rng.uniform(0.35, 0.9)], np.float32)


def _as_pictured(example: WorldObject, camera: Cameras) -> np.ndarray:
    """Rows placed so that the first view frames the object as a prepared picture does: centred, of a fixed size."""
    rows = example.rows
    small = camera[:1].resized(32, 32)
    alpha = render_batch([rows], [small])[0][0, 0, 3] > 0.5
    if not alpha.any():
        return rows
    where = alpha.nonzero().float()
    low, high = where.amin(0), where.amax(0) + 1
    # Never so large that a side which the picture hides would leave the frame of the other views.
    scale = min(max(PICTURE_FRACTION * 32 / float((high - low).max()), 0.7), 1.09)
    offset = ((low + high) / 2 - 16.0) / float(small.intrinsics[0, 0, 0]) * RADIUS
    pose = camera.camera_to_world[0].numpy()
    shift = -(pose[:3, 0] * float(offset[1]) - pose[:3, 1] * float(offset[0])) * scale
    return example.placed(0.0, scale, shift)


def _render_pictured(rows: list[np.ndarray], cameras: list[Cameras], lights: list[np.ndarray]) -> Tensor:
    """[B, 4, S, S]: each scene's first view as a picture may show it, lit."""
    return render_batch(rows, [views[:1] for views in cameras], np.stack(lights))[0][:, 0]


def _misjudged(rng: np.random.Generator, views: Cameras, azimuth: float, elevation: float) -> Cameras:
    """`views` with the first as it would be if a picture's azimuth and elevation had been read with an error."""
    if rng.random() < EXACT_SHARE:
        return views
    azimuth += float(rng.normal(0, AZIMUTH_ERROR))
    elevation += float(rng.normal(0, ELEVATION_ERROR))
    guess = orbit([azimuth], [elevation], RADIUS, FOV_DEGREES, views.width)
    poses = torch.cat([guess.camera_to_world, views.camera_to_world[1:]])
    return Cameras(poses, views.intrinsics, views.width, views.height)


def _supervise(
    rng: np.random.Generator, rows: list[np.ndarray], cameras: list[Cameras], rays: int, points: int
) -> RaySupervision:
    origins, directions, locations = [], [], []
    for scene, views in zip(rows, cameras, strict=True):
        own = views.camera_to_world[rng.integers(0, len(views), rays // 2)]
        azimuth = torch.from_numpy(rng.uniform(0, 360, rays - rays // 2)).float()
        elevation = torch.from_numpy(rng.uniform(-30, 75, rays - rays // 2)).float()
        eyes = orbit_positions(azimuth, elevation, RADIUS)
        poses = torch.cat([own, look_at(eyes, torch.zeros_like(eyes))])
        # Most rays are aimed at the object: half of a frame is empty, and empty space is learnt soon enough.
        chosen = scene[rng.integers(0, len(scene), rays)]
        ball = rng.normal(size=(rays, 3))
        ball *= (rng.random((rays, 1)) ** (1 / 3)) / np.linalg.norm(ball, axis=1, keepdims=True)
        aims = torch.from_numpy(chosen[:, POSITION : POSITION + 3] + ball * chosen[:, BOUND, None] * 0.9).float()
        reach = np.tan(np.radians(FOV_DEGREES / 2))
        pixel = torch.from_numpy(
            np.concatenate([rng.uniform(-reach, reach, (rays, 2)), -np.ones((rays, 1))], 1)
        ).float()
        anywhere = torch.einsum("rij,rj->ri", poses[:, :3, :3], pixel)
        aimed = torch.from_numpy(rng.random(rays) < 0.6)[:, None]
        origin = poses[:, :3, 3]
        origins.append(origin)
        directions.append(torch.nn.functional.normalize(torch.where(aimed, aims - origin, anywhere), dim=-1))
        near = scene[rng.integers(0, len(scene), points - points // 2)]
        spread = rng.normal(size=(len(near), 3)) * near[:, BOUND, None] * 0.55
        cloud = np.concatenate([rng.uniform(-1, 1, (points // 2, 3)), near[:, POSITION : POSITION + 3] + spread])
        locations.append(torch.from_numpy(cloud.clip(-1, 1)).float())
    origin, direction, location = torch.stack(origins), torch.stack(directions), torch.stack(locations)
    rgba, distance = trace_rays(rows, origin.contiguous(), direction.contiguous())
    inside = signed_distances(rows, location) < 0
    return RaySupervision(origin, direction, rgba, distance, location, inside)


def dmv3d_batch(
    seed: int,
    first: int,
    count: int,
    size: int,
    *,
    rays: int = 256,
    points: int = 384,
    pictured_share: float = 0.3,
    exact: bool = False,
) -> Dmv3dBatch:
    """Examples `first` to `first + count - 1`.

    `pictured_share` of them keep their first view clean, taken from any side; the other three go on from there. exact:
    a picture's camera is told as it is.
    """
    rng = np.random.default_rng([seed, first, 1])
    rows, cameras, told, kinds, captions, clean, lights = [], [], [], [], [], [], []
    for index in range(first, first + count):
        example = sample_object(seed, index)
        pictured = bool(rng.random() < pictured_share)
        azimuth, elevation = float(rng.uniform(0, 360)), float(rng.uniform(*PICTURE_ELEVATIONS))
        if not pictured:
            azimuth, elevation = 0.0, float(rng.uniform(8, 32))
        views = orbit([azimuth + turn for turn in AZIMUTHS], [elevation] * 4, RADIUS, FOV_DEGREES, size)
        rows.append(_as_pictured(example, views) if pictured else example.rows)
        cameras.append(views)
        told.append(_misjudged(rng, views, azimuth, elevation) if pictured and not exact else views)
        kinds.append(example.kind)
        captions.append(example.caption)
        clean.append(pictured)
        lights.append(random_light(rng, bare=0.35))
    rgba, _ = render_batch(rows, cameras)
    lit = rgba[:, 0].clone()
    if any(clean):
        which = [i for i, flag in enumerate(clean) if flag]
        lit[which] = _render_pictured([rows[i] for i in which], [cameras[i] for i in which], [lights[i] for i in which])
    supervision = _supervise(rng, rows, cameras, rays, points)
    return Dmv3dBatch(rgba, lit, torch.tensor(clean), kinds, captions, told, supervision)


@dataclass(frozen=True)
class PictureBatch:
    """pictures [B, 4, S, S], straight RGBA, lit; kinds; azimuths, elevations [B] of their cameras in radians."""

    pictures: Tensor
    kinds: list[str]
    azimuths: Tensor
    elevations: Tensor


def picture_batch(seed: int, first: int, count: int, size: int) -> PictureBatch:
    """Examples `first` to `first + count - 1` of pictures as users give them, with what is to be read from them."""
    rng = np.random.default_rng([seed, first, 4])
    azimuths, elevations = rng.uniform(0, 360, count), rng.uniform(*PICTURE_ELEVATIONS, count)
    rows, cameras, kinds = [], [], []
    for index in range(count):
        example = sample_object(seed, first + index)
        camera = orbit([float(azimuths[index])], [float(elevations[index])], RADIUS, FOV_DEGREES, size)
        rows.append(_as_pictured(example, camera))
        cameras.append(camera)
        kinds.append(example.kind)
    pictures = _render_pictured(rows, cameras, [random_light(rng, bare=0.35) for _ in rows])
    angles = [torch.from_numpy(np.radians(values)).float() for values in (azimuths, elevations)]
    return PictureBatch(pictures, kinds, angles[0], angles[1])
