"""How sure the pictures are that a place is empty: the share of cameras that see through it.

A camera votes for empty where a point lies clearly in front of the surface that it sees, or beside the outline. One
vote means little, since noisy Gaussians leave holes in a picture through which a camera sees into the object; free
space is seen by many cameras.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.render.parallel import chunks, kernel, run
from backend.surface.grid import Grid, doubled
from backend.surface.probe import Probe

FloatArray = NDArray[np.float32]


@kernel
def _empty_votes(
    points: FloatArray,
    viewmats: FloatArray,
    intrinsics: FloatArray,
    pictures: FloatArray,
    near: float,
    far: float,
    result: FloatArray,
) -> None:
    """result [M]: the share of cameras that vote for empty. pictures [C, H, W, 3]: depth, alpha, front."""
    count, height, width, _ = pictures.shape
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        votes = 0.0
        for c in range(count):
            m = viewmats[c]
            depth = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
            inverse = 1.0 / depth
            u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) * inverse
            v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) * inverse
            u = u * intrinsics[c, 0, 0] + intrinsics[c, 0, 2]
            v = v * intrinsics[c, 1, 1] + intrinsics[c, 1, 2]
            if u < 0 or v < 0 or u >= width or v >= height:
                votes += 1.0
                continue
            pixel = pictures[c, int(v), int(u)]
            # The back of a surface says nothing about what lies before it.
            before = pixel[2] * min(max((pixel[0] - depth - near) / (far - near), 0.0), 1.0)
            votes += pixel[1] * before + (1.0 - pixel[1])
        result[i] = votes / count


def empty_votes(grid: Grid, probe: Probe, front: FloatArray, slack: float) -> FloatArray:
    """[grid.shape] in [0, 1]: the share of cameras that see each sample as empty.

    front: [C, H, W], see `probe.front_facing`. slack: a point less than this before the surface may be noise.
    Looked at on every second sample, and empty only where all looked-at samples about a place are: the votes are soft,
    the surface itself comes from the points, and a thin part lies between the samples.
    """
    pictures = np.ascontiguousarray(np.stack([probe.depth, probe.alpha, front], axis=-1), np.float32)
    coarse_shape = tuple((size + 2) // 2 for size in grid.shape)
    points = np.indices(coarse_shape, dtype=np.float32).reshape(3, -1).T * (2 * grid.cell) + grid.origin
    points = np.ascontiguousarray(points, np.float32)
    votes = np.zeros(len(points), np.float32)
    where = (probe.viewmats, probe.intrinsics, pictures, slack, slack + 2 * grid.cell)
    run(_empty_votes, [(points[a:b], *where, votes[a:b]) for a, b in chunks(len(points), 4096)])
    return doubled(votes.reshape(coarse_shape), grid.shape, least=True)
