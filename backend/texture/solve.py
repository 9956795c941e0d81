"""The texture that best reproduces every pixel of every view: sparse linear least squares over the texels.

A pixel's colour is the bilinear mean of four texels, so the normal equations couple each texel with its eight
neighbours only: they are nine numbers a texel, of which symmetry leaves five, however many views there are. Points on
both sides of a seam are tied, and what no pixel says stays near the start. Pixels that disagree with the solution count
less in the next round (iteratively reweighted least squares). Conjugate gradients, a colour channel at a time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.render import parallel
from backend.render.parallel import kernel
from backend.texture.observe import ONE, Observations
from backend.texture.seams import Seams

FloatArray = NDArray[np.float32]

STAY = 0.01  # weight of a texel's start, in pixels that look squarely at it
SMOOTH = 0.03  # weight with which a texel's change follows its neighbours'
TIE = 1.0  # weight of a point of a seam
DISAGREES = 0.06  # difference of colour at which a pixel counts half, after the first round
ITERATIONS = 16
ROUNDS = 2


def solve(image: FloatArray, observations: Observations, trust: FloatArray, seams: Seams) -> None:
    """Change image [3, S, S], the start, into the solution. trust [S * S] in [0, 1]: how far pixels are believed."""
    size = image.shape[1]
    for number in range(ROUNDS):
        stencil = np.zeros((5, size, size), np.float32)
        residual = np.zeros((3, size, size), np.float32)
        disagrees = DISAGREES if number > 0 else 1e3
        _gather(observations.texels, observations.values, trust, image, disagrees, stencil, residual)
        _tie(seams.texels, seams.shares, image, residual, stencil[0])
        _regularise(stencil)
        parallel.run(
            _conjugate_gradients,
            [(stencil, seams.texels, seams.shares, residual[channel], image[channel]) for channel in range(3)],
        )


@kernel
def _gather(
    texels: NDArray[np.int32],
    values: NDArray[np.uint16],
    trust: FloatArray,
    image: FloatArray,
    disagrees: float,
    stencil: FloatArray,
    residual: FloatArray,
) -> None:
    """The normal equations of all pixels, for the change to the image.

    stencil [5, S, S]: a texel with itself, the one right of it, below it, below right of it, below left of it.
    """
    size = image.shape[1]
    one = np.float32(1.0 / ONE)
    for i in range(texels.shape[0]):
        weight = values[i, 5] * one * (values[i, 6] * one) * trust[texels[i]]
        if weight <= 1e-4:
            continue
        top, left = texels[i] // size, texels[i] % size
        right, down = values[i, 0] * one, values[i, 1] * one
        a, b = (1 - right) * (1 - down), right * (1 - down)
        c, d = (1 - right) * down, right * down
        off0 = values[i, 2] * one
        off1 = values[i, 3] * one
        off2 = values[i, 4] * one
        off0 -= a * image[0, top, left] + b * image[0, top, left + 1]
        off0 -= c * image[0, top + 1, left] + d * image[0, top + 1, left + 1]
        off1 -= a * image[1, top, left] + b * image[1, top, left + 1]
        off1 -= c * image[1, top + 1, left] + d * image[1, top + 1, left + 1]
        off2 -= a * image[2, top, left] + b * image[2, top, left + 1]
        off2 -= c * image[2, top + 1, left] + d * image[2, top + 1, left + 1]
        weight /= 1 + (off0 * off0 + off1 * off1 + off2 * off2) / (disagrees * disagrees)
        stencil[0, top, left] += weight * a * a
        stencil[0, top, left + 1] += weight * b * b
        stencil[0, top + 1, left] += weight * c * c
        stencil[0, top + 1, left + 1] += weight * d * d
        stencil[1, top, left] += weight * a * b
        stencil[1, top + 1, left] += weight * c * d
        stencil[2, top, left] += weight * a * c
        stencil[2, top, left + 1] += weight * b * d
        stencil[3, top, left] += weight * a * d
        stencil[4, top, left + 1] += weight * b * c
        for channel in range(3):
            off = weight * (off0 if channel == 0 else (off1 if channel == 1 else off2))
            residual[channel, top, left] += a * off
            residual[channel, top, left + 1] += b * off
            residual[channel, top + 1, left] += c * off
            residual[channel, top + 1, left + 1] += d * off


@kernel
def _tie(
    texels: NDArray[np.int32], shares: FloatArray, image: FloatArray, residual: FloatArray, diagonal: FloatArray
) -> None:
    """The ties across seams: their residuals, and their diagonal."""
    size = image.shape[1]
    for i in range(texels.shape[0]):
        for channel in range(3):
            off = np.float32(0.0)
            for k in range(8):
                off += shares[i, k] * image[channel, texels[i, k] // size, texels[i, k] % size]
            for k in range(8):
                residual[channel, texels[i, k] // size, texels[i, k] % size] -= TIE * shares[i, k] * off
        for k in range(8):
            diagonal[texels[i, k] // size, texels[i, k] % size] += TIE * shares[i, k] * shares[i, k]


@kernel
def _regularise(stencil: FloatArray) -> None:
    """Keep texels near the start, and their changes alike, wherever something is known of them."""
    size = stencil.shape[1]
    known = np.zeros((size, size), np.uint8)
    for row in range(size):
        for column in range(size):
            known[row, column] = stencil[0, row, column] > 0
    for row in range(size):
        for column in range(size):
            if not known[row, column]:
                continue
            stencil[0, row, column] += STAY
            if column + 1 < size and known[row, column + 1]:
                stencil[0, row, column] += SMOOTH
                stencil[0, row, column + 1] += SMOOTH
                stencil[1, row, column] -= SMOOTH
            if row + 1 < size and known[row + 1, column]:
                stencil[0, row, column] += SMOOTH
                stencil[0, row + 1, column] += SMOOTH
                stencil[2, row, column] -= SMOOTH


@kernel
def _conjugate_gradients(
    stencil: FloatArray, texels: NDArray[np.int32], shares: FloatArray, residual: FloatArray, image: FloatArray
) -> None:
    """Add the solution to the image [S, S]; the residual [S, S] is used up. Preconditioned by the diagonal."""
    size = image.shape[0]
    direction = np.zeros((size, size), np.float32)
    product = np.zeros((size, size), np.float32)
    before = np.float64(0.0)
    first = np.float64(0.0)
    for iteration in range(ITERATIONS + 1):
        now = np.float64(0.0)
        for row in range(size):
            line = np.float32(0.0)
            for column in range(size):
                line += residual[row, column] * residual[row, column] / max(stencil[0, row, column], 1e-12)
            now += line
        if iteration == 0:
            first = now
        if iteration == ITERATIONS or now <= 1e-5 * first or now <= 0:
            return
        beta = np.float32(now / before) if iteration > 0 else np.float32(0.0)
        before = now
        for row in range(size):
            for column in range(size):
                scaled = residual[row, column] / max(stencil[0, row, column], 1e-12)
                direction[row, column] = scaled + beta * direction[row, column]
        for row in range(size):
            up, below = max(row - 1, 0), min(row + 1, size - 1)
            for column in range(1, size - 1):
                product[row, column] = (
                    stencil[0, row, column] * direction[row, column]
                    + stencil[1, row, column] * direction[row, column + 1]
                    + stencil[1, row, column - 1] * direction[row, column - 1]
                    + stencil[2, row, column] * direction[below, column]
                    + stencil[3, row, column] * direction[below, column + 1]
                    + stencil[4, row, column] * direction[below, column - 1]
                )
            for column in (0, size - 1):
                right, left = min(column + 1, size - 1), max(column - 1, 0)
                value = stencil[0, row, column] * direction[row, column]
                value += stencil[1, row, column] * direction[row, right]
                value += stencil[2, row, column] * direction[below, column]
                value += stencil[3, row, column] * direction[below, right]
                value += stencil[4, row, column] * direction[below, left]
                if column > 0:
                    value += stencil[1, row, left] * direction[row, left]
                product[row, column] = value
            if row == 0:
                continue
            for column in range(1, size - 1):
                product[row, column] += (
                    stencil[2, up, column] * direction[up, column]
                    + stencil[3, up, column - 1] * direction[up, column - 1]
                    + stencil[4, up, column + 1] * direction[up, column + 1]
                )
            product[row, 0] += stencil[2, up, 0] * direction[up, 0] + stencil[4, up, 1] * direction[up, 1]
            product[row, size - 1] += stencil[2, up, size - 1] * direction[up, size - 1]
            product[row, size - 1] += stencil[3, up, size - 2] * direction[up, size - 2]
        for i in range(texels.shape[0]):
            off = np.float32(0.0)
            for k in range(8):
                off += shares[i, k] * direction[texels[i, k] // size, texels[i, k] % size]
            for k in range(8):
                product[texels[i, k] // size, texels[i, k] % size] += TIE * shares[i, k] * off
        # The diagonal holds the ties' squares already for the preconditioner: they must not count twice.
        for i in range(texels.shape[0]):
            for k in range(8):
                row, column = texels[i, k] // size, texels[i, k] % size
                product[row, column] -= TIE * shares[i, k] * shares[i, k] * direction[row, column]
        along = np.float64(0.0)
        for row in range(size):
            line = np.float32(0.0)
            for column in range(size):
                line += direction[row, column] * product[row, column]
            along += line
        if along <= 0:
            return
        step = np.float32(now / along)
        for row in range(size):
            for column in range(size):
                image[row, column] += step * direction[row, column]
                residual[row, column] -= step * product[row, column]
