"""Fewer faces, the same shape: quadric edge collapse (Garland and Heckbert 1997) by fast-simplification."""

from __future__ import annotations

import fast_simplification
import numpy as np
import torch

from backend.datatypes import Mesh
from backend.errors import BadInput
from backend.surface import topology


def simplify(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with at most about `faces` faces, closed if it was; left alone where it has no more than that.

    Where collapsing would tear a closed mesh, it stops at the fewest faces with which the mesh stays closed.
    Raises BadInput for fewer than four faces.
    """
    if faces < 4:
        raise BadInput(f"A mesh needs at least 4 faces, not {faces}.")
    if mesh.faces.shape[0] <= faces:
        return mesh
    vertices = mesh.vertices.detach().cpu().double().numpy()
    # Collapse in a box of size one: the quadrics' tolerances are absolute.
    low, size = vertices.min(axis=0), max(float(np.ptp(vertices, axis=0).max()), 1e-20)
    points = ((vertices - low) / size).astype(np.float32)
    triangles = mesh.faces.cpu().numpy()
    closed = topology.is_closed(triangles)
    for target in _targets(faces, len(triangles)):
        for aggression in (5.0, 7.0, 3.0):
            new_points, new_triangles = fast_simplification.simplify(
                points, triangles.astype(np.int32), target_count=target, agg=aggression
            )
            if not closed or topology.is_closed(new_triangles):
                new_points, new_triangles = topology.compact(new_points.astype(np.float64), new_triangles)
                return Mesh(torch.from_numpy(new_points * size + low).float(), torch.from_numpy(new_triangles))
    return mesh


def _targets(faces: int, available: int) -> list[int]:
    """The count asked for, then larger ones."""
    targets = [faces, int(faces * 0.98), int(faces * 1.03)]
    while targets[-1] * 1.3 < available:
        targets.append(int(targets[-1] * 1.3))
    return targets
