"""Looking at the Gaussians from all round: depth and opacity pictures, and which side of them is the outside."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from backend.cameras import look_at, pinhole, world_to_camera_opencv
from backend.datatypes import Cameras, Gaussians
from backend.render.geometry import rasterization_geometry
from backend.render.parallel import chunks, kernel, run

FloatArray = NDArray[np.float32]

DISTANCE = 4.0  # of the cameras, in radii of the ball round the object: far enough to look nearly straight at all of it
FACING_CELLS = 64
SURE = 0.3  # length of the mean normal of a neighbourhood from which on it has one side only
GRAZING = 0.15  # cosine between normal and sight below which a surface may as well be seen from behind
FAR = 1e6  # depth of a pixel that shows nothing


@dataclass(frozen=True)
class Probe:
    """Pictures of the Gaussians from C cameras round the object, as numpy arrays.

    viewmats [C, 4, 4] (OpenCV axes), intrinsics [C, 3, 3], eyes [C, 3], depth [C, H, W], alpha [C, H, W] (1: solid).
    """

    viewmats: FloatArray
    intrinsics: FloatArray
    eyes: FloatArray
    depth: FloatArray
    alpha: FloatArray

    @staticmethod
    def of(cameras: Cameras, depth: FloatArray, alpha: FloatArray) -> Probe:
        return Probe(
            world_to_camera_opencv(cameras).numpy(),
            cameras.intrinsics.numpy(),
            np.ascontiguousarray(cameras.camera_to_world[:, :3, 3].numpy()),
            depth,
            alpha,
        )


def sphere_cameras(count: int, radius: float, size: int) -> Cameras:
    """`count` cameras spread evenly over the sphere, each with the ball of `radius` about the origin in its frame."""
    index = torch.arange(count) + 0.5
    height = 1 - 2 * index / count
    azimuth = index * math.pi * (3 - math.sqrt(5))
    ring = (1 - height**2).sqrt()
    eyes = torch.stack([ring * azimuth.cos(), height, ring * azimuth.sin()], dim=1) * (DISTANCE * radius)
    fov = 2 * math.degrees(math.asin(1.02 / DISTANCE))
    return Cameras(look_at(eyes, torch.zeros_like(eyes)), pinhole(count, fov, size, size), size, size)


def look(gaussians: Gaussians, cameras: Cameras) -> tuple[FloatArray, FloatArray]:
    """depth and alpha, both [C, H, W], of Gaussians in some cameras."""
    depth, _, alpha = rasterization_geometry(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        world_to_camera_opencv(cameras),
        cameras.intrinsics,
        cameras.width,
        cameras.height,
        median=True,  # a mean would put the depth of a pixel with two surfaces between them
    )
    found = depth[..., 0].numpy()
    return np.where(found > 0, found, FAR).astype(np.float32), alpha[..., 0].numpy()


def solid_alpha(alpha: FloatArray) -> FloatArray:
    """Alpha stretched so that 0.5 is the outline: a faint object (all opacities low) has one too; pinholes closed."""
    seen = alpha[alpha > 0.05]
    outline = min(0.5, 0.5 * float(np.quantile(seen, 0.9))) if len(seen) else 0.5
    closed = ndimage.grey_closing(alpha, size=(1, 3, 3))
    return np.clip((closed - 0.5 * outline) / outline, 0.0, 1.0).astype(np.float32)


@kernel
def _seen_from(
    means: FloatArray,
    normals: FloatArray,
    hidden: FloatArray,
    viewmats: FloatArray,
    intrinsics: FloatArray,
    eyes: FloatArray,
    depth: FloatArray,
    result: FloatArray,
) -> None:
    count, height, width = depth.shape
    for i in range(means.shape[0]):
        x, y, z = means[i, 0], means[i, 1], means[i, 2]
        for c in range(count):
            m = viewmats[c]
            depth_here = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
            u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / depth_here * intrinsics[c, 0, 0]
            v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / depth_here * intrinsics[c, 1, 1]
            column, row = int(u + intrinsics[c, 0, 2]), int(v + intrinsics[c, 1, 2])
            if column < 0 or row < 0 or column >= width or row >= height:
                continue
            if depth_here > depth[c, row, column] + hidden[i]:
                continue
            dx, dy, dz = eyes[c, 0] - x, eyes[c, 1] - y, eyes[c, 2] - z
            inverse = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
            result[i, 0] += dx * inverse
            result[i, 1] += dy * inverse
            result[i, 2] += dz * inverse
            cosine = (dx * normals[i, 0] + dy * normals[i, 1] + dz * normals[i, 2]) * inverse
            result[i, 3 if cosine > 0 else 4] += 1.0


def seen_from(means: FloatArray, normals: FloatArray, probe: Probe, hidden: FloatArray) -> FloatArray:
    """[N, 5]: the sum of the directions from which each point is seen, and how many cameras see it on the side to which
    its normal points, and on the other.

    On a plain surface the mean direction is the normal at half length; a sheet seen from both sides gets nothing, and
    so does what lies within. hidden [N]: how deep behind the depth picture a point may lie, in the layer that it is
    part of.
    """
    result = np.zeros((len(means), 5), np.float32)
    means, normals = (np.ascontiguousarray(values, np.float32) for values in (means, normals))
    where = (probe.viewmats, probe.intrinsics, probe.eyes, probe.depth)
    run(
        _seen_from,
        [(means[a:b], normals[a:b], hidden[a:b], *where, result[a:b]) for a, b in chunks(len(means), 4096)],
    )
    return result


def front_facing(
    means: FloatArray, normals: FloatArray, weights: FloatArray, probe: Probe, spacing: float
) -> FloatArray:
    """[C, H, W] in [0, 1]: 0 where a camera looks at the back of a surface, through a hole into the object.

    A vase without a bottom should not be carved from below: what such a ray crosses is not known to be empty.
    normals [N, 3]: outwards, shorter than one where that is not sure; weights [N].
    """
    low, high = means.min(axis=0) - 0.1, means.max(axis=0) + 0.1
    # Cells that small have no points between the points.
    cell = max(float((high - low).max()) / FACING_CELLS, 0.8 * spacing)
    shape = tuple(np.ceil((high - low) / cell).astype(int) + 1)
    index = np.clip(((means - low) / cell).astype(np.int64), 0, np.array(shape) - 1)
    flat = np.ravel_multi_index(tuple(index.T), shape)
    volume = int(np.prod(shape))
    grids = []
    for values in (*(weights * normals[:, axis] for axis in range(3)), weights):
        summed = np.bincount(flat, weights=values, minlength=volume).reshape(shape)
        grids.append(ndimage.gaussian_filter(summed.astype(np.float32), 1.0))
    outward = np.stack(grids[:3], axis=-1) / np.maximum(grids[3], 1e-6)[..., None]

    front = np.ones_like(probe.depth)
    for c in range(len(front)):
        rows, columns = np.nonzero(probe.depth[c] < FAR)
        z = probe.depth[c, rows, columns]
        k = probe.intrinsics[c]
        local = np.stack([(columns + 0.5 - k[0, 2]) / k[0, 0] * z, (rows + 0.5 - k[1, 2]) / k[1, 1] * z, z], axis=1)
        points = (local - probe.viewmats[c, :3, 3]) @ probe.viewmats[c, :3, :3]
        index = np.clip(((points - low) / cell).astype(np.int64), 0, np.array(shape) - 1)
        towards = probe.eyes[c] - points
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        normal = outward[index[:, 0], index[:, 1], index[:, 2]]
        length = np.linalg.norm(normal, axis=1)
        cosine = (normal * towards).sum(axis=1) / np.maximum(length, 1e-6)
        sure = np.clip(length / SURE, 0.0, 1.0)
        front[c, rows, columns] = 1 - sure * (1 - np.clip(cosine / GRAZING, 0.0, 1.0))
    return front
