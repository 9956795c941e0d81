import math

import mesh_shapes as shapes
import numpy as np
import pytest
import torch
import trimesh

from backend.datatypes import Gaussians
from backend.errors import BadInput
from backend.surface import topology
from backend.surface.clean import prepare
from backend.surface.cover import cover
from backend.surface.extract import COARSEST, FINEST, _resolution, extract_surface
from backend.surface.points import Cloud


def extract(gaussians: Gaussians, resolution: int = 64) -> tuple[np.ndarray, np.ndarray]:
    mesh, fractions = shapes.walk(extract_surface(gaussians, resolution))
    assert fractions == sorted(fractions)
    assert fractions[0] > 0
    assert fractions[-1] <= 1
    assert mesh.faces.dtype == torch.int64
    assert mesh.vertices.dtype == torch.float32
    return mesh.vertices.numpy(), mesh.faces.numpy()


def check_sound(vertices: np.ndarray, faces: np.ndarray, pieces: int = 1) -> None:
    """Closed, outwards, without inner shells, of so many pieces of which none is a crumb."""
    assert np.isfinite(vertices).all()
    assert topology.is_closed(faces)
    count, piece = topology.pieces(faces, len(vertices))
    assert count == pieces
    areas = np.bincount(piece, weights=topology.face_areas(vertices, faces))
    assert areas.min() > 0.01 * areas.sum()
    for index in range(count):
        assert topology.volume(vertices, faces[piece == index]) > 0


@pytest.mark.parametrize(
    ("shape", "pieces", "euler"),
    [(shapes.sphere(), 1, 2), (shapes.torus(), 1, 0), (shapes.two_spheres(), 2, 4), (shapes.chair(), 1, 2)],
    ids=["sphere", "torus", "two spheres", "chair"],
)
def test_discs_give_the_shape(shape, pieces, euler):
    vertices, faces = extract(shapes.discs(shape, 8000), 80)
    check_sound(vertices, faces, pieces)
    assert topology.euler_characteristic(faces) == euler
    there, back = shapes.chamfer(shape, vertices, faces)
    assert max(there, back) < 0.02  # 1 % of the size, of which a third is the sampling's


@pytest.mark.parametrize(
    ("shape", "bound"),
    [(shapes.sphere(), 0.12), (shapes.torus(), 0.045), (shapes.chair(), 0.045)],
    ids=["sphere", "torus", "chair"],
)
def test_noisy_balls_of_four_views_give_the_shape(shape, bound):
    vertices, faces = extract(shapes.from_four_views(shape), 96)
    check_sound(vertices, faces)
    assert max(shapes.chamfer(shape, vertices, faces)) < bound


def test_chair_keeps_its_four_legs():
    vertices, faces = extract(shapes.from_four_views(shapes.chair()), 112)
    made = trimesh.Trimesh(vertices, faces, process=False)
    for height in (-0.35, -0.6):
        cut = made.section(plane_origin=(0, height, 0), plane_normal=(0, 1, 0))
        assert len(cut.entities) == 4


def test_the_grid_is_as_fine_as_the_gaussians_lie():
    rod = shapes.box((-0.9, -0.03, -0.03), (0.9, 0.03, 0.03))

    def resolution(count: int, noise: float = 0.0) -> int:
        return _resolution(Cloud.of(cover(shapes.discs(rod, count, noise=noise))), 1.8)

    assert resolution(500) == resolution(8000, noise=0.02) == COARSEST
    assert COARSEST < resolution(4000) < resolution(20000) == FINEST


def test_the_surface_has_enough_faces_where_many_are_asked_for():
    mesh, _ = shapes.walk(extract_surface(shapes.discs(shapes.sphere(), 2000), faces=60_000))
    few, _ = shapes.walk(extract_surface(shapes.discs(shapes.torus(), 2000)))
    assert mesh.faces.shape[0] > 60_000
    assert few.faces.shape[0] > 20_000


def test_noise_moves_the_surface_neither_out_nor_in():
    vertices, _ = extract(shapes.discs(shapes.sphere(), 6000, noise=0.015))
    # Noise in all directions puts centres farther out on a ball: by its variance over the radius, 0.0003.
    assert np.linalg.norm(vertices, axis=1).mean() == pytest.approx(0.9, abs=0.0015)


def test_noise_does_not_show_as_lumps():
    shape = shapes.sphere()
    vertices, faces = extract(shapes.discs(shape, 6000, noise=0.015))
    normals = topology.face_normals(vertices, faces)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    middle = vertices[faces].mean(axis=1)
    cosine = (normals * middle).sum(axis=1) / np.linalg.norm(middle, axis=1)
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean() < 8


def test_any_frame_and_scale_come_back():
    shape = shapes.torus()
    gaussians = shapes.discs(shape, 5000)
    shift, scale = torch.tensor([1000.0, -500.0, 30.0]), 250.0
    moved = Gaussians(
        gaussians.means * scale + shift,
        gaussians.scales * scale,
        gaussians.quats,
        gaussians.opacities,
        gaussians.colors,
    )
    vertices, faces = extract(moved)
    check_sound(vertices, faces)
    there, back = shapes.chamfer(shape, (vertices - shift.numpy()) / scale, faces)
    assert max(there, back) < 0.02


def test_floaters_far_away_do_not_shrink_the_object():
    gaussians = shapes.discs(shapes.sphere(), 6000)
    rng = np.random.default_rng(0)
    far = shapes.gaussians(
        rng.normal(size=(40, 3)) * 100, np.full((40, 3), 0.02), rng.random((40, 3)), np.full(40, 0.9)
    )
    both = Gaussians(
        *(torch.cat([getattr(gaussians, name), getattr(far, name)]) for name in Gaussians.__dataclass_fields__)
    )
    vertices, faces = extract(both, 64)
    check_sound(vertices, faces)
    assert 1.7 < np.ptp(vertices, axis=0).max() < 1.95


def test_an_underside_that_no_view_saw_is_closed():
    shape = shapes.torus()
    shape.apply_transform(trimesh.transformations.rotation_matrix(math.pi / 2, [1, 0, 0]))
    gaussians = shapes.discs(shape, 6000)
    vertices, faces = extract(gaussians[gaussians.means[:, 1] > -0.12])
    check_sound(vertices, faces)
    assert topology.volume(vertices, faces) > 0.6 * shape.volume


def test_sparse_and_faint_gaussians_are_no_sieve():
    """As a network early in its training makes them: far apart, small, half transparent."""
    shape = shapes.sphere()
    gaussians = shapes.discs(shape, 700)
    opacities = torch.from_numpy(np.random.default_rng(0).uniform(0.1, 0.5, len(gaussians)).astype(np.float32))
    sparse = Gaussians(gaussians.means, gaussians.scales * 0.3, gaussians.quats, opacities, gaussians.colors)
    vertices, faces = extract(sparse)
    check_sound(vertices, faces)
    assert topology.euler_characteristic(faces) == 2
    assert topology.volume(vertices, faces) == pytest.approx(shape.volume, rel=0.1)


def test_cover_grows_only_what_leaves_gaps():
    dense = shapes.discs(shapes.sphere(), 4000)
    assert (cover(dense).gaussians.scales.amax(dim=1) < 1.6 * dense.scales.amax(dim=1)).all()
    assert cover(dense).gaussians.scales.amin(dim=1).mean() < 0.4 * dense.scales.amax(dim=1).mean()
    thin = Gaussians(dense.means, dense.scales * 0.1, dense.quats, dense.opacities, dense.colors)
    assert cover(thin).gaussians.scales.amax(dim=1).mean() > 4 * thin.scales.amax(dim=1).mean()
    assert cover(thin).gaussians.opacities.min() > 0.9


def test_a_million_is_thinned_out():
    count = 600_000
    generator = torch.Generator().manual_seed(0)
    means = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4)
    many = Gaussians(means, torch.full((count, 3), 0.005), quats, torch.full((count,), 0.9), torch.rand(count, 3))
    few, frame = prepare(many)
    assert len(few) == 150_000
    assert float(few.means.norm(dim=1).std()) < 1e-3
    assert float(frame.scale) == pytest.approx(0.9, rel=0.02)
    assert float(few.scales.mean()) == pytest.approx(0.005 * frame.scale * 2, rel=0.01)


def one(**changes) -> Gaussians:
    values = {
        "means": [[0.1, 0.2, 0.3]],
        "scales": [[0.1, 0.2, 0.3]],
        "quats": [[1, 0, 0, 0]],
        "opacities": [0.9],
        "colors": [[1, 0, 0]],
    }
    values.update(changes)
    return Gaussians(*(torch.tensor(values[name], dtype=torch.float32) for name in Gaussians.__dataclass_fields__))


@pytest.mark.parametrize(
    "gaussians",
    [
        Gaussians(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 3)),
        one(opacities=[0.0]),
        one(opacities=[math.nan]),
        one(means=[[math.inf, 0, 0]]),
        one(scales=[[0.0, 0.0, 0.0]]),
        one(scales=[[-1.0, 1.0, 1.0]]),
        one(quats=[[0, 0, 0, 0]]),
    ],
    ids=["none", "transparent", "nan opacity", "infinite", "no size", "negative scale", "no rotation"],
)
def test_what_has_no_surface_is_bad_input(gaussians):
    with pytest.raises(BadInput):
        shapes.walk(extract_surface(gaussians, 32))


def test_resolution_out_of_range_is_bad_input():
    for resolution in (0, 15, 513, -4):
        with pytest.raises(BadInput):
            shapes.walk(extract_surface(one(), resolution))


def test_one_gaussian_is_a_blob():
    vertices, faces = extract(one(), 48)
    check_sound(vertices, faces)
    assert np.allclose((vertices.min(axis=0) + vertices.max(axis=0)) / 2, [0.1, 0.2, 0.3], atol=0.03)


def test_all_in_one_point_is_a_blob():
    count = 500
    cloud = shapes.gaussians(
        np.zeros((count, 3)), np.full((count, 3), 0.1), np.full((count, 3), 0.5), np.full(count, 0.5)
    )
    check_sound(*extract(cloud, 48))


def test_broken_ones_among_good_ones_are_left_out():
    gaussians = shapes.discs(shapes.sphere(), 4000)
    gaussians.means[::7] = math.nan
    gaussians.scales[3::50] = math.inf
    gaussians.opacities[5::50] = math.nan
    gaussians.colors[6::50] = math.nan
    gaussians.quats[8::50] = 0.0
    vertices, faces = extract(gaussians, 64)
    check_sound(vertices, faces)
    assert 1.6 < np.ptp(vertices, axis=0).max() < 2.0


def test_a_fog_of_random_gaussians_ends_in_a_mesh_or_a_sentence():
    rng = np.random.default_rng(0)
    cloud = shapes.gaussians(
        rng.normal(size=(3000, 3)), np.exp(rng.normal(size=(3000, 3)) - 3), rng.random((3000, 3)), rng.random(3000)
    )
    try:
        vertices, faces = extract(cloud, 64)
    except BadInput:
        return
    assert topology.is_closed(faces)
    assert np.isfinite(vertices).all()
