"""The field of the surface: a screened Poisson equation on the grid.

Wanted is chi, 1 inside and 0 outside. Oriented points give its gradient V (Kazhdan 2006: across the surface chi falls
by one along the normal); what the pictures know to be empty pulls it to 0, what is known to be solid pulls it to 1:

    minimise  |grad chi - V|^2 + a |chi - t|^2      that is      (a - laplace) chi = a t - div V

Where nothing is known (the underside that no view saw) the gradient's smoothness closes the surface. Unlike carving
alone, it averages over noise; unlike Poisson alone, it does not bridge gaps that are seen to be empty.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from backend.render.parallel import inlined, kernel

FloatArray = NDArray[np.float32]

REACH = 2.5  # of a point, in its own radii
ROUNDS, TOLERANCE = 40, 3e-3  # of the conjugate gradients on each grid


@kernel
def splat(points: FloatArray, values: FloatArray, radii: FloatArray, out: FloatArray) -> None:
    """Adds to out [X, Y, Z, D] the values [N, D] of points [N, 3] (in cells), spread by Gaussians of `radii`, sum 1."""
    width = values.shape[1]
    for i in range(points.shape[0]):
        reach = REACH * radii[i]
        falloff = 0.5 / (radii[i] * radii[i])
        scale = 1.0 / (2.0 * math.pi * radii[i] * radii[i]) ** 1.5
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        for a in range(max(math.ceil(x - reach), 0), min(int(x + reach), out.shape[0] - 1) + 1):
            for b in range(max(math.ceil(y - reach), 0), min(int(y + reach), out.shape[1] - 1) + 1):
                flat = ((a - x) * (a - x) + (b - y) * (b - y)) * falloff
                if flat > 0.5 * REACH * REACH:
                    continue
                for c in range(max(math.ceil(z - reach), 0), min(int(z + reach), out.shape[2] - 1) + 1):
                    weight = scale * math.exp(-flat - (c - z) * (c - z) * falloff)
                    for d in range(width):
                        out[a, b, c, d] += weight * values[i, d]


@kernel
def divergence(vectors: FloatArray) -> FloatArray:
    """[X, Y, Z] of vectors [X, Y, Z, 3], per cell."""
    nx, ny, nz, _ = vectors.shape
    out = np.zeros((nx, ny, nz), np.float32)
    for i in range(1, nx - 1):
        for j in range(1, ny - 1):
            for k in range(1, nz - 1):
                out[i, j, k] = 0.5 * (
                    vectors[i + 1, j, k, 0]
                    - vectors[i - 1, j, k, 0]
                    + vectors[i, j + 1, k, 1]
                    - vectors[i, j - 1, k, 1]
                    + vectors[i, j, k + 1, 2]
                    - vectors[i, j, k - 1, 2]
                )
    return out


@inlined
def _apply(x: FloatArray, a: FloatArray, out: FloatArray) -> float:
    """out = (a - laplace) x with x = 0 outside of the grid; returns x . out."""
    nx, ny, nz = x.shape
    total = 0.0
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                here = x[i, j, k]
                value = (6.0 + a[i, j, k]) * here
                if i > 0:
                    value -= x[i - 1, j, k]
                if i < nx - 1:
                    value -= x[i + 1, j, k]
                if j > 0:
                    value -= x[i, j - 1, k]
                if j < ny - 1:
                    value -= x[i, j + 1, k]
                if k > 0:
                    value -= x[i, j, k - 1]
                if k < nz - 1:
                    value -= x[i, j, k + 1]
                out[i, j, k] = value
                total += here * value
    return total


@kernel
def _conjugate_gradients(a: FloatArray, b: FloatArray, x: FloatArray, rounds: int, tolerance: float) -> int:
    """Improves x in place; the diagonal as preconditioner. Returns the rounds taken."""
    product = np.empty_like(x)
    _apply(x, a, product)
    size = x.size
    flat_x, flat_a, flat_b, flat_p = x.reshape(size), a.reshape(size), b.reshape(size), product.reshape(size)
    residual = np.empty(size, np.float32)
    direction = np.empty(size, np.float32)
    old, norm = 0.0, 0.0
    for i in range(size):
        residual[i] = flat_b[i] - flat_p[i]
        direction[i] = residual[i] / (6.0 + flat_a[i])
        old += residual[i] * direction[i]
        norm += flat_b[i] * flat_b[i] / (6.0 + flat_a[i])
    for done in range(rounds):
        if old <= tolerance * tolerance * norm:
            return done
        step = old / _apply(direction.reshape(x.shape), a, product)
        new = 0.0
        for i in range(size):
            flat_x[i] += step * direction[i]
            residual[i] -= step * flat_p[i]
            new += residual[i] * residual[i] / (6.0 + flat_a[i])
        ratio = new / old
        for i in range(size):
            direction[i] = residual[i] / (6.0 + flat_a[i]) + ratio * direction[i]
        old = new
    return rounds


def _halved(values: FloatArray) -> FloatArray:
    """Means of blocks of 2 x 2 x 2 samples (an odd side repeats its last one)."""
    for axis in range(3):
        if values.shape[axis] % 2:
            values = np.concatenate([values, np.take(values, [-1], axis=axis)], axis=axis)
        moved = np.moveaxis(values, axis, 0)
        values = np.moveaxis(0.5 * (moved[::2] + moved[1::2]), 0, axis)
    return np.ascontiguousarray(values)


def _doubled(values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Block means back at all samples of a grid of `shape`, linear between the blocks' centres."""
    for axis in range(3):
        blocks = np.moveaxis(values, axis, 0)
        ahead, behind = np.roll(blocks, -1, axis=0), np.roll(blocks, 1, axis=0)
        ahead[-1], behind[0] = blocks[-1], blocks[0]
        fine = np.stack([0.75 * blocks + 0.25 * behind, 0.75 * blocks + 0.25 * ahead], axis=1)
        values = np.moveaxis(fine.reshape(-1, *blocks.shape[1:]), 0, axis)
    return np.ascontiguousarray(values[tuple(slice(0, size) for size in shape)])


def solve(vectors: FloatArray, weight: FloatArray, target: FloatArray, finest: int = 0) -> FloatArray:
    """chi [X, Y, Z] for the wanted gradient `vectors` [X, Y, Z, 3] (per cell), weight a and target t [X, Y, Z].

    finest: how many halvings to stop short of the full resolution; the result has it all the same.

    Solved on coarse grids first: conjugate gradients are quick at what is small and slow at what is large.
    """
    if min(weight.shape) > 12:
        coarse_weight = _halved(weight)
        pull = (_halved(weight * target) / np.maximum(coarse_weight, 1e-12)).astype(np.float32)
        # A cell twice as wide: twice the difference across it, four times the weight against the laplacian.
        coarse = solve(2.0 * _halved(vectors), 4.0 * coarse_weight, pull, max(finest - 1, 0))
        start = _doubled(coarse, weight.shape)
        if finest > 0:
            return start
    else:
        start = np.zeros(weight.shape, np.float32)
    right = weight * target - divergence(vectors)
    _conjugate_gradients(weight, right, start, ROUNDS, TOLERANCE)
    return start
