"""Where rays enter the visual hull, the largest shape that fits inside the silhouettes of all views."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backend.cameras import rays, world_to_camera_opencv
from backend.datatypes import Cameras
from backend.render.parallel import inlined, kernel, run

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


def hull_distances(alpha: Tensor, cameras: Cameras, size: int) -> Tensor:
    """[V, size, size] distances along the pixel rays of `cameras` resized to `size`, to where each enters the hull.

    alpha: [V, H, W] silhouettes in [0, 1]. Where silhouettes disagree, the distance at which most of them agree; where
    no other view shows anything along the ray, the point nearest to the origin. No gradient flows.
    """
    pixels = cameras.resized(alpha.shape[-1], alpha.shape[-2])
    world_to_pixel = pixels.intrinsics @ world_to_camera_opencv(pixels)[:, :3]
    origins, directions = rays(cameras.resized(size, size))
    out = np.empty((len(cameras), size * size), np.float32)
    silhouettes = np.ascontiguousarray(alpha.detach().float().cpu().numpy())
    matrices = np.ascontiguousarray(world_to_pixel.cpu().numpy())
    starts, ways = (np.ascontiguousarray(x.flatten(1, 2).cpu().numpy()) for x in (origins, directions))
    run(_enter, [(silhouettes, matrices, v, starts[v], ways[v], REACH, out[v]) for v in range(len(cameras))])
    return torch.from_numpy(out).reshape(len(cameras), size, size).to(alpha.device)
