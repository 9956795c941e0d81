"""Pieces that belong together are joined; what was made as two stays two."""

import mesh_shapes as shapes
import numpy as np
import pytest
import torch
import trimesh

from backend.datatypes import Gaussians
from backend.surface import topology
from backend.surface.bridge import _pieces, bridged
from backend.surface.extract import extract_surface
from backend.surface.grid import Grid
from backend.surface.neighbours import Neighbours
from backend.surface.points import Points


def turned(profile: list[tuple[float, float]]) -> trimesh.Trimesh:
    """A solid of revolution about y; profile: radii and heights, from below."""
    made = trimesh.creation.revolve(np.array(profile), sections=32)
    made.apply_transform(trimesh.transformations.rotation_matrix(-np.pi / 2, [1, 0, 0]))
    return made


def lamp() -> trimesh.Trimesh:
    """Seen from a little above, the shade hides the upper end of the pole."""
    return trimesh.util.concatenate(
        [
            turned([(0, 0.3), (0.6, 0.3), (0.4, 0.9), (0, 0.9)]),
            turned([(0, -0.85), (0.06, -0.85), (0.06, 0.35), (0, 0.35)]),
            turned([(0, -0.9), (0.4, -0.9), (0.4, -0.78), (0, -0.78)]),
        ]
    )


def two_boxes(gap: float) -> trimesh.Trimesh:
    """Two blocks that face each other closely."""
    return trimesh.util.concatenate(
        [shapes.box((-0.9, -0.3, -0.3), (-gap / 2, 0.3, 0.3)), shapes.box((gap / 2, -0.3, -0.3), (0.7, 0.2, 0.3))]
    )


def joined(*clouds: Gaussians) -> Gaussians:
    return Gaussians(
        *(torch.cat([getattr(cloud, name) for cloud in clouds]) for name in Gaussians.__dataclass_fields__)
    )


def dumbbell(rod: int) -> Gaussians:
    """Two balls, and so many faint little Gaussians in a row between them."""
    balls = [trimesh.creation.icosphere(4, radius=0.38) for _ in range(2)]
    for ball, x in zip(balls, (-0.5, 0.5), strict=True):
        ball.apply_translation((x, 0, 0))
    x = np.linspace(-0.14, 0.14, rod)
    places = np.stack([x, 0 * x, 0 * x], axis=1)
    row = shapes.gaussians(places, np.full((rod, 3), 0.03), np.full((rod, 3), 0.5), np.full(rod, 0.5))
    return joined(shapes.discs(trimesh.util.concatenate(balls), 4000), row)


def extract(gaussians: Gaussians, resolution: int) -> tuple[np.ndarray, np.ndarray, int]:
    mesh, _ = shapes.walk(extract_surface(gaussians, resolution))
    vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy()
    assert topology.is_closed(faces)
    return vertices, faces, topology.pieces(faces, len(vertices))[0]


def test_a_pole_whose_end_no_view_saw_reaches_its_shade():
    vertices, faces, pieces = extract(shapes.from_four_views(lamp(), noise=0.005), 112)
    assert pieces == 1
    # It goes on about as thick as it was.
    cut = trimesh.Trimesh(vertices, faces, process=False).section(plane_origin=(0, 0.1, 0), plane_normal=(0, 1, 0))
    pole = cut.vertices[np.hypot(cut.vertices[:, 0], cut.vertices[:, 2]) < 0.3]
    assert 0.05 < np.ptp(pole[:, 0]) < 0.24


def test_a_faint_thin_bridge_of_gaussians_holds():
    assert extract(dumbbell(9), 96)[2] == 1
    assert extract(dumbbell(0), 96)[2] == 2


@pytest.mark.parametrize(
    "cloud",
    [
        lambda: shapes.discs(two_boxes(0.1), 4000),
        lambda: shapes.discs(two_boxes(0.2), 8000, noise=0.012),
        lambda: shapes.from_four_views(two_boxes(0.2)),
        lambda: shapes.from_four_views(shapes.two_spheres()),
    ],
    ids=["discs", "noisy discs", "boxes in four views", "spheres in four views"],
)
def test_two_that_face_each_other_stay_two(cloud):
    assert extract(cloud(), 112)[2] == 2


def test_what_is_known_to_be_one_object_is_joined():
    mesh, _ = shapes.walk(extract_surface(shapes.discs(two_boxes(0.2), 4000), 96, single=True))
    faces = mesh.faces.numpy()
    assert topology.is_closed(faces)
    assert topology.pieces(faces, len(mesh.vertices))[0] == 1


# -- on fields made by hand --------------------------------------------------------------------------------------------


GRID = Grid.around(-np.ones(3), np.ones(3), 48)


def blocks(gap: float) -> np.ndarray:
    """Two bars along x, in cells, so far apart that the field between them is far from 0."""
    x, y, z = np.moveaxis(np.indices(GRID.shape) * GRID.cell + GRID.origin[:, None, None, None], 0, 0)
    thick = np.maximum(np.abs(y), np.abs(z)) - 0.2
    bars = np.maximum(np.maximum(thick, np.abs(x) - 0.8), gap / 2 - np.abs(x))
    return np.clip(bars / GRID.cell, -2, 2).astype(np.float32)


def shell(gap: float, ends: bool) -> Points:
    """Points on the bars' long sides, and on the two faces of the gap where `ends`."""
    t = np.linspace(-0.19, 0.19, 9)
    along = np.linspace(gap / 2 + 0.02, 0.8, 20)
    along = np.concatenate([-along, along])
    places, normals = [], []
    for axis in (1, 2):
        for side in (-1.0, 1.0):
            x, across = (part.reshape(-1) for part in np.meshgrid(along, t))
            place = np.zeros((len(x), 3))
            place[:, 0], place[:, 3 - axis], place[:, axis] = x, across, 0.2 * side
            places.append(place)
            normals.append(side * np.eye(3)[[axis]].repeat(len(x), 0))
    if ends:
        for side in (-1.0, 1.0):
            y, z = (part.reshape(-1) for part in np.meshgrid(t, t))
            places.append(np.stack([np.full(len(y), side * gap / 2), y, z], axis=1))
            normals.append(-side * np.eye(3)[[0]].repeat(len(y), 0))
    means, outward = np.concatenate(places).astype(np.float32), np.concatenate(normals).astype(np.float32)
    ones = np.ones(len(means), np.float32)
    near = Neighbours.of(means, 1.0)
    spacing = near.spacing / GRID.cell
    return Points(GRID.to_cells(means), outward, ones, spacing**2, spacing, 0 * ones, ones, spacing, 0 * ones, near)


def cloud_of(points: Points) -> Gaussians:
    means = points.centers * GRID.cell + GRID.origin
    count = len(means)
    return shapes.gaussians(means, np.full((count, 3), 0.03), np.full((count, 3), 0.5), np.full(count, 0.9))


@pytest.mark.parametrize(("ends", "votes", "pieces"), [(False, 0.1, 1), (True, 0.1, 2), (False, 0.7, 2)])
def test_open_ends_are_joined_unless_the_gap_is_seen_to_be_empty(ends, votes, pieces):
    gap = 0.35
    field, points = blocks(gap), shell(gap, ends)
    cloud = cloud_of(points)
    result = bridged(field, np.full(GRID.shape, votes, np.float32), GRID, points, (cloud, cloud))
    assert len(_pieces(result)[1]) == pieces
    assert (result <= field).all()
    if pieces == 2:
        assert np.array_equal(result, field)


def test_ends_too_far_from_each_other_stay_apart():
    gap = 1.0
    field, points = blocks(gap), shell(gap, False)
    cloud = cloud_of(points)
    result = bridged(field, np.zeros(GRID.shape, np.float32), GRID, points, (cloud, cloud))
    assert np.array_equal(result, field)
