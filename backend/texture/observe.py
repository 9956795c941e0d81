"""What the cameras saw, pixel by pixel: which place of the texture, which colour, and how far to believe it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.render.parallel import kernel
from backend.texture.paint import FULL_ALPHA, LEAST_ALPHA, LEAST_COSINE, Picture

FloatArray = NDArray[np.float32]
ShortArray = NDArray[np.uint16]

ONE = 65535.0  # numbers in [0, 1] are kept in 16 bits: a few million pixels have to fit
COLUMNS = 7  # right, down, red, green, blue, facing, quality
FACING = 2.0  # power of the cosine between view and normal by which a pixel counts


@dataclass(frozen=True)
class Observations:
    """P pixels that show the mesh.

    texels [P]: the upper left one (row * size + column) of the four texels between whose centres each pixel's centre
    lies. values [P, 7]: how far right and down of that texel's centre it lies, in texels; red, green, blue; how
    squarely the camera looks at it; how surely the colour is the mesh's own.
    """

    texels: NDArray[np.int32]
    values: ShortArray

    @staticmethod
    def together(parts: list[Observations]) -> Observations:
        """All of them in one."""
        return Observations(
            np.concatenate([part.texels for part in parts]), np.concatenate([part.values for part in parts])
        )


@kernel
def _observe(
    face_ids: NDArray[np.int32],
    barycentric: FloatArray,
    mesh_depth: FloatArray,
    color: FloatArray,
    alpha: FloatArray,
    depth: FloatArray,
    faces: NDArray[np.int32],
    vertices: FloatArray,
    normals: FloatArray,
    corner_uvs: FloatArray,
    eye: FloatArray,
    pixel: float,
    tolerance: float,
    size: int,
    texels: NDArray[np.int32],
    values: ShortArray,
) -> int:
    height, width = face_ids.shape
    count = 0
    for row in range(1, height - 1):
        for column in range(1, width - 1):
            face = face_ids[row, column]
            if face < 0:
                continue
            x = y = z = nx = ny = nz = u = v = 0.0
            for corner in range(3):
                share = barycentric[row, column, corner]
                vertex = faces[face, corner]
                x += share * vertices[vertex, 0]
                y += share * vertices[vertex, 1]
                z += share * vertices[vertex, 2]
                nx += share * normals[vertex, 0]
                ny += share * normals[vertex, 1]
                nz += share * normals[vertex, 2]
                u += share * corner_uvs[face, corner, 0]
                v += share * corner_uvs[face, corner, 1]
            dx, dy, dz = eye[0] - x, eye[1] - y, eye[2] - z
            lengths = math.sqrt((dx * dx + dy * dy + dz * dz) * (nx * nx + ny * ny + nz * nz))
            cosine = (dx * nx + dy * ny + dz * nz) / max(lengths, 1e-12)
            if not cosine >= LEAST_COSINE:
                continue
            far = mesh_depth[row, column]
            # A slanting surface is that much deeper or nearer at the next pixel; more is another surface's outline,
            # where the pixel's colour is half that one's.
            slope = 3.0 * pixel * far / cosine + 0.1 * tolerance
            if (
                abs(mesh_depth[row - 1, column] - far) > slope
                or abs(mesh_depth[row + 1, column] - far) > slope
                or abs(mesh_depth[row, column - 1] - far) > slope
                or abs(mesh_depth[row, column + 1] - far) > slope
            ):
                continue
            opacity = alpha[row, column]
            quality = 0.0
            if opacity > LEAST_ALPHA:
                off = (depth[row, column] - far) / tolerance
                quality = math.exp(-off * off) * min((opacity - LEAST_ALPHA) / (FULL_ALPHA - LEAST_ALPHA), 1.0)
            across = min(max(u * size - 0.5, 0.0), size - 1.001)
            down = min(max((1.0 - v) * size - 0.5, 0.0), size - 1.001)
            left, top = int(across), int(down)
            texels[count] = top * size + left
            values[count, 0] = np.uint16(ONE * (across - left))
            values[count, 1] = np.uint16(ONE * (down - top))
            for channel in range(3):
                values[count, 2 + channel] = np.uint16(ONE * min(max(color[row, column, channel], 0.0), 1.0) + 0.5)
            values[count, 5] = np.uint16(ONE * min(cosine**FACING, 1.0))
            values[count, 6] = np.uint16(ONE * quality)
            count += 1
    return count


def observe(
    picture: Picture,
    vertices: FloatArray,
    faces: NDArray[np.int32],
    normals: FloatArray,
    corner_uvs: FloatArray,
    size: int,
    tolerance: float,
) -> Observations:
    """What one picture says of a texture of size x size. normals [n, 3] of the vertices; tolerance: a length."""
    pixels = int((picture.face_ids >= 0).sum())
    texels, values = np.empty(pixels, np.int32), np.empty((pixels, COLUMNS), np.uint16)
    count = _observe(
        picture.face_ids,
        picture.barycentric,
        picture.mesh_depth,
        picture.color,
        picture.alpha,
        picture.depth,
        faces,
        vertices,
        normals,
        corner_uvs,
        picture.eye,
        1.0 / float(picture.intrinsics[0, 0]),
        tolerance,
        size,
        texels,
        values,
    )
    return Observations(texels[:count].copy(), values[:count].copy())
