"""The Gaussians as oriented points: where the surface lies, which way it looks, how much of it each one stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from backend.datatypes import Gaussians
from backend.surface.grid import Grid
from backend.surface.probe import Probe, seen_from

FloatArray = NDArray[np.float32]

NEIGHBOURS = 12
MOST_POINTS = 120_000
SHELL = 0.7  # how many of a Gaussian's standard deviations outside of its centre it looks solid
THICKEST = 1.2  # cells: more than that is no surface's thickness
TWO_SIDED, ONE_SIDED = 0.08, 0.25  # how unequally the two sides are seen: a sheet below the first, a surface above


@dataclass(frozen=True)
class Points:
    """centers [N, 3] in cells of the grid; normals [N, 3] unit; sided [N]: 1 where the normal is known, 0 on a thin
    sheet; areas [N] in square cells, times opacity; radii [N] in cells, over which a point speaks; shells [N], how far
    the surface lies outside of the centres, in cells."""

    centers: FloatArray
    normals: FloatArray
    sided: FloatArray
    areas: FloatArray
    radii: FloatArray
    shells: FloatArray

    @property
    def surface(self) -> FloatArray:
        """[N, 3]: where the surface is, in cells: a round Gaussian is seen by its shell, not by its centre."""
        return self.centers + self.normals * (self.shells * self.sided)[:, None]


def oriented_points(gaussians: Gaussians, probe: Probe, grid: Grid, spacing: float) -> Points:
    """The Gaussians that some camera sees."""
    means = gaussians.means.numpy()
    views = seen_from(means, np.zeros_like(means), probe, spacing)
    chosen = np.flatnonzero(views[:, 3] + views[:, 4] > 0)
    if len(chosen) > MOST_POINTS:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, MOST_POINTS, replace=False))
    means, views = means[chosen], views[chosen]
    centers = grid.to_cells(means)
    opacities = gaussians.opacities.numpy()[chosen]
    scales = gaussians.scales.numpy()[chosen] / grid.cell

    near = _Neighbourhoods.of(centers, opacities, float(scales.mean()))
    direction = near.mean(views[:, :3] / views[:, 3:].sum(axis=1, keepdims=True))
    length = np.linalg.norm(direction, axis=1, keepdims=True)
    # Where the directions of sight nearly cancel, as they do on a wall seen from outside and through a hole from
    # inside, the plane of the neighbours is the better normal, and the side that more cameras see is the outside.
    share = np.clip((length - TWO_SIDED) / (ONE_SIDED - TWO_SIDED), 0.0, 1.0)
    planes = near.normals * np.where((near.normals * direction).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
    normals = _unit(share * direction / np.maximum(length, 1e-6) + (1 - share) * planes)
    counts = seen_from(means, normals.astype(np.float32), probe, spacing)[:, 3:]
    balance = near.mean(counts[:, :1] - counts[:, 1:])[:, 0] / np.maximum(near.mean(counts).sum(axis=1), 1e-6)
    normals = normals * np.where(balance < 0, -1.0, 1.0)[:, None]
    return Points(
        centers,
        normals.astype(np.float32),
        np.clip((np.abs(balance) - TWO_SIDED) / (ONE_SIDED - TWO_SIDED), 0.0, 1.0).astype(np.float32),
        (near.spacing**2 * np.minimum(2 * opacities, 1.0)).astype(np.float32),
        np.clip(np.maximum(0.7 * near.spacing, near.noise(centers, normals)), 1.0, 5.0).astype(np.float32),
        np.minimum(SHELL * scales.min(axis=1), THICKEST).astype(np.float32),
    )


@dataclass(frozen=True)
class _Neighbourhoods:
    """index, weights [N, K]; spacing [N] (its square is a point's share of the surface); normals [N, 3] of the planes
    through the neighbours, of either sign."""

    index: NDArray[np.int64]
    weights: FloatArray
    spacing: FloatArray
    normals: FloatArray

    @staticmethod
    def of(centers: FloatArray, opacities: FloatArray, scale: float) -> _Neighbourhoods:
        count = min(NEIGHBOURS + 1, len(centers))
        if count < 5:
            alone = np.full(len(centers), 2 * scale, np.float32)
            up = np.tile(np.array([0.0, 1.0, 0.0], np.float32), (len(centers), 1))
            itself = np.arange(len(centers))[:, None]
            return _Neighbourhoods(itself, np.ones((len(centers), 1), np.float32), alone, up)
        distances, index = cKDTree(centers).query(centers, k=count)
        spacing = distances[:, -1] * math.sqrt(math.pi / count)
        offsets = centers[index] - centers[index].mean(axis=1, keepdims=True)
        _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", offsets, offsets) / count)
        weights = opacities[index] * np.exp(-0.5 * (distances / np.maximum(spacing, 1e-6)[:, None]) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        return _Neighbourhoods(index, weights, spacing, vectors[:, :, 0])

    def mean(self, values: NDArray) -> NDArray:
        """[N, D] smoothed over the neighbours."""
        return (values[self.index] * self.weights[..., None]).sum(axis=1)

    def noise(self, centers: FloatArray, normals: NDArray) -> NDArray:
        """[N]: how far the neighbours scatter along the normal: those that look the same way, so that the far side of a
        chair's leg is not taken for noise of the near side."""
        weights = self.weights * ((normals[self.index] * normals[:, None]).sum(axis=2) > 0.5)
        weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
        heights = (centers[self.index] * normals[:, None]).sum(axis=2)
        mean = (heights * weights).sum(axis=1, keepdims=True)
        return np.sqrt(((heights - mean) ** 2 * weights).sum(axis=1))


def _unit(vectors: NDArray) -> NDArray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def turned_to(points: Points, field: FloatArray, blur: float) -> Points:
    """The points with their normals taken from a field (1 inside), where they are of one side."""
    smooth = ndimage.gaussian_filter(field, blur)
    slopes = [
        -ndimage.map_coordinates(slope, points.surface.T, order=1, mode="nearest") for slope in np.gradient(smooth)
    ]
    normals = np.stack(slopes, axis=1)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(length > 1e-4, normals / np.maximum(length, 1e-6), points.normals).astype(np.float32)
    return Points(points.centers, normals, points.sided, points.areas, points.radii, points.shells)
