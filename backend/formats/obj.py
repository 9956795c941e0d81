"""A textured mesh as Wavefront .obj with its .mtl, which names the picture of the base colour beside it.

+Y up, front towards +Z, as importers of .obj expect. Places, normals and uvs have indices of their own in an .obj, so
that no vertex is doubled and a closed mesh stays closed.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.datatypes import TexturedMesh
from backend.formats.mesh_arrays import plain_mesh, replace_file
from backend.formats.split import smooth_normals

MATERIAL = "base_color"


def write_obj(path: str | os.PathLike[str], textured: TexturedMesh, mtl_name: str = "mesh.mtl") -> None:
    """Write the .obj, which refers to the file `mtl_name` in its own folder (see write_mtl). Raises BadInput."""
    vertices, faces, corner_uvs = plain_mesh(textured)
    uvs, uv_of_corner = np.unique(corner_uvs.reshape(-1, 2), axis=0, return_inverse=True)
    places = faces.reshape(-1) + 1
    corners = np.stack([places, uv_of_corner.reshape(-1) + 1, places], axis=1)
    text = [
        f"# Splatsmith\nmtllib {mtl_name}\no Splatsmith\n",
        _lines("v %.7g %.7g %.7g\n", vertices),
        _lines("vt %.6f %.6f\n", uvs),
        _lines("vn %.4f %.4f %.4f\n", smooth_normals(vertices, faces)),
        f"usemtl {MATERIAL}\ns 1\n",
        _lines("f %d/%d/%d %d/%d/%d %d/%d/%d\n", corners.reshape(-1, 9)),
    ]
    replace_file(Path(path), "".join(text).encode("ascii"))


def write_mtl(path: str | os.PathLike[str], picture: str = "base_color.png") -> None:
    """Write the material: matt, with the picture of that name in the same folder as its colour. Raises BadInput."""
    lines = [
        "# Splatsmith",
        f"newmtl {MATERIAL}",
        *("Ka 0 0 0", "Kd 1 1 1", "Ks 0.04 0.04 0.04", "Ns 20", "d 1", "illum 2"),
        *("Pr 0.8", "Pm 0"),  # roughness and metalness, for those that read the extension for them
        f"map_Kd {picture}",
    ]
    replace_file(Path(path), ("\n".join(lines) + "\n").encode("utf-8"))


def _lines(line: str, rows: NDArray) -> str:
    """`line` filled in with each row: one formatting for all of them is many times faster than one each."""
    return (line * len(rows)) % tuple(rows.reshape(-1).tolist())
