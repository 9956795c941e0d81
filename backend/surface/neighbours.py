"""The nearest neighbours of every point, and what they say together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from backend.render.parallel import chunks, kernel, run, thread_count

FloatArray = NDArray[np.float32]

NEIGHBOURS = 12
BLURRED = 0.25  # variance across over variance along a neighbourhood's plane from which on it has none
ALIKE = 0.4  # cosine between normals from which on two points lie on the same side of a thin part


@dataclass(frozen=True)
class Neighbours:
    """index [N, K], itself first, and weights [N, K]; spacing [N]: its square is a point's share of the surface.

    planes [N, 3]: unit normals of the planes through the neighbours, of either sign; flatness [N]: 1 where the
    neighbours lie on that plane, 0 where they are a heap.
    """

    index: NDArray[np.int32]
    weights: FloatArray
    spacing: FloatArray
    planes: FloatArray
    flatness: FloatArray

    @staticmethod
    def of(points: FloatArray, alone: float) -> Neighbours:
        """The neighbours of points [N, 3]. alone: the spacing of so few points that they have none."""
        total = len(points)
        count = min(NEIGHBOURS + 1, total)
        if count < 5:
            up = np.tile(np.array([0.0, 1.0, 0.0], np.float32), (total, 1))
            itself = np.arange(total, dtype=np.int32)[:, None]
            ones = np.ones((total, 1), np.float32)
            return Neighbours(itself, ones, np.full(total, 2 * alone, np.float32), up, np.zeros(total, np.float32))
        distances, index = cKDTree(points).query(points, k=count, workers=thread_count())
        spacing = np.maximum(distances[:, -1] * math.sqrt(math.pi / count), 1e-6)
        offsets = points[index] - points[index].mean(axis=1, keepdims=True)
        values, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", offsets, offsets))
        weights = np.exp(-0.5 * (distances / spacing[:, None]) ** 2)
        # Points in one place, or on a line, have no plane.
        ratio = np.where(values[:, 1] > 1e-6 * values[:, 2].max(), values[:, 0] / np.maximum(values[:, 1], 1e-30), 1.0)
        return Neighbours(
            index.astype(np.int32),
            weights.astype(np.float32),
            spacing.astype(np.float32),
            np.ascontiguousarray(vectors[:, :, 0], np.float32),
            np.clip(1 - ratio / BLURRED, 0.0, 1.0).astype(np.float32),
        )

    def usual(self, values: FloatArray) -> FloatArray:
        """[N]: the median of values [N] over the neighbours, without the point itself."""
        if self.index.shape[1] < 5:
            return values
        return np.median(values[self.index[:, 1:]], axis=1).astype(np.float32)

    def mean(self, values: NDArray, weights: NDArray | None = None, normals: FloatArray | None = None) -> FloatArray:
        """[N, D]: values [N, D] averaged over the neighbours. weights [N] of the points; normals [N, 3]: only those
        count that look the same way, so that the two sides of a thin part keep apart."""
        total = len(self.index)
        out = np.zeros((total, values.shape[1]), np.float32)
        filled = np.ones(total, np.float32) if weights is None else weights.astype(np.float32)
        apart = normals is not None
        directions = np.zeros((1, 3), np.float32) if normals is None else normals
        values = np.ascontiguousarray(values, np.float32)
        run(
            _mean,
            [
                (self.index[a:b], self.weights[a:b], values, filled, directions, apart, a, out[a:b])
                for a, b in chunks(total, 4096)
            ],
        )
        return out


@kernel
def _mean(index, weights, values, filled, normals, apart, first, out):
    width = values.shape[1]
    for i in range(index.shape[0]):
        here = first + i
        total = 0.0
        for k in range(index.shape[1]):
            other = index[i, k]
            weight = weights[i, k] * filled[other]
            if apart:
                cosine = (
                    normals[here, 0] * normals[other, 0]
                    + normals[here, 1] * normals[other, 1]
                    + normals[here, 2] * normals[other, 2]
                )
                if cosine < ALIKE:
                    continue
                weight *= cosine
            total += weight
            for d in range(width):
                out[i, d] += weight * values[other, d]
        if total > 0:
            for d in range(width):
                out[i, d] /= total


def scatter(index: NDArray[np.int32], points: FloatArray, planes: FloatArray) -> FloatArray:
    """[N]: how far points scatter along their normals [N, 3] (of either sign): the standard deviation, from the median.

    Between two points of a ball the mean of their normals is at right angles to the line that joins them: so taken, the
    curvature of a smooth surface is no scatter. The median leaves out the other side of a thin part.
    """
    if index.shape[1] < 5:
        return np.zeros(len(points), np.float32)
    out = np.zeros(len(points), np.float32)
    planes = np.ascontiguousarray(planes, np.float32)
    run(_scatter, [(index[a:b], points, planes, a, out[a:b]) for a, b in chunks(len(points), 4096)])
    return out


@kernel
def _scatter(index, points, planes, first, out):
    heights = np.empty(index.shape[1] - 1, np.float32)
    for i in range(index.shape[0]):
        here = first + i
        for k in range(1, index.shape[1]):
            other = index[i, k]
            cosine, mine, its = 0.0, 0.0, 0.0
            for d in range(3):
                step = points[other, d] - points[here, d]
                cosine += planes[here, d] * planes[other, d]
                mine += planes[here, d] * step
                its += planes[other, d] * step
            heights[k - 1] = 0.5 * abs(mine + its if cosine > 0 else mine - its)
        heights.sort()
        # 1.48 from the median to the deviation of a difference, over the root of two for one point's own.
        out[i] = 1.05 * heights[(index.shape[1] - 1) // 2]
