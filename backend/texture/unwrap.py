"""uvs for a mesh: charts cut and packed by xatlas."""

from __future__ import annotations

import numpy as np
import torch
import xatlas
from torch import Tensor

from backend.datatypes import Mesh

PADDING = 4  # texels between charts, for bilinear filtering and two levels of mip-maps


def unwrap(mesh: Mesh, size: int) -> Tensor:
    """[m, 3, 2]: a uv for each corner, in [0, 1], no two faces over each other, for a texture of size x size."""
    vertices = mesh.vertices.detach().cpu().double().numpy()
    # xatlas takes edges below an absolute length for nothing: give it a mesh of size one.
    low, extent = vertices.min(axis=0), max(float(np.ptp(vertices, axis=0).max()), 1e-20)
    atlas = xatlas.Atlas()
    atlas.add_mesh(((vertices - low) / extent).astype(np.float32), mesh.faces.cpu().numpy().astype(np.uint32))
    pack = xatlas.PackOptions()
    pack.resolution = size
    pack.padding = PADDING
    pack.bilinear = True
    pack.blockAlign = True  # a fifth quicker, and the charts fill the square as well
    pack.create_image = False
    atlas.generate(xatlas.ChartOptions(), pack)
    _, indices, uvs = atlas[0]
    return torch.from_numpy(np.clip(uvs[indices.astype(np.int64)], 0.0, 1.0).astype(np.float32))
