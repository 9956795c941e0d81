"""Where the charts' borders meet on the surface: the same points in two places of the texture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.surface import topology

FloatArray = NDArray[np.float32]

SAME = 1e-6  # uvs that differ by less are one


@dataclass(frozen=True)
class Seams:
    """K points on seams. texels [K, 8]: row * size + column of the four about it on one side, and on the other;
    shares [K, 8]: their bilinear weights, those of the other side negative, so that they sum up to the difference."""

    texels: NDArray[np.int32]
    shares: FloatArray


def seam_edges(faces: NDArray[np.int64], corner_uvs: FloatArray) -> NDArray[np.float64]:
    """[E, 2, 2, 2]: for each edge whose two faces have it in different places, side by side: the uvs of its two ends
    on the one side and, in the same order, on the other."""
    edges = topology.directed_edges(faces)
    ends = np.concatenate([corner_uvs[:, [0, 1]], corner_uvs[:, [1, 2]], corner_uvs[:, [2, 0]]]).astype(np.float64)
    width = int(faces.max()) + 1
    backward = edges[:, 0] > edges[:, 1]
    keys = np.where(backward, edges[:, 1] * width + edges[:, 0], edges[:, 0] * width + edges[:, 1])
    ends[backward] = ends[backward][:, ::-1]
    order = np.argsort(keys, kind="stable")
    together = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    pairs = np.stack([ends[order[together]], ends[order[together + 1]]], axis=1)
    return pairs[np.abs(pairs[:, 0] - pairs[:, 1]).max(axis=(1, 2)) > SAME]


def seam_points(faces: NDArray[np.int64], corner_uvs: FloatArray, size: int) -> Seams:
    """Points on all seams, about one a texel."""
    pairs = seam_edges(faces, corner_uvs)
    lengths = np.linalg.norm(pairs[:, :, 1] - pairs[:, :, 0], axis=2).max(axis=1) * size
    counts = np.ceil(lengths).astype(np.int64)
    edge = np.repeat(np.arange(len(pairs)), counts)
    number = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    along = ((number + 0.5) / counts[edge])[:, None, None]
    places = pairs[edge, :, 0] * (1 - along) + pairs[edge, :, 1] * along  # [K, side, 2]
    across = np.clip(places[..., 0] * size - 0.5, 0, size - 1.001)
    down = np.clip((1 - places[..., 1]) * size - 0.5, 0, size - 1.001)
    left, top = across.astype(np.int64), down.astype(np.int64)
    right, below = across - left, down - top
    corner = top * size + left
    texels = np.stack([corner, corner + 1, corner + size, corner + size + 1], axis=-1)
    shares = (
        np.stack([(1 - right) * (1 - below), right * (1 - below), (1 - right) * below, right * below], axis=-1)
        * np.array([1.0, -1.0])[None, :, None]
    )
    return Seams(texels.reshape(-1, 8).astype(np.int32), shares.reshape(-1, 8).astype(np.float32))
