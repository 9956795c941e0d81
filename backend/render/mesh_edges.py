"""The edges of a triangle mesh, each with the faces on either side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class MeshEdges:
    """vertices [e, 2], as they run in the first of their faces [e, 2]; the second face is -1 at a border."""

    vertices: NDArray[np.int32]
    faces: NDArray[np.int32]

    @staticmethod
    def of(faces: Tensor) -> MeshEdges:
        """The edges of faces [m, 3]. Where faces do not meet in pairs, back to back, each has a border."""
        triangles = faces.detach().cpu().numpy()
        there = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
        of_face = np.repeat(np.arange(len(triangles)), 3)
        width = int(triangles.max()) + 1 if len(triangles) else 1
        keys, back = there[:, 0] * width + there[:, 1], there[:, 1] * width + there[:, 0]
        order = np.argsort(keys, kind="stable")
        first = np.searchsorted(keys[order], back)
        count = np.searchsorted(keys[order], back, side="right") - first
        twins = np.searchsorted(keys[order], keys, side="right") - np.searchsorted(keys[order], keys)
        paired = (count == 1) & (twins == 1)
        partner = np.where(paired, order[np.minimum(first, max(len(order) - 1, 0))], -1)
        keep = ~paired | (there[:, 0] < there[:, 1])
        other = np.where(paired, of_face[partner], -1)
        return MeshEdges(there[keep].astype(np.int32), np.stack([of_face, other], axis=1)[keep].astype(np.int32))
