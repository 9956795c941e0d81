"""Colours for what no camera saw, and for the texels beyond the charts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg

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


def extend(image: FloatArray, covered: NDArray[np.bool_]) -> FloatArray:
    """The image [S, S, 3] with every texel that no chart covers in the colour of the nearest one that is covered."""
    if covered.all() or not covered.any():
        return image
    rows, columns = ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return image[rows, columns]
