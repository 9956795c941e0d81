"""Questions about a triangle mesh as numpy arrays: is it closed, of how many pieces, how large."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

Vertices = NDArray[np.floating]
Faces = NDArray[np.integer]


def directed_edges(faces: Faces) -> NDArray[np.int64]:
    """[3m, 2]: every face's edges in its own direction."""
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)


def is_closed(faces: Faces) -> bool:
    """Every edge has exactly two faces, which run along it in opposite directions; no face uses a vertex twice."""
    if len(faces) == 0:
        return False
    edges = directed_edges(faces)
    if (edges[:, 0] == edges[:, 1]).any():
        return False
    width = int(faces.max()) + 1
    there, back = edges[:, 0] * width + edges[:, 1], edges[:, 1] * width + edges[:, 0]
    there.sort()
    back.sort()
    return bool((there[1:] != there[:-1]).all() and (there == back).all())


def euler_characteristic(faces: Faces) -> int:
    """Vertices - edges + faces: 2 for each ball, 0 for a torus."""
    edges = np.unique(np.sort(directed_edges(faces), axis=1), axis=0)
    return len(np.unique(faces)) - len(edges) + len(faces)


def genus(faces: Faces, vertices: int) -> int:
    """The handles of all pieces together, of a closed mesh: 0 for balls, 1 for each torus."""
    return pieces(faces, vertices)[0] - euler_characteristic(faces) // 2


def face_normals(vertices: Vertices, faces: Faces) -> Vertices:
    """[m, 3]: normals as long as twice the face's area."""
    corners = vertices[faces]
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def face_areas(vertices: Vertices, faces: Faces) -> Vertices:
    """[m]."""
    return 0.5 * np.linalg.norm(face_normals(vertices, faces), axis=1)


def vertex_normals(vertices: Vertices, faces: Faces) -> Vertices:
    """[n, 3] unit: the mean of the faces about a vertex, weighted by area; +Y where they cancel."""
    normals = face_normals(vertices, faces)
    summed = np.stack(
        [
            np.bincount(faces.reshape(-1), weights=np.repeat(normals[:, axis], 3), minlength=len(vertices))
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(summed, axis=1, keepdims=True)
    return np.where(length > 1e-20, summed / np.maximum(length, 1e-20), np.array([0.0, 1.0, 0.0]))


def volume(vertices: Vertices, faces: Faces) -> float:
    """The volume within a closed mesh; negative where the faces look inwards."""
    corners = vertices[faces].astype(np.float64)
    return float(np.einsum("mi,mi->m", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6)


def adjacency(faces: Faces, vertices: int) -> sparse.csr_matrix:
    """[n, n] 1 where two vertices share an edge."""
    edges = directed_edges(faces)
    edges = np.concatenate([edges, edges[:, ::-1]])
    matrix = sparse.coo_matrix((np.ones(len(edges), np.float32), edges.T), shape=(vertices, vertices)).tocsr()
    matrix.data[:] = 1.0
    return matrix


def pieces(faces: Faces, vertices: int) -> tuple[int, NDArray[np.int32]]:
    """How many connected pieces, and the piece [m] of each face. Vertices without a face are no piece."""
    _, labels = connected_components(adjacency(faces, vertices), directed=False)
    found, of_face = np.unique(labels[faces[:, 0]], return_inverse=True)
    return len(found), of_face.astype(np.int32)


def compact(vertices: NDArray, faces: Faces) -> tuple[NDArray, NDArray[np.int64]]:
    """The mesh without vertices that no face uses."""
    used, renumbered = np.unique(faces, return_inverse=True)
    return vertices[used], renumbered.reshape(-1, 3).astype(np.int64)
