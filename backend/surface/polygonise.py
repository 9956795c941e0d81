"""From a field on a grid to a smooth closed mesh."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from skimage.measure import marching_cubes

from backend.errors import BadInput
from backend.surface import topology

STRAY = 0.02  # a piece with less of the whole area than this is dropped
NEAREST = 0.02  # cells: samples closer to the surface than this are moved off it, or faces without area come out


def polygonise(field: NDArray[np.float32], smoothing: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """vertices [n, 3] in cells and faces [m, 3] of the surface field = 0 (negative inside), outward and closed.

    smoothing: rounds of Taubin's smoothing. Raises BadInput where there is no surface at all.
    """
    field = field.copy()
    # The outermost samples are outside whatever the field says: the surface closes within the grid.
    for axis in range(3):
        border = np.moveaxis(field, axis, 0)
        border[0], border[-1] = np.maximum(border[0], 1.0), np.maximum(border[-1], 1.0)
    field = np.where(field >= 0, np.maximum(field, NEAREST), np.minimum(field, -NEAREST))
    if not (field < 0).any():
        raise BadInput(
            "The Gaussians are too faint or too few to have a surface.",
            "Use Gaussians that are more opaque, or more of them.",
        )
    vertices, faces, _, _ = marching_cubes(field, 0.0, allow_degenerate=True)
    vertices, faces = vertices.astype(np.float64), faces.astype(np.int64)
    if topology.volume(vertices, faces) < 0:
        faces = faces[:, ::-1]
    vertices, faces = without_stray_pieces(vertices, faces)
    vertices = taubin(vertices, faces, smoothing)
    return vertices, np.ascontiguousarray(faces)


def without_stray_pieces(
    vertices: NDArray[np.float64], faces: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The mesh without its small pieces."""
    count, piece = topology.pieces(faces, len(vertices))
    if count == 1:
        return vertices, faces
    areas = np.bincount(piece, weights=topology.face_areas(vertices, faces), minlength=count)
    keep = areas >= min(STRAY * areas.sum(), areas.max())
    return topology.compact(vertices, faces[keep[piece]])


def taubin(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], rounds: int, shrink: float = 0.5, grow: float = -0.53
) -> NDArray[np.float64]:
    """Smoothed vertices: Taubin 1995's two steps a round, the second of which undoes the first one's shrinking."""
    neighbours = topology.adjacency(faces, len(vertices)).astype(np.float64)
    degree = np.asarray(neighbours.sum(axis=1)).reshape(-1)
    mean = sparse.diags(1.0 / np.maximum(degree, 1.0)) @ neighbours
    for _ in range(rounds):
        for factor in (shrink, grow):
            vertices = vertices + factor * (mean @ vertices - vertices)
    return vertices
