"""The start of a texture: at each texel the weighted mean of the pixels about it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.render.parallel import kernel
from backend.texture.observe import ONE, Observations
from backend.texture.paint import LEAST_SHARE

FloatArray = NDArray[np.float32]


@kernel
def _sum_up(texels: NDArray[np.int32], values: NDArray[np.uint16], size: int, sums: FloatArray) -> None:
    """sums [5, S * S] += the colours, their weight, and the weight they would have if all were believed."""
    one = np.float32(1.0 / ONE)
    for i in range(texels.shape[0]):
        right, down = values[i, 0] * one, values[i, 1] * one
        facing = values[i, 5] * one
        quality = values[i, 6] * one
        for corner in range(4):
            share = right if corner % 2 else 1 - right
            share *= (down if corner // 2 else 1 - down) * facing
            texel = texels[i] + corner % 2 + (corner // 2) * size
            sums[4, texel] += share
            share *= quality
            sums[3, texel] += share
            for channel in range(3):
                sums[channel, texel] += share * values[i, 2 + channel] * one


@kernel
def _blend(sums: FloatArray, image: FloatArray, covered: NDArray, doubt: float) -> None:
    """Put the means into the image, and into sums[4] how far they are to be trusted."""
    size = image.shape[1]
    for row in range(size):
        for column in range(size):
            texel = row * size + column
            weight = sums[3, texel]
            share = weight / max(sums[4, texel], 1e-6)
            trusted = min(max((share - LEAST_SHARE) / LEAST_SHARE, 0.0), 1.0)
            sums[4, texel] = trusted
            weight *= trusted
            if weight <= 1e-6:
                continue
            blend = weight / (weight + doubt) if covered[row, column] else 1.0
            for channel in range(3):
                mean = sums[channel, texel] / sums[3, texel]
                image[channel, row, column] += blend * (mean - image[channel, row, column])
            covered[row, column] = True


def splat_mean(observations: Observations, image: FloatArray, covered: NDArray[np.bool_], doubt: float) -> FloatArray:
    """Blend the pixels' mean colours into image [3, S, S], the more the surer they are; returns the trust [S * S].

    Where most of the cameras that face a texel see something else there (it lies on a surface that was made up to close
    a hole), what the others see is chance: the trust is 0. Texels beyond the charts' edges that pixels reach become
    covered. doubt: the weight of what the image has already.
    """
    size = image.shape[1]
    sums = np.zeros((5, size * size), np.float32)
    _sum_up(observations.texels, observations.values, size, sums)
    _blend(sums, image, covered, doubt)
    return sums[4].copy()
