"""Vertices moved onto the surface that the points describe, finer than the grid could say it.

The field on the grid decides what is inside and how the surface hangs together; where exactly it lies is asked of the
points themselves: a moving least squares surface (implicit, as Kolluri 2005, with two changes). The height of a place
above a point is taken along the mean of the point's normal and the local one, for which all points of a sphere lie at
height 0, so that wide averages do not shrink what is curved (at an edge, where the normals disagree, along the point's
own alone, for which all points of two planes lie at height 0). And only points that look the same way as the vertex
count, so that the two sides of a thin part keep apart.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from backend.render.parallel import chunks, inlined, kernel, run
from backend.surface.points import Points

FloatArray = NDArray[np.float32]

WIDTH = 2.8  # radius of a point's say, in standard deviations of the bell that its weight resembles
WIDEST = 4.0  # deviation of that bell in spacings, where the points are noisy
NOISE_SHARE, CLEAN = 6.0, 0.1  # deviation of the bell in deviations of the noise, after so many spacings of it
MOST_APART = 2.5  # usual spacings: more than that does not widen a point's say
ROUNDS = 2
FARTHEST = 1.5  # cells that a vertex may move
ALIKE = 0.3  # cosine between normals below which a point has no say
EDGE, SMOOTH = 0.8, 0.93  # length of the mean normal: an edge up to the first, a curved surface from the second on
ENOUGH = 0.4  # share of a full neighbourhood from which on the points alone decide


def settle(vertices: NDArray[np.float64], normals: NDArray[np.floating], points: Points) -> NDArray[np.float64]:
    """[n, 3]: vertices moved along their normals [n, 3] onto the points' surface, all in cells.

    Where few points are near (a hole that was closed), a vertex stays.
    """
    speaks = points.areas * points.sided > 0
    if speaks.sum() < 5:
        return vertices
    # A single point's noise is hardly known; and wide bells beside narrow ones would let the wide ones win.
    noise = points.near.usual(points.noise) / points.spacing
    widths = points.spacing * np.clip(NOISE_SHARE * (noise - CLEAN), 1.0, WIDEST)
    # A few lonely points must not make the search slow for all.
    radii = WIDTH * np.minimum(widths, MOST_APART * float(np.median(widths[speaks])))[speaks].astype(np.float32)
    smooth = points.near.mean(points.normals, points.areas, points.normals)
    rough = np.clip(4 * points.noise / points.spacing, 0.0, 1.0)[:, None]
    directions = points.normals * (1 - rough) + smooth * rough
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-6)

    places = points.surface[speaks].astype(np.float32)
    cell = float(radii.max())
    low = places.min(axis=0) - 1e-3
    shape = np.floor((places.max(axis=0) - low) / cell).astype(np.int64) + 1
    inside = np.ravel_multi_index(tuple(((places - low) / cell).astype(np.int64).T), tuple(shape))
    order = np.argsort(inside, kind="stable")
    starts = np.searchsorted(inside[order], np.arange(int(np.prod(shape)) + 1)).astype(np.int64)
    table = np.concatenate(
        [
            places,
            directions[speaks],
            radii[:, None],
            (points.areas * points.sided)[speaks][:, None],
        ],
        axis=1,
    )[order].astype(np.float32)
    moved = np.ascontiguousarray(vertices, np.float32).copy()
    along = np.ascontiguousarray(normals, np.float32)
    low = low.astype(np.float32)
    run(
        _settle,
        [(moved[a:b], along[a:b], table, starts, low, cell, shape) for a, b in chunks(len(vertices), 2048)],
    )
    return moved.astype(np.float64)


@inlined
def _gather(x, y, z, nx, ny, nz, table, starts, low, cell, shape, sums):
    """sums [8] about a place: the height above the points, their mean normal, the mean step from them, the weights."""
    sums[:] = 0.0
    i, j, k = math.floor((x - low[0]) / cell), math.floor((y - low[1]) / cell), math.floor((z - low[2]) / cell)
    for a in range(max(i - 1, 0), min(i + 2, shape[0])):
        for b in range(max(j - 1, 0), min(j + 2, shape[1])):
            row = (a * shape[1] + b) * shape[2]
            first, last = max(k - 1, 0), min(k + 2, shape[2])
            if first >= last:
                continue
            for p in range(starts[row + first], starts[row + last]):
                dx, dy, dz = x - table[p, 0], y - table[p, 1], z - table[p, 2]
                square = dx * dx + dy * dy + dz * dz
                limit = table[p, 6] * table[p, 6]
                if square >= limit:
                    continue
                cosine = nx * table[p, 3] + ny * table[p, 4] + nz * table[p, 5]
                if cosine < ALIKE:
                    continue
                near = 1.0 - square / limit
                full = near * near * near * near * table[p, 7] / limit
                weight = full * cosine * cosine
                sums[0] += weight * (dx * table[p, 3] + dy * table[p, 4] + dz * table[p, 5])
                sums[1] += weight * table[p, 3]
                sums[2] += weight * table[p, 4]
                sums[3] += weight * table[p, 5]
                sums[4] += weight * dx
                sums[5] += weight * dy
                sums[6] += weight * dz
                sums[7] += weight


@kernel
def _settle(vertices, normals, table, starts, low, cell, shape):
    sums = np.empty(8, np.float32)
    for v in range(vertices.shape[0]):
        nx, ny, nz = normals[v, 0], normals[v, 1], normals[v, 2]
        x, y, z = vertices[v, 0], vertices[v, 1], vertices[v, 2]
        moved, share = 0.0, 0.0
        for _ in range(ROUNDS):
            _gather(x + moved * nx, y + moved * ny, z + moved * nz, nx, ny, nz, table, starts, low, cell, shape, sums)
            if sums[7] <= 1e-6:
                break
            length = math.sqrt(sums[1] * sums[1] + sums[2] * sums[2] + sums[3] * sums[3])
            if length < 1e-6 * sums[7]:
                break
            # The local normal, shortened towards nothing as the normals disagree.
            curved = min(max((length / sums[7] - EDGE) / (SMOOTH - EDGE), 0.0), 1.0) / length
            ax, ay, az = sums[1] * curved, sums[2] * curved, sums[3] * curved
            height = sums[0] + ax * sums[4] + ay * sums[5] + az * sums[6]
            slope = sums[1] * nx + sums[2] * ny + sums[3] * nz + sums[7] * (ax * nx + ay * ny + az * nz)
            if slope < 0.3 * sums[7]:
                break
            moved = min(max(moved - height / slope, -FARTHEST), FARTHEST)
            # A full neighbourhood of a plane has pi / 5.
            share = min(sums[7] / (ENOUGH * 0.2 * math.pi), 1.0)
        vertices[v, 0] = x + share * moved * nx
        vertices[v, 1] = y + share * moved * ny
        vertices[v, 2] = z + share * moved * nz
