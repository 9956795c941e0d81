"""A mesh as plain arrays, for the add-on, which builds its object from them without an importer.

mesh.npz: vertices float32 [n, 3], faces int32 [m, 3], corner_uvs float32 [m, 3, 2] (origin at the bottom left).
"""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.datatypes import TexturedMesh
from backend.errors import BadInput

KEYS = ("vertices", "faces", "corner_uvs")


@dataclass(frozen=True)
class MeshArrays:
    """What a mesh.npz holds, as numpy arrays."""

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    corner_uvs: NDArray[np.float32]


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole: under a name of its own first, then renamed, so that no half file ever has the final name."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BadInput(
            f"{path} could not be written: {error.strerror or error}.",
            "Choose a folder that can be written to and has room.",
        ) from error


def plain_mesh(textured: TexturedMesh) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Vertices [n, 3], faces [m, 3] and corner_uvs [m, 3, 2]. Raises BadInput where no file can hold them."""
    vertices = textured.mesh.vertices.detach().cpu().numpy().astype(np.float32)
    faces, uvs = textured.mesh.faces.cpu().numpy(), textured.corner_uvs.detach().cpu().numpy().astype(np.float32)
    if len(faces) == 0:
        raise BadInput("There are no faces to write into a file.", "Make the mesh again.")
    if not (np.isfinite(vertices).all() and np.isfinite(uvs).all()):
        raise BadInput("The mesh has numbers that are not finite, so no file was written.", "Make the mesh again.")
    return vertices, faces, uvs


def write_mesh_npz(path: str | os.PathLike[str], textured: TexturedMesh) -> None:
    """Write mesh.npz. Raises BadInput where the file cannot be written."""
    stream = io.BytesIO()
    np.savez(
        stream,
        vertices=textured.mesh.vertices.detach().cpu().numpy().astype(np.float32),
        faces=textured.mesh.faces.cpu().numpy().astype(np.int32),
        corner_uvs=textured.corner_uvs.detach().cpu().numpy().astype(np.float32),
    )
    replace_file(Path(path), stream.getvalue())


def read_mesh_npz(path: str | os.PathLike[str]) -> MeshArrays:
    """Read mesh.npz. Raises BadInput where it is missing, damaged or has other arrays than it should."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in KEYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} is no mesh.npz that can be read ({error}).", "Make the mesh again.") from error
    vertices, faces, uvs = (arrays[key] for key in KEYS)
    fits = vertices.ndim == 2 and vertices.shape[1] == 3 and faces.ndim == 2 and faces.shape[1] == 3
    fits = fits and uvs.shape == (len(faces), 3, 2) and faces.dtype.kind in "iu"
    if not fits or (len(faces) and (faces.min() < 0 or faces.max() >= len(vertices))):
        raise BadInput(f"The arrays in {path} do not make a mesh.", "Make the mesh again.")
    return MeshArrays(vertices.astype(np.float32), faces.astype(np.int32), uvs.astype(np.float32))
