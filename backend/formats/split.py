"""Vertices doubled along uv seams, as file formats with one uv a vertex want them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    """positions [k, 3], normals [k, 3] unit, uvs [k, 2], faces [m, 3] into them."""

    positions: NDArray[np.float32]
    normals: NDArray[np.float32]
    uvs: NDArray[np.float32]
    faces: NDArray[np.int64]


def smooth_normals(vertices: NDArray, faces: NDArray) -> NDArray[np.float32]:
    """[n, 3] unit: the mean of the faces about each vertex, weighted by area; +Y where they cancel."""
    corners = vertices[faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat = faces.reshape(-1)
    summed = np.stack(
        [np.bincount(flat, weights=np.repeat(normals[:, axis], 3), minlength=len(vertices)) for axis in range(3)],
        axis=1,
    )
    largest = np.abs(summed).max(axis=1, keepdims=True)
    summed = np.where(largest > 0, summed / np.where(largest > 0, largest, 1.0), np.array([0.0, 1.0, 0.0]))
    return (summed / np.linalg.norm(summed, axis=1, keepdims=True)).astype(np.float32)


def split_at_seams(vertices: NDArray, faces: NDArray, corner_uvs: NDArray) -> Split:
    """One vertex for each different pair of a vertex [n, 3] and a uv at it [m, 3, 2]; the faces keep their order."""
    flat, uvs = faces.reshape(-1).astype(np.int64), np.ascontiguousarray(corner_uvs.reshape(-1, 2), np.float32)
    # The bits of a uv as one number: equal numbers are equal pairs (adding 0 makes -0 into 0).
    bits = (uvs + np.float32(0.0)).view(np.int64).reshape(-1)
    order = np.lexsort((bits, flat))
    new = np.ones(len(order), bool)
    new[1:] = (flat[order][1:] != flat[order][:-1]) | (bits[order][1:] != bits[order][:-1])
    index = np.empty(len(order), np.int64)
    index[order] = np.cumsum(new) - 1
    first = order[new]
    normals = smooth_normals(vertices, faces)
    return Split(vertices[flat[first]].astype(np.float32), normals[flat[first]], uvs[first], index.reshape(-1, 3))
