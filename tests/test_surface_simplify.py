"""Simplifying: the count is exact, the mesh stays closed, thin parts and outlines stay."""

import mesh_shapes as shapes
import numpy as np
import pytest
import torch
import trimesh

from backend.datatypes import Mesh
from backend.surface import topology
from backend.surface.simplify import simplify


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(
        torch.from_numpy(np.asarray(shape.vertices, np.float32)), torch.from_numpy(np.asarray(shape.faces, np.int64))
    )


def noisy(shape: trimesh.Trimesh, amount: float) -> trimesh.Trimesh:
    rng = np.random.default_rng(0)
    return trimesh.Trimesh(shape.vertices + rng.normal(size=shape.vertices.shape) * amount, shape.faces, process=False)


@pytest.mark.parametrize("faces", [100, 1001, 5000])
def test_the_count_is_exact_and_the_topology_stays(faces):
    for shape, characteristic in ((shapes.torus(), 0), (noisy(shapes.torus(), 0.01), 0), (shapes.two_spheres(), 4)):
        shape = shape.subdivide()
        mesh = simplify(mesh_of(shape), faces)
        triangles = mesh.faces.numpy()
        assert len(triangles) == faces - faces % 2
        assert topology.is_closed(triangles)
        assert topology.euler_characteristic(triangles) == characteristic
        assert len(np.unique(triangles)) == len(mesh.vertices)
        areas = topology.face_areas(mesh.vertices.double().numpy(), triangles)
        assert areas.min() > 0


def test_flat_sides_and_edges_of_a_box_cost_nothing():
    shape = shapes.box((-0.9, -0.5, -0.2), (0.9, 0.5, 0.2))
    for _ in range(5):
        shape = shape.subdivide()
    mesh = simplify(mesh_of(shape), 12)
    assert len(mesh.faces) == 12
    assert topology.volume(mesh.vertices.double().numpy(), mesh.faces.numpy()) == pytest.approx(shape.volume, rel=1e-4)


def test_thin_legs_stay():
    # The boxes are pieces of their own.
    shape = shapes.chair()
    for _ in range(4):
        shape = shape.subdivide()
    mesh = simplify(mesh_of(shape), 200)
    vertices = mesh.vertices.double().numpy()
    assert topology.pieces(mesh.faces.numpy(), len(vertices))[0] == 6
    assert np.allclose(vertices.min(axis=0), shape.vertices.min(axis=0), atol=1e-3)
    assert np.allclose(vertices.max(axis=0), shape.vertices.max(axis=0), atol=1e-3)


def test_the_surface_stays_where_it_was():
    shape = trimesh.creation.torus(0.65, 0.25, major_sections=200, minor_sections=100)
    mesh = simplify(mesh_of(shape), 4000)
    vertices = mesh.vertices.double().numpy()
    centers = vertices[mesh.faces.numpy()].mean(axis=1)
    for points, tolerance in ((vertices, 0.002), (centers, 0.003)):
        around = np.hypot(np.hypot(points[:, 0], points[:, 1]) - 0.65, points[:, 2])
        assert np.abs(around - 0.25).max() < tolerance


def test_an_open_mesh_is_simplified_too():
    shape = shapes.torus()
    shape.update_faces(shape.triangles_center[:, 2] < 0.1)
    mesh = simplify(mesh_of(shape), 1000)
    assert 900 <= len(mesh.faces) <= 1000
