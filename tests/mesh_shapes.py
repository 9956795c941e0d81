"""Shapes, and Gaussians on them, for the tests of surfaces and textures."""

from __future__ import annotations

import math

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree

from backend.cameras import orbit, rays, world_to_camera_opencv
from backend.datatypes import Gaussians
from backend.texture.raster import project, rasterize_triangles


def walk(stage):
    """The result of a stage, and the fractions it reported on the way."""
    fractions = []
    while True:
        try:
            fractions.append(next(stage).fraction)
        except StopIteration as end:
            return end.value, fractions


def box(low, high) -> trimesh.Trimesh:
    low, high = np.array(low, float), np.array(high, float)
    made = trimesh.creation.box(extents=high - low)
    made.apply_translation((low + high) / 2)
    return made


def sphere() -> trimesh.Trimesh:
    return trimesh.creation.icosphere(4, radius=0.9)


def torus() -> trimesh.Trimesh:
    return trimesh.creation.torus(0.65, 0.25, major_sections=64, minor_sections=32)


def two_spheres() -> trimesh.Trimesh:
    parts = [trimesh.creation.icosphere(4, radius=0.4) for _ in range(2)]
    parts[0].apply_translation((-0.5, 0, 0))
    parts[1].apply_translation((0.5, 0, 0))
    return trimesh.util.concatenate(parts)


def chair() -> trimesh.Trimesh:
    """Legs 4 % of the height thick."""
    half = 0.036
    parts = [box((-0.45, -0.05, -0.45), (0.45, 0.05, 0.45)), box((-0.45, 0.05, -0.45), (0.45, 0.9, -0.37))]
    parts += [box((x - half, -0.9, z - half), (x + half, -0.05, z + half)) for x in (-0.4, 0.4) for z in (-0.4, 0.4)]
    return trimesh.util.concatenate(parts)


def rainbow(points: np.ndarray) -> np.ndarray:
    """[n, 3]: the colour that belongs to a place."""
    return (0.5 + 0.4 * np.sin(points * 5 + np.array([0.0, 1.0, 2.0]))).astype(np.float32)


def gaussians(means, scales, colors, opacities, quats=None) -> Gaussians:
    if quats is None:
        quats = np.tile([1.0, 0.0, 0.0, 0.0], (len(means), 1))
    arrays = (means, scales, quats, opacities, colors)
    return Gaussians(*(torch.from_numpy(np.asarray(array, np.float32)) for array in arrays))


def discs(shape: trimesh.Trimesh, count: int = 12000, noise: float = 0.0, seed: int = 0) -> Gaussians:
    """Flat discs on the whole surface, which leave no gap; noise: standard deviation of their places."""
    rng = np.random.default_rng(seed)
    points, of_face = trimesh.sample.sample_surface_even(shape, count, seed=seed)
    normals = shape.face_normals[of_face]
    radius = math.sqrt(shape.area / len(points))
    # The rotation that takes z to the normal.
    quats = np.concatenate([1 + normals[:, 2:], np.cross([0.0, 0.0, 1.0], normals)], axis=1)
    quats[np.linalg.norm(quats, axis=1) < 1e-6] = [0, 1, 0, 0]
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    scales = np.tile([0.7 * radius, 0.7 * radius, 0.07 * radius], (len(points), 1))
    means = points + rng.normal(size=points.shape) * noise
    return gaussians(means, scales, rainbow(points), np.full(len(points), 0.9), quats)


def from_four_views(shape: trimesh.Trimesh, noise: float = 0.018, floaters: int = 20, seed: int = 0) -> Gaussians:
    """What a small network makes of four pictures: a round ball for each pixel, in the wrong place by `noise`, of any
    opacity, with stray ones about the outline and anywhere; nothing where no view looks."""
    rng = np.random.default_rng(seed)
    size = 64
    cameras = orbit([0, 90, 180, 270], 20.0, 2.9, 50.0, size)
    _, directions = rays(cameras)
    viewmats = world_to_camera_opencv(cameras).numpy()
    places, colors, opacities, scales = [], [], [], []
    for view in range(4):
        intrinsics = cameras.intrinsics[view].numpy()
        seen = project(np.asarray(shape.vertices), viewmats[view], intrinsics)
        face_ids, shares, depth, _ = rasterize_triangles(seen, np.asarray(shape.faces), size, size)
        hit = face_ids >= 0
        points = (shape.vertices[shape.faces[face_ids[hit]]] * shares[hit][..., None]).sum(axis=1)
        along = directions[view].numpy()[hit] * rng.normal(size=(len(points), 1)) * noise * 0.7
        places.append(points + along + rng.normal(size=points.shape) * noise * 0.7)
        colors.append(rainbow(points))
        opacities.append(np.clip(rng.beta(4, 1.5, size=len(points)), 0.02, 0.99))
        pixel = depth[hit] / intrinsics[0, 0]
        scales.append(0.6 * pixel[:, None] * np.exp(rng.normal(size=points.shape) * 0.25))
    places.append(rng.uniform(-1.3, 1.3, size=(floaters, 3)))
    colors.append(rng.random((floaters, 3)))
    opacities.append(rng.uniform(0.3, 0.95, floaters))
    scales.append(np.full((floaters, 3), 0.02))
    return gaussians(*(np.concatenate(parts) for parts in (places, scales, colors, opacities)))


def chamfer(shape: trimesh.Trimesh, vertices: np.ndarray, faces: np.ndarray, count: int = 10000) -> tuple[float, float]:
    """Mean distance from the shape to the mesh, and back, by samples (which add about 0.01 of their own)."""
    wanted, _ = trimesh.sample.sample_surface(shape, count, seed=1)
    made, _ = trimesh.sample.sample_surface(trimesh.Trimesh(vertices, faces, process=False), count, seed=2)
    return float(cKDTree(made).query(wanted)[0].mean()), float(cKDTree(wanted).query(made)[0].mean())
