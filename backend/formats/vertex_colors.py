"""Colours of a mesh's vertices, read from its texture, for files and programs that know no pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.datatypes import TexturedMesh


def vertex_colors(textured: TexturedMesh) -> NDArray[np.float32]:
    """[n, 3] sRGB in [0, 1]: at each vertex the mean of what the texture shows at its corners; grey without a face."""
    picture = textured.base_color.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    uvs = textured.corner_uvs.detach().cpu().reshape(-1, 2).numpy()
    sampled = _bilinear(picture, uvs)
    faces = textured.mesh.faces.cpu().numpy().reshape(-1)
    count = textured.mesh.vertices.shape[0]
    corners = np.bincount(faces, minlength=count)
    sums = np.stack([np.bincount(faces, weights=sampled[:, axis], minlength=count) for axis in range(3)], axis=1)
    return np.where(corners[:, None] > 0, sums / np.maximum(corners, 1)[:, None], 0.5).astype(np.float32)


def _bilinear(picture: NDArray, uvs: NDArray) -> NDArray:
    """[k, 3] of a picture [H, W, 3] (row 0 at v = 1) at uvs [k, 2]."""
    height, width = picture.shape[:2]
    x = np.clip(uvs[:, 0] * width - 0.5, 0, width - 1)
    y = np.clip((1 - uvs[:, 1]) * height - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[:, None], (y - top)[:, None]
    upper = picture[top, left] * (1 - across) + picture[top, right] * across
    lower = picture[bottom, left] * (1 - across) + picture[bottom, right] * across
    return upper * (1 - down) + lower * down
