"""Colours of surface points from pictures: which cameras see a point, and how well."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.render.parallel import kernel

FloatArray = NDArray[np.float32]

SHARPNESS = 4.0  # power of the cosine between view and normal: high takes the best camera only, low blurs
LEAST_COSINE = 0.15  # a view more slanting than this says nothing
LEAST_ALPHA, FULL_ALPHA = 0.5, 0.9  # opacity of the picture at which its colour begins to count, counts fully
LEAST_SHARE = 0.25  # of the weight of all cameras that face a point


@dataclass(frozen=True)
class Picture:
    """One camera's picture of the Gaussians and the mesh.

    viewmat [4, 4] (OpenCV axes), intrinsics [3, 3], eye [3], color [H, W, 3] straight, alpha [H, W],
    depth [H, W] of the Gaussians, mesh_depth [H, W] (infinite: no mesh), face_ids [H, W] of the mesh (-1: none) and
    where on the face each pixel's centre lies, barycentric [H, W, 3].
    """

    viewmat: FloatArray
    intrinsics: FloatArray
    eye: FloatArray
    color: FloatArray
    alpha: FloatArray
    depth: FloatArray
    mesh_depth: FloatArray
    face_ids: NDArray[np.int32]
    barycentric: FloatArray


@kernel
def _paint(
    points: FloatArray,
    normals: FloatArray,
    viewmat: FloatArray,
    intrinsics: FloatArray,
    eye: FloatArray,
    color: FloatArray,
    alpha: FloatArray,
    depth: FloatArray,
    mesh_depth: FloatArray,
    tolerance: float,
    sums: FloatArray,
) -> None:
    height, width = alpha.shape
    pixel = 1.0 / intrinsics[0, 0]
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        dx, dy, dz = eye[0] - x, eye[1] - y, eye[2] - z
        cosine = dx * normals[i, 0] + dy * normals[i, 1] + dz * normals[i, 2]
        cosine /= math.sqrt(dx * dx + dy * dy + dz * dz)
        if cosine < LEAST_COSINE:
            continue
        far = viewmat[2, 0] * x + viewmat[2, 1] * y + viewmat[2, 2] * z + viewmat[2, 3]
        u = viewmat[0, 0] * x + viewmat[0, 1] * y + viewmat[0, 2] * z + viewmat[0, 3]
        v = viewmat[1, 0] * x + viewmat[1, 1] * y + viewmat[1, 2] * z + viewmat[1, 3]
        u = u / far * intrinsics[0, 0] + intrinsics[0, 2] - 0.5
        v = v / far * intrinsics[1, 1] + intrinsics[1, 2] - 0.5
        if u < 0 or v < 0 or u >= width - 1 or v >= height - 1:
            continue
        left, top = int(u), int(v)
        # A slanting surface is that much deeper or nearer at the next pixel.
        slope = 3.0 * pixel * far / cosine + 0.1 * tolerance
        seen = True
        red, green, blue, opacity, behind = 0.0, 0.0, 0.0, 0.0, 0.0
        for corner in range(4):
            row, column = top + corner // 2, left + corner % 2
            if abs(mesh_depth[row, column] - far) > slope:
                seen = False  # hidden, or at an outline, where the pixel's colour is half another surface's
                break
            share = u - left if corner % 2 else 1.0 - (u - left)
            share *= v - top if corner // 2 else 1.0 - (v - top)
            here = share * alpha[row, column]
            red += here * color[row, column, 0]
            green += here * color[row, column, 1]
            blue += here * color[row, column, 2]
            opacity += here
            behind += share * depth[row, column]
        if not seen:
            continue
        facing = cosine**SHARPNESS
        sums[i, 4] += facing
        if opacity <= LEAST_ALPHA:
            continue
        # Gaussians far before or behind the mesh are not its colour: a stray one, or the far wall through a hole.
        off = (behind - far) / tolerance
        weight = math.exp(-off * off) * min((opacity - LEAST_ALPHA) / (FULL_ALPHA - LEAST_ALPHA), 1.0)
        weight *= facing
        sums[i, 0] += weight * red / opacity
        sums[i, 1] += weight * green / opacity
        sums[i, 2] += weight * blue / opacity
        sums[i, 3] += weight


def paint(points: FloatArray, normals: FloatArray, picture: Picture, tolerance: float, sums: FloatArray) -> None:
    """Adds to sums [n, 5] the weighted colour of each point in one picture, the weight, and the weight that it would
    have if the Gaussians lay on the mesh. tolerance: a length."""
    _paint(
        points,
        normals,
        picture.viewmat,
        picture.intrinsics,
        picture.eye,
        picture.color,
        picture.alpha,
        picture.depth,
        picture.mesh_depth,
        tolerance,
        sums,
    )


def colors_of(sums: FloatArray) -> tuple[FloatArray, FloatArray]:
    """colors [n, 3] and weights [n, 1] of points, from what `paint` summed up.

    Where most of the cameras that face a point see something else there (it lies on a surface that was made up to close
    a hole), what the others see is chance: the weight is 0.
    """
    weights, possible = sums[:, 3:4], np.maximum(sums[:, 4:5], 1e-6)
    trusted = np.clip((weights / possible - LEAST_SHARE) / LEAST_SHARE, 0.0, 1.0)
    colors = sums[:, :3] / np.maximum(weights, 1e-12)
    return colors.astype(np.float32), (weights * trusted).astype(np.float32)
