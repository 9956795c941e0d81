"""Points and votes together: the field whose zero is the surface."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from backend.surface.grid import Grid, doubled
from backend.surface.points import Points, turned_to
from backend.surface.poisson import solve, splat

FloatArray = NDArray[np.float32]

FEW_VOTES, MANY_VOTES = 0.06, 0.25  # share of cameras from which on a place counts as empty: begins, certain
EMPTY_WEIGHT = 0.15
SOLID_WEIGHT = 0.5
LEVEL_REACH = 4.5  # cells over which the level is averaged
LEAST_LEVEL = 0.15
CANCELLED = 0.8  # agreement of the normals about a place below which it lies within a thin part


def surface_field(grid: Grid, points: Points, votes: FloatArray) -> tuple[FloatArray, Points]:
    """[grid.shape], negative inside, about the distance in cells near the surface; and the points with better normals.

    votes: see `carve.empty_votes`.
    """
    empty = EMPTY_WEIGHT * np.clip((votes - FEW_VOTES) / (MANY_VOTES - FEW_VOTES), 0.0, 1.0)
    gradient, solid = _evidence(grid, points, votes)
    # A first, coarse solution gives better normals than the directions of sight do.
    chi = solve(gradient, *_pull(empty, solid), finest=1)
    points = turned_to(points, chi, 1.5)
    gradient, solid = _evidence(grid, points, votes)
    chi = solve(gradient, *_pull(empty, solid))

    level = _level(grid, points, chi)
    if not (chi > level).any():
        # The points lie deep within what shows (a heap of large Gaussians in one place): the outline is the object.
        return (20.0 * (votes - FEW_VOTES)).astype(np.float32), replace(points, sided=np.zeros_like(points.sided))
    return ((level - chi) * 4.0).astype(np.float32), turned_to(points, chi, 1.0)


def _level(grid: Grid, points: Points, chi: FloatArray) -> FloatArray:
    """[X, Y, Z]: the value of chi at which the surface lies: what the points about a place have in the mean.

    One value for all would be too high for thin parts, whose chi is blurred away, and they would break off.
    """
    at = ndimage.map_coordinates(chi, points.surface.T, order=1, mode="nearest")
    mass = points.areas * points.sided
    order = np.argsort(at)
    share = np.cumsum(mass[order])
    usual = 0.5
    if len(share) and share[-1] > 0:
        usual = float(np.clip(at[order][np.searchsorted(share, 0.5 * share[-1])], 0.3, 0.6))
    # A wide average, so that the level does not follow the noise of the points; on every second sample.
    shape = tuple((size + 2) // 2 for size in grid.shape)
    index = np.clip(np.round(points.surface / 2).astype(np.int64), 0, np.array(shape) - 1)
    flat = np.ravel_multi_index(tuple(index.T), shape)
    total, weighted = (
        ndimage.gaussian_filter(
            np.bincount(flat, weights=values, minlength=int(np.prod(shape))).reshape(shape).astype(np.float32),
            LEVEL_REACH / 2,
        )
        for values in (mass, mass * at)
    )
    level = np.clip((weighted + 0.1 * usual) / (total + 0.1), LEAST_LEVEL, 0.7)
    return doubled(level, grid.shape)


def _evidence(grid: Grid, points: Points, votes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What the points say: the gradient [X, Y, Z, 3], chi falling by one along the normals, spread over the points'
    radii; and [X, Y, Z] in [0, 1] how surely a place is solid, where a gradient cannot say it.

    That is so on sheets seen from both sides, which have none, and in parts so thin that the two sides cancel.
    """
    sided, areas = points.sided[:, None], points.areas[:, None]
    values = np.concatenate([-points.normals * areas * sided, areas * sided, areas * (1 - sided)], axis=1)
    sums = np.zeros((*grid.shape, 5), np.float32)
    splat(np.ascontiguousarray(points.surface, np.float32), values.astype(np.float32), points.radii, sums)
    gradient = np.ascontiguousarray(sums[..., :3])
    agreement = np.linalg.norm(gradient, axis=-1) / np.maximum(sums[..., 3], 1e-6)
    thin = sums[..., 3] * np.clip((CANCELLED - agreement) / (0.5 * CANCELLED), 0.0, 1.0)
    # A gap between two surfaces cancels as well, but some camera sees into it.
    thin *= np.clip(1.0 - votes / FEW_VOTES, 0.0, 1.0)
    return gradient, np.minimum(2.5 * (sums[..., 4] + thin), 1.0)


def _pull(empty: FloatArray, solid: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weight and target of the screening."""
    weight = empty + SOLID_WEIGHT * solid
    return weight.astype(np.float32), (SOLID_WEIGHT * solid / np.maximum(weight, 1e-9)).astype(np.float32)
