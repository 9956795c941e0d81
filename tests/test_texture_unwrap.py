"""Unwrapping: no overlap, texels between charts, the same density everywhere, few charts."""

import mesh_shapes as shapes
import numpy as np
import pytest
import torch
import trimesh
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from backend.datatypes import Mesh
from backend.surface import topology
from backend.texture import pack as packing
from backend.texture import partition as partitioning
from backend.texture.partition import dual_graph, partition
from backend.texture.raster import rasterize_triangles
from backend.texture.unwrap import charts_of, padding_of, unwrap

SHAPES = {"torus": shapes.torus, "chair": shapes.chair, "two": shapes.two_spheres}


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(
        torch.from_numpy(np.asarray(shape.vertices, np.float32)), torch.from_numpy(np.asarray(shape.faces, np.int64))
    )


def drawn(uvs: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    flat = uvs.reshape(-1, 2) * size
    xyz = np.concatenate([flat, np.ones((len(flat), 1))], axis=1)
    face_ids, _, _, counts = rasterize_triangles(xyz, np.arange(len(flat)).reshape(-1, 3), size, size)
    return face_ids, counts


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("size", [256, 512])
def test_charts_lie_apart(name, size):
    mesh = mesh_of(SHAPES[name]())
    uvs = unwrap(mesh, size).numpy()
    assert uvs.shape == (len(mesh.faces), 3, 2)
    assert uvs.min() >= 0
    assert uvs.max() <= 1
    face_ids, counts = drawn(uvs, 4 * size)
    # Centres that lie on an edge within rounding belong to both faces.
    assert (counts > 1).sum() < 1e-3 * (counts > 0).sum()
    assert (counts > 0).mean() > 0.4
    labels = np.where(face_ids >= 0, charts_of(mesh.faces.numpy(), uvs)[face_ids] + 1, 0)
    window = 4 * padding_of(size)
    most = ndimage.maximum_filter(labels, window)
    least = ndimage.minimum_filter(np.where(labels > 0, labels, 10**6), window)
    assert ((most == 0) | (most == least)).all()


def test_the_same_number_of_texels_for_the_same_area():
    mesh = mesh_of(shapes.torus())
    uvs = unwrap(mesh, 512).numpy().astype(np.float64)
    a, b = uvs[:, 1] - uvs[:, 0], uvs[:, 2] - uvs[:, 0]
    flat = 0.5 * (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    solid = topology.face_areas(mesh.vertices.double().numpy(), mesh.faces.numpy())
    assert (flat > 0).mean() > 0.99  # not mirrored, none turned over
    density = flat / solid / (flat.sum() / solid.sum())
    assert np.quantile(density, 0.05) > 0.6
    assert np.quantile(density, 0.95) < 1.6


def test_few_charts():
    for shape, most in (
        (shapes.torus().subdivide(), 60),
        (shapes.sphere(), 24),
        (shapes.box((-1, -1, -1), (1, 1, 1)), 6),
    ):
        mesh = mesh_of(shape)
        assert charts_of(mesh.faces.numpy(), unwrap(mesh, 512).numpy()).max() < most


def test_parts_hang_together_and_are_alike_in_size():
    shape = trimesh.util.concatenate([shapes.torus(), shapes.box((2, 2, 2), (3, 3, 3))])
    vertices, faces = np.asarray(shape.vertices), np.asarray(shape.faces)
    parts = partition(vertices, faces, 500)
    sizes = np.bincount(parts)
    assert sizes.min() == 12  # the box
    assert np.sort(sizes)[1] > 150
    assert sizes.max() < 1000
    graph = dual_graph(vertices, faces)
    for part in range(len(sizes)):
        members = np.flatnonzero(parts == part)
        assert connected_components(graph[members][:, members], directed=False)[0] == 1


def test_parts_end_at_creases(monkeypatch):
    shape = shapes.box((-1, -1, -1), (1, 1, 1))
    for _ in range(3):
        shape = shape.subdivide()
    side = np.abs(shape.face_normals).argmax(axis=1) * 2 + (shape.face_normals.max(axis=1) > 0.5)

    def on_one_side() -> float:
        parts = partition(np.asarray(shape.vertices), np.asarray(shape.faces), 128)
        return np.mean([np.bincount(side[parts == part]).max() / (parts == part).sum() for part in np.unique(parts)])

    with_creases = on_one_side()
    monkeypatch.setattr(partitioning, "CREASE", 0.0)
    assert with_creases > on_one_side() + 0.05


def test_faces_without_area_and_odd_sizes():
    shape = shapes.sphere()
    vertices = np.asarray(shape.vertices, np.float32).copy()
    triangle = shape.faces[0]
    vertices[triangle[1]] = vertices[triangle[0]]
    mesh = Mesh(torch.from_numpy(vertices), torch.from_numpy(np.asarray(shape.faces)))
    for size in (16, 100, 300):
        uvs = unwrap(mesh, size).numpy()
        assert np.isfinite(uvs).all()
        assert uvs.min() >= 0
        assert uvs.max() <= 1
    nothing = unwrap(Mesh(mesh.vertices * 0, mesh.faces[:5]), 64)
    assert nothing.shape == (5, 3, 2)


def test_very_many_charts_fall_back_on_xatlas(monkeypatch):
    monkeypatch.setattr(packing, "COARSE", 8)
    shape = trimesh.util.concatenate(
        [shapes.box((x, y, 0), (x + 0.5, y + 0.5, 0.5)) for x in range(8) for y in range(8)]
    )
    uvs = unwrap(mesh_of(shape), 256).numpy()
    _, counts = drawn(uvs, 1024)
    assert (counts > 1).sum() < 1e-3 * (counts > 0).sum()
    assert (counts > 0).mean() > 0.2
