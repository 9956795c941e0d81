"""Depth and normals on the CPU: the plane that each Gaussian stands for, blended by the kernels that blend colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from backend.render.gaussian_numba import (
    RECORD,
    Settings,
    blend_view,
    camera_numbers,
    each_view,
    opacity_edges,
    project_view,
)
from backend.render.parallel import chunks, inlined, kernel, run


@inlined
def _axes(view, quat, out):
    """out [3, 3] = view rotation @ the matrix of a wxyz quaternion of any length."""
    w, x, y, z = np.float64(quat[0]), np.float64(quat[1]), np.float64(quat[2]), np.float64(quat[3])
    twice = 2.0 / (w * w + x * x + y * y + z * z)
    for i in range(3):
        a, b, c = np.float64(view[i, 0]), np.float64(view[i, 1]), np.float64(view[i, 2])
        out[i, 0] = a - twice * (a * (y * y + z * z) - b * (x * y + w * z) - c * (x * z - w * y))
        out[i, 1] = b - twice * (b * (x * x + z * z) - a * (x * y - w * z) - c * (y * z + w * x))
        out[i, 2] = c - twice * (c * (x * x + y * y) - a * (x * z + w * y) - b * (y * z - w * x))


@kernel
def find_planes(means, quats, scales, view, intrinsics, near, reach, records, first, last, values, planes):
    """Normals, to the last three columns of values [N, D + 3], and planes [N, 5] of the Gaussians [first, last).

    As `backend.render.geometry.surface_planes`, for those that have a record. near, reach: float32.
    """
    axes, sizes = np.empty((3, 3)), np.empty(3)
    at = values.shape[1] - 3
    for n in range(first, last):
        if not records[n, 7] > 0.0:
            continue
        _axes(view, quats[n], axes)
        px, py, pz = np.float64(means[n, 0]), np.float64(means[n, 1]), np.float64(means[n, 2])
        x = view[0, 0] * px + view[0, 1] * py + view[0, 2] * pz + view[0, 3]
        y = view[1, 0] * px + view[1, 1] * py + view[1, 2] * pz + view[1, 3]
        z = view[2, 0] * px + view[2, 1] * py + view[2, 2] * pz + view[2, 3]
        for k in range(3):
            sizes[k] = abs(np.float64(scales[n, k]))
        # inverse(covariance) @ centre up to a factor, which keeps a flat Gaussian's zero out of the denominator.
        floor = max(1e-12, 1e-4 * max(sizes[0], sizes[1], sizes[2]))
        least = max(floor, min(sizes[0], sizes[1], sizes[2]))
        nx, ny, nz = 0.0, 0.0, 0.0
        depth_variance = 0.0
        for k in range(3):
            share = (x * axes[0, k] + y * axes[1, k] + z * axes[2, k]) * (least / max(sizes[k], floor)) ** 2
            nx += axes[0, k] * share
            ny += axes[1, k] * share
            nz += axes[2, k] * share
            depth_variance += (axes[2, k] * scales[n, k]) ** 2
        inverse = 1.0 / max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-30)
        nx, ny, nz = nx * inverse, ny * inverse, nz * inverse
        along = max(nx * x + ny * y + nz * z, 1e-12)
        for j in range(3):
            values[n, at + j] = -(view[0, j] * nx + view[1, j] * ny + view[2, j] * nz)
        around = reach * math.sqrt(depth_variance)
        planes[n, 0] = 1.0 / z
        planes[n, 1] = nx / (intrinsics[0] * along)
        planes[n, 2] = ny / (intrinsics[1] * along)
        planes[n, 3] = 1.0 / (z + around)
        planes[n, 4] = 1.0 / max(z - around, near)


def blend_planes_numba(
    gaussians: Sequence[Tensor], viewmats: Tensor, Ks: Tensor, settings: Settings, reach: float
) -> tuple[Tensor, Tensor]:
    """One pass over C views: [C, H, W, D + 5] (colours, normals, mean and median inverse depth), and the transmittance.

    gaussians: means, quats, scales, opacities, colors [N, D] or [C, N, D], float32 on the CPU. reach: how many standard
    deviations along z a plane is followed. Nothing is divided by alpha. Transmittance [C, H, W].
    """
    means, quats, scales, opacities, colors = (tensor.detach().contiguous().numpy() for tensor in gaussians)
    edges = opacity_edges(opacities)
    views = viewmats.detach()[:, :3, :4].to(torch.float32).contiguous().numpy()
    intrinsics = camera_numbers(Ks).numpy()
    count, channels, s = means.shape[0], colors.shape[-1], settings
    image = np.empty((views.shape[0], s.height, s.width, channels + 5), np.float32)
    rest = np.empty((views.shape[0], s.height, s.width), np.float32)

    def work(view: int) -> None:
        records = np.empty((count, RECORD), np.float32)
        drawn = project_view([means, quats, scales, opacities, edges], views[view], intrinsics[view], s, records)
        values, planes = np.empty((count, channels + 3), np.float32), np.empty((count, 5), np.float32)
        values[:, :channels] = colors[view] if colors.ndim == 3 else colors

        def find(first: int, last: int) -> None:
            find_planes(
                means, quats, scales, views[view], intrinsics[view], np.float32(s.near_plane), np.float32(reach),
                records, first, last, values, planes,
            )  # fmt: skip

        run(find, chunks(count, 4096))
        blend_view(records, drawn, values, planes, 2, s, image[view], rest[view])

    each_view(work, views.shape[0])
    return torch.from_numpy(image), torch.from_numpy(rest)
