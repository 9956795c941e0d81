"""A mesh cut into a few connected parts of about the same size, along creases where there are any."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components, dijkstra

from backend.surface import topology

ROUNDS = 3  # of moving the seeds into the middle of their parts
CREASE = 8.0  # how many times as far it is across a fold of 90 degrees, less one: parts end there sooner


def dual_graph(vertices: NDArray, faces: NDArray[np.int64]) -> sparse.csr_matrix:
    """[m, m]: how far it is from each face to those it shares an edge with, centre to centre, more across creases."""
    edges = np.sort(topology.directed_edges(faces), axis=1)
    of_face = np.tile(np.arange(len(faces)), 3)
    keys = edges[:, 0] * len(vertices) + edges[:, 1]
    order = np.argsort(keys, kind="stable")
    together = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    a, b = of_face[order[together]], of_face[order[together + 1]]
    normals = topology.face_normals(vertices, faces)
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    centers = vertices[faces].mean(axis=1)
    fold = 1.0 - (normals[a] * normals[b]).sum(axis=1)
    length = np.linalg.norm(centers[a] - centers[b], axis=1) * (1.0 + CREASE * fold)
    # A distance of zero would be no entry at all.
    length = np.maximum(length, 1e-6 * max(float(length.max(initial=0.0)), 1e-30))
    half = sparse.coo_matrix((length, (a, b)), shape=(len(faces), len(faces)))
    return (half + half.T).tocsr()


def partition(vertices: NDArray, faces: NDArray[np.int64], largest: int) -> NDArray[np.int32]:
    """[m]: the part of each face; parts are connected and have about `largest` faces at most.

    Voronoi cells on the graph of neighbouring faces, about seeds spread out by farthest points and moved to the middle
    of their cells (Lloyd's rounds). Connected pieces of the mesh are never in one part, so small ones cost nothing.
    """
    graph = dual_graph(vertices, faces)
    count, piece = connected_components(graph, directed=False)
    sizes = np.bincount(piece, minlength=count)
    if sizes.max() <= largest:
        return piece.astype(np.int32)
    labels = np.full(len(faces), -1, np.int64)
    made = 0
    for index in np.flatnonzero(sizes > 0):
        members = np.flatnonzero(piece == index) if sizes[index] > largest else None
        if members is None:
            continue
        parts = -(-int(sizes[index]) // largest)
        labels[members] = made + _cells(graph[members][:, members], vertices[faces[members]].mean(axis=1), parts)
        made += parts
    small = labels < 0
    labels[small] = made + piece[small]
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int32)


def _cells(graph: sparse.csr_matrix, centers: NDArray, parts: int) -> NDArray[np.int64]:
    """[k] the cell of each of k faces that hang together."""
    seeds = [int(np.argmax(((centers - centers.mean(axis=0)) ** 2).sum(axis=1)))]
    # Straight distances are good enough for a start, and cost nothing.
    nearest = ((centers - centers[seeds[0]]) ** 2).sum(axis=1)
    while len(seeds) < parts:
        seeds.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, ((centers - centers[seeds[-1]]) ** 2).sum(axis=1))
    for last in range(ROUNDS + 1):
        _, _, sources = dijkstra(graph, directed=False, indices=seeds, min_only=True, return_predecessors=True)
        cells = np.searchsorted(np.sort(seeds), sources)
        if last == ROUNDS:
            break
        counts = np.maximum(np.bincount(cells, minlength=parts), 1)
        middle = np.stack([np.bincount(cells, centers[:, axis], minlength=parts) / counts for axis in range(3)], axis=1)
        off = ((centers - middle[cells]) ** 2).sum(axis=1)
        order = np.lexsort((off, cells))
        starts = np.searchsorted(cells[order], np.arange(parts))
        seeds = list(order[np.minimum(starts, len(order) - 1)])
    return cells
