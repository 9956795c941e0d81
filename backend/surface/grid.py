"""A regular grid over the object, and what is done to a field on it as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float32]

MARGIN = 4  # empty cells on every side, so that the surface closes inside the grid
LONG = 0.3  # of the object's longest side: no crumb is that long, but a leg is


@dataclass(frozen=True)
class Grid:
    """Sample points origin + cell * (i, j, k), 0 <= (i, j, k) < shape."""

    origin: FloatArray
    cell: float
    shape: tuple[int, int, int]

    @staticmethod
    def around(low: NDArray, high: NDArray, resolution: int) -> Grid:
        """The grid over a box with `resolution` samples along its longest side, the margin included."""
        cell = float((high - low).max()) / max(resolution - 2 * MARGIN - 1, 1)
        steps = np.ceil((high - low) / cell).astype(int) + 1 + 2 * MARGIN
        origin = (low + high) / 2 - 0.5 * cell * (steps - 1)
        return Grid(origin.astype(np.float32), cell, (int(steps[0]), int(steps[1]), int(steps[2])))

    def to_cells(self, points: NDArray) -> FloatArray:
        """[n, 3]: points in units of cells, counted from the first sample."""
        return ((points - self.origin) / self.cell).astype(np.float32)

    def sample(self, field: FloatArray, points: NDArray) -> FloatArray:
        """[n]: a field between its samples."""
        return ndimage.map_coordinates(field, self.to_cells(points).T, order=1, mode="nearest")


def doubled(coarse: FloatArray, shape: tuple[int, ...], least: bool = False) -> FloatArray:
    """A field known at every second sample (0, 2, 4, ...) at all samples of a grid of `shape`, linear between them, or
    with `least` the smaller of the two."""
    for axis in range(3):
        fine = np.moveaxis(np.repeat(coarse, 2, axis=axis), axis, 0)
        fine[1:-1:2] = np.minimum(fine[1:-1:2], fine[2::2]) if least else 0.5 * (fine[1:-1:2] + fine[2::2])
        coarse = np.moveaxis(fine, 0, axis)
    return np.ascontiguousarray(coarse[tuple(slice(0, size) for size in shape)])


def without_cavities(field: FloatArray) -> FloatArray:
    """The field with everything that the outside cannot reach made inside: no shell within the shell. Inside is < 0."""
    free, _ = ndimage.label(field >= 0)
    outside = free == free[0, 0, 0]
    return np.where((field >= 0) & ~outside, -np.abs(field) - 1e-6, field)


def without_crumbs(field: FloatArray, share: float) -> FloatArray:
    """The field without pieces that are short and hold less than `share` of the largest piece's volume."""
    pieces, count = ndimage.label(field < 0)
    if count <= 1:
        return field
    volumes = np.bincount(pieces.reshape(-1), minlength=count + 1)
    volumes[0] = 0
    boxes = ndimage.find_objects(pieces)
    ends = np.array([[(side.start, side.stop) for side in box] for box in boxes])
    longest = (ends[:, :, 1].max(axis=0) - ends[:, :, 0].min(axis=0)).max()
    long = np.concatenate([[True], (ends[:, :, 1] - ends[:, :, 0]).max(axis=1) > LONG * longest])
    small = (volumes < share * volumes.max()) & ~long
    return np.where(small[pieces], np.abs(field) + 1e-6, field)
