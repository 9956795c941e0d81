import mesh_shapes as shapes
import numpy as np
import pytest
import torch
import trimesh
from scipy import ndimage

from backend.datatypes import Gaussians, Mesh
from backend.errors import BadInput
from backend.texture import bake
from backend.texture.bake import bake_texture
from backend.texture.fill import extend, spread_over_mesh
from backend.texture.raster import rasterize_triangles


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(
        torch.from_numpy(np.asarray(shape.vertices, np.float32)), torch.from_numpy(np.asarray(shape.faces, np.int64))
    )


def colors_at(textured, count: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Points on the mesh and the texture's colours there."""
    vertices, faces = textured.mesh.vertices.numpy(), textured.mesh.faces.numpy()
    rng = np.random.default_rng(0)
    face = rng.integers(len(faces), size=count)
    shares = rng.dirichlet([1, 1, 1], size=count)
    points = (vertices[faces[face]] * shares[..., None]).sum(axis=1)
    uvs = (textured.corner_uvs.numpy()[face] * shares[..., None]).sum(axis=1)
    size = textured.base_color.shape[1]
    column = np.clip((uvs[:, 0] * size).astype(int), 0, size - 1)
    row = np.clip(((1 - uvs[:, 1]) * size).astype(int), 0, size - 1)
    return points, textured.base_color.numpy()[:, row, column].T


def test_colours_are_those_of_the_place():
    shape = trimesh.creation.torus(0.65, 0.25, major_sections=48, minor_sections=24)
    textured, fractions = shapes.walk(bake_texture(shapes.discs(shape), mesh_of(shape), 256))
    assert fractions == sorted(fractions)
    assert fractions[-1] <= 1
    assert textured.base_color.shape == (3, 256, 256)
    assert textured.base_color.dtype == torch.float32
    points, colors = colors_at(textured)
    error = np.abs(colors - shapes.rainbow(points)).max(axis=1)
    assert np.median(error) < 0.03
    assert np.quantile(error, 0.99) < 0.1
    assert error.max() < 0.25


def test_no_black_or_white_gaps():
    """Green Gaussians make a green texture, unseen parts, outlines and the space between the charts included."""
    shape = shapes.chair()
    gaussians = shapes.from_four_views(shape)
    gaussians.colors[:] = torch.tensor([0.2, 0.7, 0.3])
    textured, _ = shapes.walk(bake_texture(gaussians, mesh_of(shape), 256))
    assert (textured.base_color - torch.tensor([0.2, 0.7, 0.3])[:, None, None]).abs().max() < 0.03


def test_what_no_camera_saw_continues_its_surroundings():
    shape = shapes.sphere()
    gaussians = shapes.discs(shape, 6000)
    gaussians.colors[:] = torch.where(
        gaussians.means[:, :1] > 0, torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9])
    )
    cap = gaussians.means[:, 1] > -0.6  # a hole at the bottom, through which the inside shows
    textured, _ = shapes.walk(bake_texture(gaussians[cap], mesh_of(shape), 256))
    points, colors = colors_at(textured)
    for side, color in ((1, [0.9, 0.1, 0.1]), (-1, [0.1, 0.1, 0.9])):
        chosen = (points[:, 1] < -0.6) & (side * points[:, 0] > 0.3)
        assert np.abs(colors[chosen] - color).max(axis=1).mean() < 0.15


def test_any_frame():
    shape = shapes.sphere()
    gaussians = shapes.discs(shape, 5000)
    shift = torch.tensor([300.0, -20.0, 5.0])
    moved = Gaussians(
        gaussians.means * 40 + shift, gaussians.scales * 40, gaussians.quats, gaussians.opacities, gaussians.colors
    )
    shape.apply_scale(40)
    shape.apply_translation(shift.numpy())
    textured, _ = shapes.walk(bake_texture(moved, mesh_of(shape), 128))
    points, colors = colors_at(textured)
    error = np.abs(colors - shapes.rainbow((points - shift.numpy()) / 40)).max(axis=1)
    assert np.median(error) < 0.05


def test_raster_agrees_with_arithmetic():
    xyz = np.array([[0, 0, 1], [8, 0, 1], [0, 8, 1], [0, 0, 0.5], [4, 0, 0.5], [0, 4, 0.5], [1, 1, -1]], np.float32)
    faces = np.array([[0, 1, 2], [3, 4, 5], [0, 1, 6]])
    face_ids, shares, depth, counts = rasterize_triangles(xyz, faces, 8, 8)
    assert face_ids[0, 0] == 1  # the nearer one
    assert face_ids[0, 6] == 0
    assert face_ids[7, 7] == -1
    assert counts[0, 0] == 2
    assert depth[0, 0] == 0.5
    assert np.isinf(depth[7, 7])
    place = (xyz[faces[face_ids[2, 3]]] * shares[2, 3][:, None]).sum(axis=0)
    assert np.allclose(place[:2], [3.5, 2.5], atol=1e-5)
    # Perspective: the middle of the picture of an edge from depth 1 to depth 3 is a quarter of the way along it.
    slanting = np.array([[0, 0, 1], [8, 0, 3], [0, 8, 1]], np.float32)
    _, shares, _, _ = rasterize_triangles(slanting, np.array([[0, 1, 2]]), 8, 8)
    assert shares[0, 3, 1] == pytest.approx((3.5 / 8 / 3) / (3.5 / 8 / 3 + 4.5 / 8), abs=1e-5)


def test_fill_is_smooth_over_the_mesh_and_beyond_the_charts():
    shape = trimesh.creation.icosphere(3)
    height = shape.vertices[:, 1]
    colors = np.where(height[:, None] > 0, 1.0, 0.0).repeat(3, axis=1).astype(np.float32)
    seen = (np.abs(height) > 0.8).astype(np.float32)
    filled = spread_over_mesh(colors * seen[:, None], seen, np.asarray(shape.faces), np.full(3, 0.5, np.float32))
    assert filled[height > 0.9].min() > 0.95
    assert filled[height < -0.9].max() < 0.05
    assert np.abs(filled[np.abs(height) < 0.05] - 0.5).max() < 0.1
    nothing = spread_over_mesh(colors * 0, seen * 0, np.asarray(shape.faces), np.array([0.1, 0.2, 0.3], np.float32))
    assert np.allclose(nothing, [0.1, 0.2, 0.3], atol=1e-3)
    image = np.random.default_rng(0).random((3, 40, 60)).astype(np.float32)
    covered = np.random.default_rng(1).random((40, 60)) < 0.02
    wanted = image[:, *ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)]
    extend(image, covered)
    assert (image == wanted).all(axis=0).mean() > 0.95  # ties may go either way
    nothing_covered = np.full((3, 4, 4), 0.5, np.float32)
    extend(nothing_covered, np.zeros((4, 4), bool))
    assert (nothing_covered == 0.5).all()


def test_bad_input():
    mesh = mesh_of(trimesh.creation.icosphere(1))
    gaussians = shapes.discs(shapes.sphere(), 500)
    for size in (0, 8, 100000):
        with pytest.raises(BadInput):
            shapes.walk(bake_texture(gaussians, mesh, size))
    with pytest.raises(BadInput):
        shapes.walk(bake_texture(gaussians, Mesh(mesh.vertices, mesh.faces[:0]), 64))
    with pytest.raises(BadInput):
        shapes.walk(bake_texture(gaussians[:0], mesh, 64))


def test_beyond_what_pictures_can_feed_the_texture_is_enlarged(monkeypatch):
    """Solved for where no pixel says anything of most texels, it would be streaked."""
    monkeypatch.setattr(bake, "SOLVED", 64)
    shape = trimesh.creation.icosphere(3)
    small, _ = shapes.walk(bake_texture(shapes.discs(shape), mesh_of(shape), 64))
    large, _ = shapes.walk(bake_texture(shapes.discs(shape), mesh_of(shape), 128))
    assert large.base_color.shape == (3, 128, 128)
    assert torch.equal(large.corner_uvs, small.corner_uvs)
    assert (torch.nn.functional.avg_pool2d(large.base_color, 2) - small.base_color).abs().mean() < 0.02
