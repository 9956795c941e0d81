"""A small triangle rasteriser on the CPU: which face each pixel shows, and where on that face.

Used for pictures of the mesh (which point of the surface a pixel shows), and to draw colours into the uv layout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.render.parallel import kernel

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


@kernel
def _rasterize(
    xyz: FloatArray, faces: IntArray, face_ids: IntArray, barycentric: FloatArray, depth: FloatArray, counts: IntArray
) -> None:
    height, width = face_ids.shape
    for face in range(faces.shape[0]):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        ax, ay, az = xyz[a, 0], xyz[a, 1], xyz[a, 2]
        bx, by, bz = xyz[b, 0], xyz[b, 1], xyz[b, 2]
        cx, cy, cz = xyz[c, 0], xyz[c, 1], xyz[c, 2]
        if az <= 0 or bz <= 0 or cz <= 0:
            continue
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0 or not np.isfinite(area):
            continue
        first_x = max(int(np.ceil(min(ax, bx, cx) - 0.5)), 0)
        last_x = min(int(np.floor(max(ax, bx, cx) - 0.5)), width - 1)
        first_y = max(int(np.ceil(min(ay, by, cy) - 0.5)), 0)
        last_y = min(int(np.floor(max(ay, by, cy) - 0.5)), height - 1)
        inverse = 1.0 / area
        for row in range(first_y, last_y + 1):
            y = row + 0.5
            for column in range(first_x, last_x + 1):
                x = column + 0.5
                wa = ((bx - x) * (cy - y) - (by - y) * (cx - x)) * inverse
                wb = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) * inverse
                wc = 1.0 - wa - wb
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                counts[row, column] += 1
                # What is linear on the screen is weight / depth: dividing again gives the weights in space.
                pa, pb, pc = wa / az, wb / bz, wc / cz
                z = 1.0 / (pa + pb + pc)
                if z < depth[row, column]:
                    depth[row, column] = z
                    face_ids[row, column] = face
                    barycentric[row, column, 0] = pa * z
                    barycentric[row, column, 1] = pb * z
                    barycentric[row, column, 2] = pc * z


def rasterize_triangles(
    xyz: FloatArray, faces: IntArray, height: int, width: int
) -> tuple[IntArray, FloatArray, FloatArray, IntArray]:
    """Draw triangles, the nearest one winning.

    Args:
        xyz: [n, 3] pixel x (right), pixel y (down) and depth; a face with a depth <= 0 is not drawn.
        faces: [m, 3].

    Returns:
        face_ids [height, width] (-1: nothing), barycentric [height, width, 3] (perspective-correct),
        depth [height, width] (infinite: nothing), counts [height, width] (how many faces cover the pixel's centre).
    """
    face_ids = np.full((height, width), -1, np.int32)
    barycentric = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), np.inf, np.float32)
    counts = np.zeros((height, width), np.int32)
    _rasterize(
        np.ascontiguousarray(xyz, np.float32),
        np.ascontiguousarray(faces, np.int32),
        face_ids,
        barycentric,
        depth,
        counts,
    )
    return face_ids, barycentric, depth, counts


@kernel
def draw_colors(corner_uvs: FloatArray, corner_colors: FloatArray, image: FloatArray, covered: NDArray) -> None:
    """Draw faces into a texture, with colours between those of their corners.

    corner_uvs [m, 3, 2] (origin at the bottom left), corner_colors [m, 3, 3]; image [3, S, S] and covered [S, S] bool
    are changed at the texels whose centres a face covers.
    """
    size = image.shape[1]
    for face in range(corner_uvs.shape[0]):
        ax, ay = corner_uvs[face, 0, 0] * size, (1 - corner_uvs[face, 0, 1]) * size
        bx, by = corner_uvs[face, 1, 0] * size, (1 - corner_uvs[face, 1, 1]) * size
        cx, cy = corner_uvs[face, 2, 0] * size, (1 - corner_uvs[face, 2, 1]) * size
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0:
            continue
        inverse = 1.0 / area
        first_x, last_x = max(int(np.ceil(min(ax, bx, cx) - 0.5)), 0), min(int(max(ax, bx, cx) - 0.5), size - 1)
        first_y, last_y = max(int(np.ceil(min(ay, by, cy) - 0.5)), 0), min(int(max(ay, by, cy) - 0.5), size - 1)
        for row in range(first_y, last_y + 1):
            y = row + 0.5
            for column in range(first_x, last_x + 1):
                x = column + 0.5
                wa = ((bx - x) * (cy - y) - (by - y) * (cx - x)) * inverse
                wb = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) * inverse
                wc = 1.0 - wa - wb
                if wa < -1e-5 or wb < -1e-5 or wc < -1e-5:
                    continue
                covered[row, column] = True
                for channel in range(3):
                    image[channel, row, column] = (
                        wa * corner_colors[face, 0, channel]
                        + wb * corner_colors[face, 1, channel]
                        + wc * corner_colors[face, 2, channel]
                    )


def project(points: NDArray, viewmat: NDArray, intrinsics: NDArray) -> FloatArray:
    """[n, 3] pixel x, pixel y and depth of `points` [n, 3] in a camera with OpenCV axes."""
    local = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    depth = local[:, 2:]
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    focal = np.array([intrinsics[0, 0], intrinsics[1, 1]])
    center = np.array([intrinsics[0, 2], intrinsics[1, 2]])
    return np.concatenate([local[:, :2] / safe * focal + center, depth], axis=1).astype(np.float32)
