"""Shapes whose topology is known, a colour for every place on them, and Gaussians of several kinds made from them.

Every shape is centred at the origin with its longest side 1.8, as objects are in the canonical frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backend.datatypes import CANONICAL_SIZE, Gaussians
from backend.errors import BadInput
from backend.surface import topology

FloatArray = NDArray[np.float64]

NOISE = 0.005 * CANONICAL_SIZE  # of the places of noisy Gaussians
TILT = math.radians(15.0)  # of the normals of noisy Gaussians
FLOATERS = 0.02  # share of noisy Gaussians that lie anywhere


@dataclass(frozen=True)
class Shape:
    """A closed mesh: vertices [n, 3], faces [m, 3] outwards; how many pieces, and the sum of their handles."""

    name: str
    vertices: FloatArray
    faces: NDArray[np.int64]
    pieces: int
    genus: int


# -- shapes that any clone can make -----------------------------------------------------------------------------------


def torus_knot(around: int = 480, across: int = 40) -> Shape:
    """A (2, 3) torus knot: one piece, one handle, and strands that pass close by each other."""
    t = np.arange(around) * 2 * math.pi / around
    radial = np.stack([np.cos(2 * t), np.sin(2 * t), np.zeros_like(t)], axis=1)
    up = np.array([0.0, 0.0, 1.0])
    center = (2 + np.cos(3 * t))[:, None] * radial + np.sin(3 * t)[:, None] * up
    along = np.roll(center, -1, axis=0) - np.roll(center, 1, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    # The torus' own normal turns once with the curve, so that the tube closes without a twist.
    normal = np.cos(3 * t)[:, None] * radial + np.sin(3 * t)[:, None] * up
    normal -= (normal * along).sum(axis=1, keepdims=True) * along
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    side = np.cross(along, normal)
    s = np.arange(across) * 2 * math.pi / across
    tube = center[:, None] + 0.42 * (np.cos(s)[:, None] * normal[:, None] + np.sin(s)[:, None] * side[:, None])
    i, j = np.meshgrid(np.arange(around), np.arange(across), indexing="ij")
    here, ahead = i * across + j, (i + 1) % around * across + j
    beside, both = i * across + (j + 1) % across, (i + 1) % around * across + (j + 1) % across
    faces = np.stack([np.stack([here, ahead, both], -1), np.stack([here, both, beside], -1)], axis=2)
    return _shape("torus_knot", tube.reshape(-1, 3), faces.reshape(-1, 3), 1, 1)


def chair() -> Shape:
    """A seat and a back on four legs 2 % of the size thick: one piece without a handle."""
    half = 0.01 * CANONICAL_SIZE
    boxes = [((-0.45, -0.05, -0.45), (0.45, 0.05, 0.45)), ((-0.45, 0.05, -0.45), (0.45, 0.9, -0.37))]
    boxes += [((x - half, -0.9, z - half), (x + half, -0.05, z + half)) for x in (-0.4, 0.4) for z in (-0.4, 0.4)]
    return _shape("chair", *_union_of_boxes(np.array(boxes)), 1, 0)


def mug() -> Shape:
    """A cup, open at the top, with a handle: one piece, one handle."""

    def distance(points: FloatArray) -> FloatArray:
        x, y, z = points.T
        ring = np.hypot(x, z)
        solid = _soft_max(ring - 0.5, np.abs(y) - 0.6, 0.04)
        loop = np.hypot(np.hypot(x - 0.5, y) - 0.33, z) - 0.07
        hollow = np.maximum(ring - 0.43, -0.52 - y)
        # A soft union and a soft edge at the rim.
        return _soft_max(-_soft_max(-solid, -loop, 0.03), -hollow, 0.02)

    return _shape("mug", *_polygons_of(distance, 144), 1, 1)


def two_spheres() -> Shape:
    """Two balls of different sizes, 4 % of the size apart: two pieces."""
    import trimesh

    large, small = trimesh.creation.icosphere(5, radius=0.5), trimesh.creation.icosphere(5, radius=0.36)
    vertices = np.concatenate([large.vertices - np.array([0.4, 0.0, 0.0]), small.vertices + np.array([0.54, 0.1, 0.0])])
    return _shape("two_spheres", vertices, np.concatenate([large.faces, small.faces + len(large.vertices)]), 2, 0)


GENERATED: dict[str, Callable[[], Shape]] = {
    "torus_knot": torus_knot,
    "chair": chair,
    "mug": mug,
    "two_spheres": two_spheres,
}


def read_obj(path: Path) -> Shape:
    """A closed mesh from a file; its own topology is the one expected. Raises BadInput where it is not closed."""
    import trimesh

    mesh: Any = trimesh.load(path, process=False, force="mesh")
    vertices, inverse = np.unique(np.asarray(mesh.vertices, np.float64), axis=0, return_inverse=True)
    faces = inverse.reshape(-1)[np.asarray(mesh.faces)].astype(np.int64)
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    if not topology.is_closed(faces):
        raise BadInput(f"{path} is no closed mesh.", "Choose another one.")
    count, _ = topology.pieces(faces, len(vertices))
    return _shape(path.stem, vertices, faces, count, topology.genus(faces, len(vertices)))


def _shape(name: str, vertices: FloatArray, faces: NDArray, pieces: int, genus: int) -> Shape:
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (low + high) / 2) * (CANONICAL_SIZE / (high - low).max())
    faces = faces.astype(np.int64)
    if topology.volume(vertices, faces) < 0:
        faces = faces[:, ::-1]
    return Shape(name, np.ascontiguousarray(vertices), np.ascontiguousarray(faces), pieces, genus)


def _union_of_boxes(boxes: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """The surface of a union of boxes [b, 2, 3], exact: cells between all the boxes' planes, and faces where one is in
    and its neighbour is not."""
    lines = [np.unique(boxes[:, :, axis]) for axis in range(3)]
    middles = np.stack(np.meshgrid(*[(line[1:] + line[:-1]) / 2 for line in lines], indexing="ij"), axis=-1)
    inside = (
        ((middles > boxes[:, 0][:, None, None, None]) & (middles < boxes[:, 1][:, None, None, None])).all(-1).any(0)
    )
    inside = np.pad(inside, 1)
    shape = tuple(len(line) for line in lines)
    quads = []
    for axis in range(3):
        first = np.take(inside, range(inside.shape[axis] - 1), axis=axis)
        second = np.take(inside, range(1, inside.shape[axis]), axis=axis)
        b, c = (axis + 1) % 3, (axis + 2) % 3
        for outwards, wall in ((1, first & ~second), (-1, second & ~first)):
            corner = np.argwhere(wall)
            corner[:, b] -= 1
            corner[:, c] -= 1
            step_b, step_c = np.eye(3, dtype=int)[b], np.eye(3, dtype=int)[c]
            ring = [corner, corner + step_b, corner + step_b + step_c, corner + step_c][::outwards]
            quads.append(np.stack([np.ravel_multi_index(tuple(part.T), shape) for part in ring], axis=1))
    quad = np.concatenate(quads)
    faces = np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]])
    vertices = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 3)
    return topology.compact(vertices, faces)


def _polygons_of(distance: Callable[[FloatArray], FloatArray], resolution: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """The surface where `distance` is 0 within +-1, its vertices moved onto it."""
    from skimage.measure import marching_cubes

    line = np.linspace(-1.0, 1.0, resolution)
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1)
    field = distance(grid.reshape(-1, 3)).reshape(grid.shape[:3])
    field = np.where(np.abs(field) < 2e-4, 2e-4, field)  # off the samples, so that no face is without area
    vertices, faces, _, _ = marching_cubes(field, 0.0)
    vertices = vertices.astype(np.float64) * (line[1] - line[0]) - 1.0
    for _ in range(3):
        slope = np.stack(
            [(distance(vertices + step) - distance(vertices - step)) / 2e-4 for step in 1e-4 * np.eye(3)], axis=1
        )
        vertices -= (distance(vertices) / np.maximum((slope**2).sum(axis=1), 0.1))[:, None] * slope
    return vertices, faces.astype(np.int64)


def _soft_max(a: FloatArray, b: FloatArray, width: float) -> FloatArray:
    over = np.maximum(width - np.abs(a - b), 0.0) / width
    return np.maximum(a, b) + 0.25 * width * over**2


# -- what lies on them ------------------------------------------------------------------------------------------------


def pattern(points: NDArray) -> NDArray[np.float32]:
    """[n, 3]: the colour that belongs to a place: soft waves, bands with an edge, and fine dots."""
    points = np.asarray(points, np.float64)
    x, y, z = points.T
    waves = 0.5 + 0.3 * np.sin(points * 4.0 + np.array([0.0, 1.0, 2.0]))
    bands = 0.5 + 0.5 * np.tanh(np.sin(9.0 * (x + 0.6 * y - 0.4 * z)) / 0.25)
    dots = np.sin(26.0 * x) * np.sin(26.0 * y) * np.sin(26.0 * z)
    color = waves + 0.22 * (bands[:, None] - 0.5) * np.array([1.0, -0.6, 0.4]) + 0.12 * dots[:, None]
    return np.clip(color, 0.0, 1.0).astype(np.float32)


def checks(points: NDArray) -> NDArray[np.float32]:
    """[n, 3]: cubes of two colours with hard edges, a thirty-sixth of the object wide."""
    odd = np.floor(np.asarray(points) / 0.05).astype(np.int64).sum(axis=-1) % 2
    return np.array([[0.9, 0.2, 0.1], [0.1, 0.3, 0.8]], np.float32)[odd]


def sample(shape: Shape, count: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Places and normals [n, 3] spread over the shape, none very close to another; n is at most `count`."""
    import trimesh

    mesh = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
    points, of_face = trimesh.sample.sample_surface_even(mesh, count, seed=seed)
    return np.asarray(points), mesh.face_normals[of_face]


def flat_discs(
    shape: Shape, count: int, noise: float = 0.0, tilt: float = 0.0, floaters: float = 0.0,
    colors_at: Callable[[NDArray], NDArray] = pattern,
) -> Gaussians:  # fmt: skip
    """Discs on the surface; noise: standard deviation of their places, tilt: of the normals, in radians; floaters: how
    many more, as a share, lie anywhere; colors_at: the colours that belong to places."""
    points, normals = sample(shape, count, seed=0)
    rng = np.random.default_rng(0)
    spacing = _spacing(shape, len(points))
    colors = colors_at(points).astype(np.float32)
    if tilt > 0:
        away = np.cross(normals, rng.normal(size=normals.shape))
        away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)
        angle = rng.normal(size=(len(normals), 1)) * tilt
        normals = np.cos(angle) * normals + np.sin(angle) * away
    points = points + rng.normal(size=points.shape) * noise
    scales = np.tile([0.7 * spacing, 0.7 * spacing, 0.07 * spacing], (len(points), 1))
    opacities = np.full(len(points), 0.9)
    quats = _turning_z_to(normals)
    if floaters > 0:
        extra = round(floaters * len(points))
        points = np.concatenate([points, rng.uniform(-1.2, 1.2, size=(extra, 3))])
        scales = np.concatenate([scales, spacing * rng.uniform(0.5, 4.0, size=(extra, 3))])
        quats = np.concatenate([quats, rng.normal(size=(extra, 4))])
        opacities = np.concatenate([opacities, rng.uniform(0.2, 0.95, extra)])
        colors = np.concatenate([colors, rng.random((extra, 3)).astype(np.float32)])
    return _gaussians(points, scales, quats, opacities, colors)


def noisy_discs(shape: Shape, count: int) -> Gaussians:
    """Discs in the wrong places and at the wrong angles, and some that lie anywhere."""
    return flat_discs(shape, count, NOISE, TILT, FLOATERS)


def round_balls(shape: Shape, count: int) -> Gaussians:
    """Balls on the surface, their standard deviation the spacing: without normals, and as thick as they are wide."""
    points, _ = sample(shape, count, seed=0)
    scales = np.full((len(points), 3), _spacing(shape, len(points)))
    upright = np.tile([1.0, 0.0, 0.0, 0.0], (len(points), 1))
    return _gaussians(points, scales, upright, np.full(len(points), 0.9), pattern(points))


def _spacing(shape: Shape, count: int) -> float:
    return math.sqrt(float(topology.face_areas(shape.vertices, shape.faces).sum()) / count)


def _turning_z_to(normals: FloatArray) -> FloatArray:
    """[n, 4] wxyz: rotations that take the z axis to the normals."""
    quats = np.concatenate([1 + normals[:, 2:], np.cross([0.0, 0.0, 1.0], normals)], axis=1)
    quats[np.linalg.norm(quats, axis=1) < 1e-6] = [0.0, 1.0, 0.0, 0.0]
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)


def _gaussians(*arrays: NDArray) -> Gaussians:
    means, scales, quats, opacities, colors = (torch.from_numpy(np.asarray(array, np.float32)) for array in arrays)
    return Gaussians(means, scales, torch.nn.functional.normalize(quats, dim=1), opacities, colors)
