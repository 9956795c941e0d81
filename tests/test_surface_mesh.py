"""Simplifying, and the questions asked about meshes."""

import numpy as np
import pytest
import torch
import trimesh

from backend.datatypes import Mesh
from backend.errors import BadInput
from backend.surface import topology
from backend.surface.grid import Grid, without_cavities, without_crumbs
from backend.surface.polygonise import polygonise, taubin
from backend.surface.simplify import simplify


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(
        torch.from_numpy(np.asarray(shape.vertices, np.float32)), torch.from_numpy(np.asarray(shape.faces, np.int64))
    )


@pytest.mark.parametrize("faces", [200, 1000, 5000, 20000])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_simplify_gives_the_count_asked_for(faces, scale):
    shape = trimesh.creation.torus(0.65, 0.25, major_sections=200, minor_sections=100)
    shape.apply_scale(scale)
    mesh = simplify(mesh_of(shape), faces)
    assert abs(len(mesh.faces) - faces) <= 0.05 * faces
    triangles = mesh.faces.numpy()
    assert topology.is_closed(triangles)
    assert topology.euler_characteristic(triangles) == 0
    assert topology.volume(mesh.vertices.numpy(), triangles) == pytest.approx(shape.volume, rel=0.08)
    assert len(np.unique(triangles)) == len(mesh.vertices)


def test_simplify_leaves_a_mesh_with_fewer_faces_alone():
    mesh = mesh_of(trimesh.creation.icosphere(1))
    assert simplify(mesh, 20000) is mesh
    assert simplify(mesh, len(mesh.faces)) is mesh


def test_simplify_takes_no_less_than_a_tetrahedron():
    with pytest.raises(BadInput):
        simplify(mesh_of(trimesh.creation.icosphere(1)), 3)
    assert topology.is_closed(simplify(mesh_of(trimesh.creation.icosphere(3)), 4).faces.numpy())


def test_topology_tells_open_from_closed():
    shape = trimesh.creation.icosphere(2)
    faces = np.asarray(shape.faces)
    assert topology.is_closed(faces)
    assert not topology.is_closed(faces[1:])
    assert not topology.is_closed(np.concatenate([faces, faces[:1]]))
    turned = faces.copy()
    turned[0] = turned[0, ::-1]
    assert not topology.is_closed(turned)
    assert not topology.is_closed(faces[:0])
    assert topology.euler_characteristic(faces) == 2
    assert topology.volume(shape.vertices, faces) == pytest.approx(shape.volume)
    assert topology.volume(shape.vertices, faces[:, ::-1]) == pytest.approx(-shape.volume)
    assert topology.pieces(faces, len(shape.vertices))[0] == 1
    normals = topology.vertex_normals(shape.vertices, faces)
    assert ((normals * shape.vertices).sum(axis=1) > 0.99).all()


def balls(grid: Grid, *balls_: tuple[tuple[float, float, float], float]) -> np.ndarray:
    points = np.indices(grid.shape).reshape(3, -1).T * grid.cell + grid.origin
    distances = [np.linalg.norm(points - np.array(center), axis=1) - radius for center, radius in balls_]
    return (np.min(distances, axis=0) / grid.cell).reshape(grid.shape).astype(np.float32)


def test_cavities_and_crumbs_go():
    grid = Grid.around(-np.ones(3), np.ones(3), 64)
    field = balls(grid, ((0, 0, 0), 0.7), ((0.9, 0.9, 0.9), 0.08))
    hollow = np.maximum(field, -balls(grid, ((0, 0, 0), 0.3)))
    _, faces = polygonise(without_cavities(without_crumbs(hollow, 0.01)), 0)
    assert topology.euler_characteristic(faces) == 2
    _, faces = polygonise(hollow, 0)
    assert topology.euler_characteristic(faces) > 2


def test_a_thin_leg_is_no_crumb():
    grid = Grid.around(-np.ones(3), np.ones(3), 64)
    x, y, z = np.moveaxis(np.indices(grid.shape) * grid.cell + grid.origin[:, None, None, None], 0, 0)
    leg = (np.maximum(np.maximum(np.abs(x - 0.9), np.abs(z)) - 0.05, np.abs(y) - 0.8) / grid.cell).astype(np.float32)
    body = balls(grid, ((-0.2, 0, 0), 0.75))
    assert 0 < (leg < 0).sum() < 0.01 * (body < 0).sum()
    kept = without_crumbs(np.minimum(body, leg), 0.01)
    assert (kept[leg < 0] < 0).all()
    crumb = without_crumbs(np.minimum(body, balls(grid, ((0.9, 0, 0), 0.1))), 0.01)
    assert np.array_equal(crumb < 0, body < 0)


def test_polygons_look_outwards_and_close_at_the_border():
    grid = Grid.around(-np.ones(3), np.ones(3), 32)
    vertices, faces = polygonise(np.full(grid.shape, -1.0, np.float32), 0)
    assert topology.is_closed(faces)
    assert topology.volume(vertices, faces) * grid.cell**3 > 7
    with pytest.raises(BadInput):
        polygonise(np.ones(grid.shape, np.float32), 0)


def test_taubin_smooths_without_shrinking():
    shape = trimesh.creation.icosphere(4)
    faces = np.asarray(shape.faces)
    rough = shape.vertices * (1 + np.random.default_rng(0).normal(size=(len(shape.vertices), 1)) * 0.02)
    smooth = taubin(rough, faces, 10)
    radii = np.linalg.norm(smooth, axis=1)
    assert radii.std() < 0.008
    assert radii.mean() == pytest.approx(1.0, abs=0.005)
