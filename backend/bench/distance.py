"""How far two surfaces lie apart: from points sampled on the one to the nearest point of the other's triangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.render.parallel import chunks, inlined, kernel, run
from backend.surface import topology

FloatArray = NDArray[np.float64]

LEAF = 4  # triangles in a leaf of the tree


@dataclass(frozen=True)
class Comparison:
    """chamfer: the mean of the mean distances in both directions; f_scores: of each threshold, the harmonic mean of the
    shares of samples that lie within it of the other surface."""

    chamfer: float
    f_scores: list[float]


def compare(
    first: tuple[NDArray, NDArray], second: tuple[NDArray, NDArray], thresholds: list[float], count: int = 100_000
) -> Comparison:
    """Two meshes (vertices [n, 3], faces [m, 3]) by `count` samples of each."""
    there = distances(_samples(*first, count, seed=1), *second)
    back = distances(_samples(*second, count, seed=2), *first)
    scores = []
    for threshold in thresholds:
        precision, recall = float((back < threshold).mean()), float((there < threshold).mean())
        scores.append(2 * precision * recall / max(precision + recall, 1e-12))
    return Comparison(0.5 * float(there.mean() + back.mean()), scores)


def _samples(vertices: NDArray, faces: NDArray, count: int, seed: int) -> FloatArray:
    """[count, 3]: places spread evenly at random over a mesh."""
    rng = np.random.default_rng(seed)
    areas = np.cumsum(topology.face_areas(vertices, faces))
    chosen = np.searchsorted(areas, rng.random(count) * areas[-1]).clip(max=len(faces) - 1)
    u, v = rng.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = (vertices[faces[chosen, corner]].astype(np.float64) for corner in range(3))
    return a + u * (b - a) + v * (c - a)


def distances(points: NDArray, vertices: NDArray, faces: NDArray) -> FloatArray:
    """[n]: from each point [n, 3] to the nearest point on any of the triangles."""
    triangles, boxes = _tree(vertices.astype(np.float64)[faces])
    points = np.ascontiguousarray(points, np.float64)
    result = np.empty(len(points))
    run(_nearest, [(points[a:b], triangles, boxes, result[a:b]) for a, b in chunks(len(points), 4096)])
    return np.sqrt(result)


def _tree(triangles: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Triangles [t, 3, 3] in an order in which neighbours are near, and boxes [2 * leaves, 6] round them: box i holds
    the boxes 2 i and 2 i + 1, box leaves + k the k-th LEAF triangles."""
    order = _halved(triangles.mean(axis=1))
    triangles = np.ascontiguousarray(triangles[order])
    leaves = 1
    while leaves * LEAF < len(triangles):
        leaves *= 2
    boxes = np.empty((2 * leaves, 6))
    boxes[:, :3], boxes[:, 3:] = np.inf, -np.inf
    starts = np.arange(0, len(triangles), LEAF)
    boxes[leaves : leaves + len(starts), :3] = np.minimum.reduceat(triangles.min(axis=1), starts)
    boxes[leaves : leaves + len(starts), 3:] = np.maximum.reduceat(triangles.max(axis=1), starts)
    level = leaves // 2
    while level >= 1:
        pairs = boxes[2 * level : 4 * level].reshape(level, 2, 6)
        boxes[level : 2 * level, :3] = pairs[:, :, :3].min(axis=1)
        boxes[level : 2 * level, 3:] = pairs[:, :, 3:].max(axis=1)
        level //= 2
    return triangles, boxes


def _halved(centers: FloatArray) -> NDArray[np.int64]:
    """An order of points along a curve that fills space (their bits interleaved)."""
    low, size = centers.min(axis=0), max(float(np.ptp(centers, axis=0).max()), 1e-30)
    cells = ((centers - low) / size * 1023).astype(np.int64)
    code = np.zeros(len(centers), np.int64)
    for bit in range(10):
        for axis in range(3):
            code |= (cells[:, axis] >> bit & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")


@inlined
def _to_box(box, x, y, z):
    """The squared distance from a point to a box."""
    dx = max(box[0] - x, x - box[3], 0.0)
    dy = max(box[1] - y, y - box[4], 0.0)
    dz = max(box[2] - z, z - box[5], 0.0)
    return dx * dx + dy * dy + dz * dz


@inlined
def _to_triangle(triangle, x, y, z):
    """The squared distance from a point to a triangle: by the region of its plane that the point lies over."""
    ax, ay, az = triangle[0, 0], triangle[0, 1], triangle[0, 2]
    ux, uy, uz = triangle[1, 0] - ax, triangle[1, 1] - ay, triangle[1, 2] - az
    vx, vy, vz = triangle[2, 0] - ax, triangle[2, 1] - ay, triangle[2, 2] - az
    px, py, pz = x - ax, y - ay, z - az
    uu, uv, vv = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz, vx * vx + vy * vy + vz * vz
    up, vp = ux * px + uy * py + uz * pz, vx * px + vy * py + vz * pz
    area = uu * vv - uv * uv
    if area > 1e-30:
        s, t = (vv * up - uv * vp) / area, (uu * vp - uv * up) / area
        if s >= 0 and t >= 0 and s + t <= 1:
            dx, dy, dz = px - s * ux - t * vx, py - s * uy - t * vy, pz - s * uz - t * vz
            return dx * dx + dy * dy + dz * dz
    # Outside of the triangle, so the nearest place is on one of the edges.
    best = np.inf
    s = min(max(up / max(uu, 1e-300), 0.0), 1.0)
    dx, dy, dz = px - s * ux, py - s * uy, pz - s * uz
    best = min(best, dx * dx + dy * dy + dz * dz)
    t = min(max(vp / max(vv, 1e-300), 0.0), 1.0)
    dx, dy, dz = px - t * vx, py - t * vy, pz - t * vz
    best = min(best, dx * dx + dy * dy + dz * dz)
    wx, wy, wz = vx - ux, vy - uy, vz - uz
    qx, qy, qz = px - ux, py - uy, pz - uz
    r = (wx * qx + wy * qy + wz * qz) / max(wx * wx + wy * wy + wz * wz, 1e-300)
    r = min(max(r, 0.0), 1.0)
    dx, dy, dz = qx - r * wx, qy - r * wy, qz - r * wz
    return min(best, dx * dx + dy * dy + dz * dz)


@kernel
def _nearest(points, triangles, boxes, out):
    """out [n]: squared distances of points [n, 3]."""
    leaves = boxes.shape[0] // 2
    stack = np.empty(128, np.int64)
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        best = np.inf
        stack[0], depth = 1, 1
        while depth > 0:
            depth -= 1
            node = stack[depth]
            if _to_box(boxes[node], x, y, z) >= best:
                continue
            if node >= leaves:
                first = (node - leaves) * LEAF
                for t in range(first, min(first + LEAF, triangles.shape[0])):
                    best = min(best, _to_triangle(triangles[t], x, y, z))
                continue
            left, right = 2 * node, 2 * node + 1
            if _to_box(boxes[left], x, y, z) < _to_box(boxes[right], x, y, z):
                left, right = right, left
            stack[depth], stack[depth + 1] = left, right
            depth += 2
        out[i] = best
