"""A mesh as binary .stl for printers: millimetres, Z up, standing in the middle of the bed.

An .stl has no units; slicers read them as millimetres. What is made here has no true size, so the longest side gets one
that any printer can print and a slicer scales at a click.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from backend.datatypes import TexturedMesh
from backend.errors import BadInput
from backend.formats.mesh_arrays import plain_mesh, replace_file

LONGEST_SIDE = 100.0  # millimetres
_HEADER = b"Splatsmith, binary STL, millimetres, Z up"  # one that begins with "solid" would be taken for text
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def write_stl(path: str | os.PathLike[str], textured: TexturedMesh, longest_side: float = LONGEST_SIDE) -> None:
    """Write the mesh, its longest side `longest_side` millimetres, its lowest point at z = 0. Raises BadInput.

    The mesh's +Y becomes +Z; its front, +Z, becomes -Y, towards the person before the printer.
    """
    vertices, faces, _ = plain_mesh(textured)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    side = float((high - low).max())
    if not side > 0:
        raise BadInput("The mesh has no size, so no .stl file was written.")
    placed = (vertices.astype(np.float64) - [(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2]) * (
        longest_side / side
    )
    placed = np.stack([placed[:, 0], -placed[:, 2], placed[:, 1]], axis=1)
    # Corners of neighbouring faces come from one rounded vertex, so that a slicer finds the mesh as closed as it is.
    corners = placed.astype(np.float32)[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    table = np.zeros(len(faces), _TRIANGLE)
    table["normal"] = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    table["corners"] = corners
    content = _HEADER.ljust(80, b" ") + np.uint32(len(faces)).astype("<u4").tobytes() + table.tobytes()
    replace_file(Path(path), content)
