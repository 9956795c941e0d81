"""Colours for what no camera saw, and for the texels beyond the charts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg

from backend.render.parallel import kernel
from backend.surface import topology

FloatArray = NDArray[np.float32]

TRUST = 0.05  # a point seen with this weight takes as much from its neighbours as from its own colour


def spread_over_mesh(
    colors: FloatArray, weights: FloatArray, faces: NDArray[np.int64], fallback: FloatArray
) -> FloatArray:
    """[n, 3]: vertex colours where unseen vertices take the smoothest continuation of the seen ones.

    Solves (W + L) c = W c0 with the mesh's graph Laplacian L: harmonic where the weight is 0. colors [n, 3],
    weights [n]; fallback [3]: for pieces of which nothing was seen.
    """
    trust = weights.astype(np.float64) / TRUST
    neighbours = topology.adjacency(faces, len(colors)).astype(np.float64)
    degree = np.asarray(neighbours.sum(axis=1)).reshape(-1)
    # The tiny constant only decides where nothing else does.
    matrix = (sparse.diags(trust + degree + 1e-7) - neighbours).tocsr()
    preconditioner = sparse.diags(1.0 / np.maximum(matrix.diagonal(), 1e-12))
    result = np.empty_like(colors)
    for channel in range(3):
        offset = colors[:, channel].astype(np.float64) - fallback[channel]
        solution, _ = cg(matrix, trust * offset, rtol=1e-4, maxiter=400, M=preconditioner)
        result[:, channel] = np.clip(solution + fallback[channel], 0.0, 1.0)
    return result


def extend(image: FloatArray, covered: NDArray[np.bool_]) -> None:
    """Give every texel of image [3, S, S] that is not covered [S, S] the colour of the nearest one that is."""
    if covered.any() and not covered.all():
        _extend(image, covered)


@kernel
def _extend(image: FloatArray, covered: NDArray) -> None:
    """Two sweeps that hand on the nearest covered texel (Danielsson 1980); off by less than a texel at worst."""
    height, width = covered.shape
    nearest = np.full((height, width), -1, np.int32)
    for row in range(height):
        for column in range(width):
            if covered[row, column]:
                nearest[row, column] = row * width + column
    for sweep in range(2):
        step = 1 - 2 * sweep
        for i in range(height):
            row = i if sweep == 0 else height - 1 - i
            for j in range(2 * width):
                # Each row both ways, after what the row before it says.
                column = j if j < width else 2 * width - 1 - j
                if covered[row, column]:
                    continue
                best = nearest[row, column]
                least = 2**30
                if best >= 0:
                    least = (best // width - row) ** 2 + (best % width - column) ** 2
                for k in range(4):
                    near_row = row if k == 3 else row - step
                    near_column = column + k - 1 if k < 3 else (column - 1 if j < width else column + 1)
                    if near_row < 0 or near_row >= height or near_column < 0 or near_column >= width:
                        continue
                    candidate = nearest[near_row, near_column]
                    if candidate < 0:
                        continue
                    distance = (candidate // width - row) ** 2 + (candidate % width - column) ** 2
                    if distance < least:
                        best, least = candidate, distance
                nearest[row, column] = best
    for row in range(height):
        for column in range(width):
            if not covered[row, column]:
                for channel in range(image.shape[0]):
                    image[channel, row, column] = image[
                        channel, nearest[row, column] // width, nearest[row, column] % width
                    ]
