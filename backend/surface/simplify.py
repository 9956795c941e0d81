"""Fewer faces, the same shape: quadric edge collapse (Garland and Heckbert 1997)."""

from __future__ import annotations

import fast_simplification
import numpy as np
import torch

from backend.datatypes import Mesh
from backend.errors import BadInput
from backend.surface import topology
from backend.surface.collapse import collapse


def simplify(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with `faces` faces; left alone where it has no more than that.

    A closed mesh stays closed, with the same pieces and handles, and has exactly `faces` faces (one fewer where the
    number is odd: a closed mesh has an even one); it has more only where fewer would tear it. An open mesh has about as
    many. Raises BadInput for fewer than four faces.
    """
    if faces < 4:
        raise BadInput(f"A mesh needs at least 4 faces, not {faces}.")
    if mesh.faces.shape[0] <= faces:
        return mesh
    vertices = mesh.vertices.detach().cpu().double().numpy()
    triangles = mesh.faces.cpu().numpy()
    # Collapse in a box of size one: the tolerances are absolute.
    low, size = vertices.min(axis=0), max(float(np.ptp(vertices, axis=0).max()), 1e-20)
    points = (vertices - low) / size
    if topology.is_closed(triangles):
        points, triangles = points.copy(), triangles.copy()
        collapse(points, triangles, faces)
        triangles = triangles[triangles[:, 0] >= 0]
    else:
        points, triangles = fast_simplification.simplify(
            points.astype(np.float32), triangles.astype(np.int32), target_count=faces, agg=5.0
        )
    points, triangles = topology.compact(points.astype(np.float64), triangles)
    return Mesh(torch.from_numpy(points * size + low).float(), torch.from_numpy(triangles))
