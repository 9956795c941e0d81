"""Pictures of world objects by sphere tracing in numba: posed RGBA views, single rays, and occupancy at points."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from backend.datatypes import Cameras, Views
from backend.training.world.primitives import BOUND, COLUMNS, POSITION, albedo, distance

_MAX_STEPS = 96
_HIT = 8e-4  # scene units; a pixel of a 256 px view is about 1e-2


@numba.njit(fastmath=True, cache=True)
def _trace(rows, active, ox, oy, oz, dx, dy, dz):
    """Distance along the ray to the surface (negative: none) and the row that was hit."""
    count = 0
    near, far = 1e9, 0.0
    # Only primitives whose bounding sphere the ray meets can matter to it: usually two or three.
    for i in range(rows.shape[0]):
        px, py, pz = rows[i, POSITION] - ox, rows[i, POSITION + 1] - oy, rows[i, POSITION + 2] - oz
        along = px * dx + py * dy + pz * dz
        gap = rows[i, BOUND] ** 2 - (px * px + py * py + pz * pz - along * along)
        if gap > 0.0:
            half = np.sqrt(gap)
            if along + half > 0.0:
                active[count] = i
                count += 1
                near, far = min(near, max(along - half, 0.0)), max(far, along + half)
    if count == 0:
        return -1.0, -1
    t = near
    for _ in range(_MAX_STEPS):
        value, owner = distance(rows, active, count, ox + t * dx, oy + t * dy, oz + t * dz)
        if value < _HIT:
            return t, owner
        t += value
        if t > far:
            return -1.0, -1
    return (t, owner) if value < 10.0 * _HIT else (-1.0, -1)


@numba.njit(fastmath=True, cache=True)
def _shade(rows, everything, owner, x, y, z, light, out):
    """Base colour times light. light: direction to the lamp [3], ambient share; ambient 1 is the bare base colour."""
    albedo(rows[owner], x, y, z, out)
    ambient = light[3]
    if ambient >= 1.0:
        return
    step = 2e-3
    count = rows.shape[0]
    nx = distance(rows, everything, count, x + step, y, z)[0] - distance(rows, everything, count, x - step, y, z)[0]
    ny = distance(rows, everything, count, x, y + step, z)[0] - distance(rows, everything, count, x, y - step, z)[0]
    nz = distance(rows, everything, count, x, y, z + step)[0] - distance(rows, everything, count, x, y, z - step)[0]
    length = max(np.sqrt(nx * nx + ny * ny + nz * nz), 1e-9)
    cosine = (nx * light[0] + ny * light[1] + nz * light[2]) / length
    factor = ambient + (1.0 - ambient) * max(0.0, 0.35 + 0.65 * cosine)
    for k in range(3):
        out[k] *= factor


@numba.njit(fastmath=True, cache=True)
def _render_view(rows, pose, focal, size, light, rgba, depth):
    """One square view: a sample at each pixel's centre, then four more wherever neighbours disagree."""
    active = np.empty(rows.shape[0], np.int64)
    everything = np.arange(rows.shape[0])
    owners = np.empty((size, size), np.int64)
    color = np.empty(3, np.float32)
    ox, oy, oz = pose[0, 3], pose[1, 3], pose[2, 3]
    for again in range(2):
        for v in range(size):
            for u in range(size):
                samples = 1
                if again:
                    edge = False
                    for shift in range(4):
                        nv = min(max(v + (shift == 0) - (shift == 1), 0), size - 1)
                        nu = min(max(u + (shift == 2) - (shift == 3), 0), size - 1)
                        if owners[nv, nu] != owners[v, u]:
                            edge = True
                    if not edge:
                        continue
                    samples = 4
                red, green, blue, coverage = 0.0, 0.0, 0.0, 0.0
                for sample in range(samples):
                    su, sv = 0.5, 0.5
                    if again:
                        su, sv = 0.25 + 0.5 * (sample % 2), 0.25 + 0.5 * (sample // 2)
                    cx, cy = (u + su - 0.5 * size) / focal, -(v + sv - 0.5 * size) / focal
                    dx = pose[0, 0] * cx + pose[0, 1] * cy - pose[0, 2]
                    dy = pose[1, 0] * cx + pose[1, 1] * cy - pose[1, 2]
                    dz = pose[2, 0] * cx + pose[2, 1] * cy - pose[2, 2]
                    length = np.sqrt(dx * dx + dy * dy + dz * dz)
                    dx, dy, dz = dx / length, dy / length, dz / length
                    t, owner = _trace(rows, active, ox, oy, oz, dx, dy, dz)
                    if not again:
                        depth[v, u] = max(t, 0.0)
                        owners[v, u] = -1
                    if owner >= 0:
                        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                        _shade(rows, everything, owner, x, y, z, light, color)
                        red, green, blue = red + color[0], green + color[1], blue + color[2]
                        coverage += 1.0
                        if not again:
                            # Two neighbours of one primitive differ when its pattern does.
                            tone = int(color[0] * 7) + 8 * int(color[1] * 7) + 64 * int(color[2] * 7)
                            owners[v, u] = owner * 512 + tone
                share = max(coverage, 1.0)
                rgba[0, v, u], rgba[1, v, u], rgba[2, v, u] = red / share, green / share, blue / share
                rgba[3, v, u] = coverage / samples


@numba.njit(parallel=True, fastmath=True, cache=True)
def _render_views(rows, counts, poses, focals, size, lights, rgba, depth):
    views = poses.shape[1]
    for job in numba.prange(poses.shape[0] * views):
        scene, view = job // views, job % views
        used = rows[scene, : counts[scene]]
        _render_view(
            used, poses[scene, view], focals[scene, view], size, lights[scene], rgba[scene, view], depth[scene, view]
        )


@numba.njit(parallel=True, fastmath=True, cache=True)
def _trace_rays(rows, counts, origins, directions, rgba, depth):
    for scene in numba.prange(rows.shape[0]):
        used = rows[scene, : counts[scene]]
        active = np.empty(used.shape[0], np.int64)
        color = np.empty(3, np.float32)
        for ray in range(origins.shape[1]):
            o, d = origins[scene, ray], directions[scene, ray]
            t, owner = _trace(used, active, o[0], o[1], o[2], d[0], d[1], d[2])
            depth[scene, ray] = max(t, 0.0)
            rgba[scene, ray] = 0.0
            if owner >= 0:
                albedo(used[owner], o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2], color)
                rgba[scene, ray, :3] = color
                rgba[scene, ray, 3] = 1.0


@numba.njit(parallel=True, fastmath=True, cache=True)
def _distances(rows, counts, points, values):
    for scene in numba.prange(rows.shape[0]):
        used = rows[scene, : counts[scene]]
        everything = np.arange(used.shape[0])
        for i in range(points.shape[1]):
            p = points[scene, i]
            values[scene, i] = distance(used, everything, used.shape[0], p[0], p[1], p[2])[0]


def pack(objects: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Objects of different sizes as one array: rows [B, P, COLUMNS] and counts [B]."""
    counts = np.array([len(rows) for rows in objects], np.int64)
    packed = np.zeros((len(objects), max(counts), COLUMNS), np.float32)
    for slot, rows in zip(packed, objects, strict=True):
        slot[: len(rows)] = rows
    return packed, counts


def render_batch(
    objects: list[np.ndarray], cameras: list[Cameras], lights: np.ndarray | None = None
) -> tuple[Tensor, Tensor]:
    """Views of several objects, square, V cameras each.

    objects: B arrays [P, COLUMNS]; lights: [B, 4] direction to the lamp and ambient share, None for bare base colour.
    Returns rgba [B, V, 4, S, S] (straight alpha) and the distance along each pixel's ray [B, V, S, S], 0 on a miss.
    """
    rows, counts = pack(objects)
    size, views = cameras[0].width, len(cameras[0])
    if lights is None:
        lights = np.tile(np.array([0.0, 1.0, 0.0, 1.0], np.float32), (len(objects), 1))
    poses = np.stack([c.camera_to_world.numpy() for c in cameras]).astype(np.float32)
    focals = np.stack([c.intrinsics[:, 0, 0].numpy() for c in cameras]).astype(np.float32)
    rgba = np.zeros((len(objects), views, 4, size, size), np.float32)
    depth = np.zeros((len(objects), views, size, size), np.float32)
    _render_views(rows, counts, poses, focals, size, lights.astype(np.float32), rgba, depth)
    return torch.from_numpy(rgba), torch.from_numpy(depth)


def render_object(rows: np.ndarray, cameras: Cameras, light: np.ndarray | None = None) -> Views:
    """Views of one object. light: [4], see `render_batch`."""
    rgba, _ = render_batch([rows], [cameras], None if light is None else light[None])
    return Views(rgba[0], cameras)


def trace_rays(objects: list[np.ndarray], origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Base colours [B, R, 4] and distances [B, R] of single rays; origins and unit directions are [B, R, 3]."""
    rows, counts = pack(objects)
    rgba = np.zeros((*origins.shape[:2], 4), np.float32)
    depth = np.zeros(origins.shape[:2], np.float32)
    _trace_rays(rows, counts, origins.numpy(), directions.numpy(), rgba, depth)
    return torch.from_numpy(rgba), torch.from_numpy(depth)


def signed_distances(objects: list[np.ndarray], points: Tensor) -> Tensor:
    """[B, K] signed distances (negative inside) of points [B, K, 3]."""
    rows, counts = pack(objects)
    values = np.zeros(points.shape[:2], np.float32)
    _distances(rows, counts, np.ascontiguousarray(points.numpy()), values)
    return torch.from_numpy(values)
