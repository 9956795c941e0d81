"""uvs for a mesh: cut into parts that xatlas makes charts of side by side, then packed into one square."""

from __future__ import annotations

import numpy as np
import torch
import xatlas
from numpy.typing import NDArray
from torch import Tensor

from backend.datatypes import Mesh
from backend.surface import topology
from backend.texture.pack import pack
from backend.texture.partition import partition

PART = 2500  # faces: xatlas takes longer than in proportion for more, and has a thread for each part
ROUGH = 256  # texels of the packing by xatlas, which is not used: as little work as possible
MIPS = 256  # size of the texture's smallest copy in which no two charts share a texel


def padding_of(size: int) -> int:
    """Texels between charts: one in the mip-map of MIPS texels, and never fewer than bilinear filtering needs."""
    return max(2, size // MIPS)


def unwrap(mesh: Mesh, size: int) -> Tensor:
    """[m, 3, 2]: a uv for each corner, in [0, 1], no two faces over each other, for a texture of size x size.

    Charts have the same number of texels for the same area, and `padding_of(size)` texels between them.
    """
    vertices = mesh.vertices.detach().cpu().double().numpy()
    faces = mesh.faces.cpu().numpy()
    # xatlas takes edges below an absolute length for nothing: give it a mesh of size one.
    low, extent = vertices.min(axis=0), max(float(np.ptp(vertices, axis=0).max()), 1e-20)
    vertices = (vertices - low) / extent
    uvs, charts = _charts(vertices, faces, partition(vertices, faces, PART))
    if not (charts >= 0).any():
        return torch.zeros(len(faces), 3, 2)
    result = _packed(vertices, faces, uvs, charts, size)
    _place_degenerate(result, faces, charts >= 0)
    return torch.from_numpy(result)


def charts_of(faces: NDArray[np.int64], corner_uvs: NDArray[np.float32]) -> NDArray[np.int32]:
    """[m]: the chart of each face in finished uvs [m, 3, 2]: a piece in which corners have vertex and uv in common."""
    corners = np.concatenate([faces.reshape(-1, 1), corner_uvs.reshape(-1, 2).astype(np.float64)], axis=1)
    _, joined = np.unique(corners, axis=0, return_inverse=True)
    joined = joined.reshape(-1, 3)
    return topology.pieces(joined, int(joined.max()) + 1)[1]


def _atlas(vertices: NDArray, faces: NDArray, parts: NDArray[np.int32], size: int, padding: int) -> tuple:
    """The atlas of xatlas with a mesh for each part, and the faces of each part."""
    atlas = xatlas.Atlas()
    order = np.argsort(parts, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(parts[order])) + 1)
    for rows in members:
        points, triangles = topology.compact(vertices, faces[rows])
        atlas.add_mesh(points.astype(np.float32), triangles.astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding = size, padding
    options.bilinear = True
    options.blockAlign = True
    options.create_image = False
    atlas.generate(xatlas.ChartOptions(), options)
    return atlas, members


def _charts(
    vertices: NDArray, faces: NDArray[np.int64], parts: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """uvs [m, 3, 2] in units of the mesh, every chart anywhere; the chart [m] of each face (-1: none)."""
    atlas, members = _atlas(vertices, faces, parts, ROUGH, 0)  # packed again below
    uvs = np.zeros((len(faces), 3, 2))
    charts = np.full(len(faces), -1, np.int64)
    count = 0
    for part, rows in enumerate(members):
        _, indices, places = atlas[part]
        uvs[rows] = (places.astype(np.float64) * [atlas.width, atlas.height])[indices.astype(np.int64)]
        for chart in range(atlas.get_mesh_chart_count(part)):
            charts[rows[atlas.get_mesh_chart(part, chart).faces]] = count
            count += 1
    return uvs, charts


def _packed(
    vertices: NDArray, faces: NDArray[np.int64], uvs: NDArray[np.float64], charts: NDArray[np.int64], size: int
) -> NDArray[np.float32]:
    """[m, 3, 2]: the charts' uvs in the texture."""
    charted = charts >= 0
    corners, chart = vertices[faces[charted]], charts[charted]
    flat = uvs[charted] * _stretch(corners, uvs[charted], chart)[chart][:, None, :]
    result = np.zeros((len(faces), 3, 2), np.float32)
    packed = pack(flat, chart, int(charts.max()) + 1, size, padding_of(size))
    if packed is None:
        atlas, _ = _atlas(vertices, faces, np.zeros(len(faces), np.int32), size, padding_of(size))
        _, indices, places = atlas[0]
        return np.clip(places[indices.astype(np.int64)], 0.0, 1.0).astype(np.float32)
    result[charted] = packed
    return result


def _stretch(corners: NDArray, uvs: NDArray[np.float64], chart: NDArray[np.int64]) -> NDArray[np.float64]:
    """[charts, 2]: what each chart's u and v have to be multiplied by to be as long as the surface is, on the whole.

    xatlas stretches charts to whole texels of its rough packing, and mirrors some: a negative factor turns them back.
    Least squares over the edges: |edge|^2 = a du^2 + b dv^2; then both alike, so that the chart has the area that its
    faces have.
    """
    count = int(chart.max()) + 1
    length = ((corners - np.roll(corners, 1, axis=1)) ** 2).sum(axis=2)
    du, dv = np.moveaxis((uvs - np.roll(uvs, 1, axis=1)) ** 2, 2, 0)

    def summed(values: NDArray) -> NDArray:
        return np.bincount(chart, values.sum(axis=1), minlength=count)

    uu, uv, vv, ul, vl = (summed(values) for values in (du * du, du * dv, dv * dv, du * length, dv * length))
    determinant = uu * vv - uv * uv
    safe = determinant > 1e-9 * uu * vv
    determinant = np.where(safe, determinant, 1.0)
    a, b = (ul * vv - vl * uv) / determinant, (vl * uu - ul * uv) / determinant
    safe &= (a > 0.25 * b) & (b > 0.25 * a)
    factors = np.sqrt(np.where(safe, [a, b], 1.0)).T
    first, second = np.moveaxis(uvs[:, 1:] - uvs[:, :1], 1, 0)
    flat = 0.5 * (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
    solid = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    flat_area = np.bincount(chart, np.abs(flat), minlength=count) * factors.prod(axis=1)
    solid_area = np.bincount(chart, solid, minlength=count)
    factors[:, 0] *= np.where(np.bincount(chart, flat, minlength=count) < 0, -1.0, 1.0)
    return factors * np.sqrt(solid_area / np.maximum(flat_area, 1e-30))[:, None]


def _place_degenerate(uvs: NDArray[np.float32], faces: NDArray[np.int64], charted: NDArray[np.bool_]) -> None:
    """Faces without area, which are in no chart, get one point of a neighbour's."""
    if charted.all() or not charted.any():
        return
    place = np.zeros((int(faces.max()) + 1, 2), np.float32)
    place[faces[charted].reshape(-1)] = uvs[charted].reshape(-1, 2)
    uvs[~charted] = place[faces[~charted][:, :1]]
