"""Where rays enter the visual hull, the largest shape that fits inside the silhouettes of all views."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backend.cameras import rays, world_to_camera_opencv
from backend.datatypes import Cameras
from backend.render.parallel import inlined, kernel, numba_present, run

REACH = 1.3  # half the length of the stretch round the point nearest to the origin that is searched
_STEPS, _BISECTIONS = 56, 5


@inlined
def _agreement(alpha, world_to_pixel, skip, x, y, z):
    """The smallest alpha that any other view shows at a point."""
    views, height, width = alpha.shape
    least = np.float32(1.0)
    for v in range(views):
        if v == skip:
            continue
        m = world_to_pixel[v]
        depth = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
        if depth < 1e-3:
            continue  # behind a camera nothing is known
        column = int(np.floor((m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / depth))
        row = int(np.floor((m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / depth))
        framed = 0 <= column < width and 0 <= row < height
        least = min(least, alpha[v, row, column]) if framed else np.float32(0.0)
    return least


@kernel
def _enter(alpha, world_to_pixel, view, origins, directions, reach, out):
    """origins, directions [K, 3] of rays of view number `view`; out [K]."""
    step = 2.0 * reach / _STEPS
    for i in range(origins.shape[0]):
        o, d = origins[i], directions[i]
        nearest = -(o[0] * d[0] + o[1] * d[1] + o[2] * d[2])
        best, best_t = np.float32(-1.0), nearest
        for k in range(_STEPS):
            t = nearest - reach + (k + 0.5) * step
            seen = _agreement(alpha, world_to_pixel, view, o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])
            if seen > best:
                best, best_t = seen, t
            if seen >= 0.5:
                outside, inside = t - step, t
                for _ in range(_BISECTIONS):
                    middle = 0.5 * (outside + inside)
                    x, y, z = o[0] + middle * d[0], o[1] + middle * d[1], o[2] + middle * d[2]
                    if _agreement(alpha, world_to_pixel, view, x, y, z) >= 0.5:
                        inside = middle
                    else:
                        outside = middle
                best_t = inside
                break
        out[i] = best_t if best > 0.0 else nearest


def _enter_reference(alpha: Tensor, world_to_pixel: Tensor, view: int, origins: Tensor, directions: Tensor) -> Tensor:
    """`_enter` in plain torch, for where numba is missing. [K]."""
    others = [v for v in range(alpha.shape[0]) if v != view]

    def agreement(t: Tensor) -> Tensor:
        points = origins[:, None] + t[..., None] * directions[:, None]
        least = torch.ones(t.shape)
        for v in others:
            u, w, depth = (points @ world_to_pixel[v, :, :3].T + world_to_pixel[v, :, 3]).unbind(-1)
            column, row = (u / depth).nan_to_num(-1.0).floor(), (w / depth).nan_to_num(-1.0).floor()
            framed = (column >= 0) & (column < alpha.shape[2]) & (row >= 0) & (row < alpha.shape[1])
            there = (row.clamp(0, alpha.shape[1] - 1).long(), column.clamp(0, alpha.shape[2] - 1).long())
            shown = torch.where(framed, alpha[v][there], 0.0)
            least = torch.where(depth < 1e-3, least, torch.minimum(least, shown))
        return least

    nearest = -(origins * directions).sum(-1)
    step = 2.0 * REACH / _STEPS
    t = nearest[:, None] - REACH + (torch.arange(_STEPS) + 0.5) * step
    seen = agreement(t)
    best, at = seen.max(dim=1)
    entered = (seen >= 0.5).any(dim=1)
    inside = t.gather(1, torch.where(entered, (seen >= 0.5).int().argmax(dim=1), at)[:, None])
    outside = inside - step
    for _ in range(_BISECTIONS):
        middle = 0.5 * (outside + inside)
        within = (agreement(middle) >= 0.5) & entered[:, None]
        inside, outside = torch.where(within, middle, inside), torch.where(within, outside, middle)
    return torch.where(best > 0, inside[:, 0], nearest)


def hull_distances(alpha: Tensor, cameras: Cameras, size: int) -> Tensor:
    """[V, size, size] distances along the pixel rays of `cameras` resized to `size`, to where each enters the hull.

    alpha: [V, H, W] silhouettes in [0, 1]. Where silhouettes disagree, the distance at which most of them agree; where
    no other view shows anything along the ray, the point nearest to the origin. No gradient flows.
    """
    pixels = cameras.resized(alpha.shape[-1], alpha.shape[-2])
    world_to_pixel = pixels.intrinsics @ world_to_camera_opencv(pixels)[:, :3]
    origins, directions = rays(cameras.resized(size, size))
    if not numba_present():
        silhouettes_seen = alpha.detach().float().cpu()
        found = [
            _enter_reference(silhouettes_seen, world_to_pixel.cpu(), v, o, d)
            for v, (o, d) in enumerate(zip(origins.flatten(1, 2).cpu(), directions.flatten(1, 2).cpu(), strict=True))
        ]
        return torch.stack(found).reshape(len(cameras), size, size).to(alpha.device)
    out = np.empty((len(cameras), size * size), np.float32)
    silhouettes = np.ascontiguousarray(alpha.detach().float().cpu().numpy())
    matrices = np.ascontiguousarray(world_to_pixel.cpu().numpy())
    starts, ways = (np.ascontiguousarray(x.flatten(1, 2).cpu().numpy()) for x in (origins, directions))
    run(_enter, [(silhouettes, matrices, v, starts[v], ways[v], REACH, out[v]) for v in range(len(cameras))])
    return torch.from_numpy(out).reshape(len(cameras), size, size).to(alpha.device)
