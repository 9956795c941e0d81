"""A mesh as .ply with a colour at each vertex, for scanning tools such as MeshLab: no uvs, no picture."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from backend.datatypes import TexturedMesh
from backend.formats.mesh_arrays import plain_mesh, replace_file
from backend.formats.split import smooth_normals
from backend.formats.vertex_colors import vertex_colors

_VERTEX = np.dtype([("place", "<f4", 3), ("normal", "<f4", 3), ("color", "u1", 3)])
_FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])


def write_mesh_ply(path: str | os.PathLike[str], textured: TexturedMesh) -> None:
    """Write binary little endian: places, smooth normals, sRGB colours, triangles. Raises BadInput."""
    vertices, faces, _ = plain_mesh(textured)
    table = np.zeros(len(vertices), _VERTEX)
    table["place"], table["normal"] = vertices, smooth_normals(vertices, faces)
    table["color"] = np.rint(vertex_colors(textured) * 255)
    triangles = np.zeros(len(faces), _FACE)
    triangles["count"], triangles["corners"] = 3, faces
    header = ["ply", "format binary_little_endian 1.0", "comment Splatsmith", f"element vertex {len(vertices)}"]
    header += [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    content = ("\n".join(header) + "\n").encode("ascii") + table.tobytes() + triangles.tobytes()
    replace_file(Path(path), content)
