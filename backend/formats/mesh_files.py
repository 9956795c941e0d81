"""The further files that a mesh can be written to, by the names that backend.job.jobfolder.MESH_FORMATS gives them."""

from __future__ import annotations

from pathlib import Path

from backend.datatypes import TexturedMesh
from backend.errors import BadInput
from backend.formats.glb import write_colored_glb
from backend.formats.mesh_ply import write_mesh_ply
from backend.formats.obj import write_mtl, write_obj
from backend.formats.stl import write_stl


def write_mesh_format(name: str, paths: list[Path], textured: TexturedMesh) -> None:
    """Write one format to its files; an .obj names mesh.mtl, and that base_color.png. Raises BadInput."""
    if name == "obj":
        write_obj(paths[0], textured, mtl_name="mesh.mtl")
        write_mtl(paths[1], picture="base_color.png")
    elif name == "stl":
        write_stl(paths[0], textured)
    elif name == "ply":
        write_mesh_ply(paths[0], textured)
    elif name == "glb-colors":
        write_colored_glb(paths[0], textured)
    else:
        raise BadInput(f"There is no format '{name[:40]}'.", "Use obj, stl, ply or glb-colors.")
