"""A base colour texture for a mesh from the Gaussians it was made of: unwrap, look from all round, paint, fill."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray

from backend.cameras import world_to_camera_opencv
from backend.datatypes import Cameras, Gaussians, Mesh, Step, TexturedMesh
from backend.errors import BadInput
from backend.render.rasterize import rasterization
from backend.surface import topology
from backend.surface.clean import prepare
from backend.surface.cover import cover
from backend.surface.probe import sphere_cameras
from backend.texture.fill import TRUST, extend, spread_over_mesh
from backend.texture.paint import Picture, colors_of, paint
from backend.texture.raster import project, rasterize_triangles
from backend.texture.unwrap import unwrap

FloatArray = NDArray[np.float32]

CAMERAS = 32
VIEWS_PER_STEP = 4
TOLERANCE = 0.06  # how far the Gaussians' depth may lie off the mesh, in the frame where the object is 1.8 wide
STEPS = CAMERAS // VIEWS_PER_STEP + 2


def bake_texture(gaussians: Gaussians, mesh: Mesh, size: int = 1024) -> Generator[Step, None, TexturedMesh]:
    """The mesh with uvs and a base colour of size x size texels.

    Raises BadInput where the Gaussians have no colour to give, the mesh no faces, or size is out of range.
    """
    if not 16 <= size <= 8192:
        raise BadInput(f"The texture's size must lie between 16 and 8192, not {size}.")
    if mesh.faces.shape[0] == 0:
        raise BadInput("The mesh has no faces to paint.")
    cloud, frame = prepare(gaussians)
    cloud = cover(cloud).gaussians
    corner_uvs = unwrap(mesh, size)
    yield Step(1, STEPS, "Unwrapping the mesh")

    vertices = ((mesh.vertices.detach().cpu() - frame.center) * frame.scale).double().numpy()
    faces = mesh.faces.cpu().numpy()
    normals = topology.vertex_normals(vertices, faces)
    texel_faces, barycentric = _layout(corner_uvs.numpy(), size)
    covered = texel_faces >= 0
    corners = faces[texel_faces[covered]]
    shares = barycentric[covered]

    def over_texels(values: NDArray) -> FloatArray:
        """Vertex values [n, D] interpolated at the covered texels [t, D]."""
        return np.einsum("tk,tkd->td", shares, values[corners].astype(np.float32)).astype(np.float32)

    # Texels first, then the vertices, which carry colour to where no texel was seen.
    points = np.concatenate([over_texels(vertices), vertices.astype(np.float32)])
    directions = np.concatenate([over_texels(normals), normals.astype(np.float32)])
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-6)
    sums = np.zeros((len(points), 5), np.float32)
    radius = float(np.linalg.norm(vertices, axis=1).max())
    cameras = sphere_cameras(CAMERAS, radius, min(max(size // 2, 128), 768))
    for start in range(0, CAMERAS, VIEWS_PER_STEP):
        for picture in _pictures(cloud, cameras[start : start + VIEWS_PER_STEP], vertices, faces):
            paint(points, directions, picture, TOLERANCE, sums)
        yield Step(2 + start // VIEWS_PER_STEP, STEPS, "Painting the texture")

    colors, weights = colors_of(sums)
    texels = len(shares)
    mean = np.average(cloud.colors.numpy(), axis=0, weights=cloud.opacities.numpy())
    of_vertices = spread_over_mesh(colors[texels:], weights[texels:, 0], faces, mean)
    blend = weights[:texels] / (weights[:texels] + 0.2 * TRUST)
    image = np.zeros((size, size, 3), np.float32)
    image[covered] = blend * colors[:texels] + (1 - blend) * over_texels(of_vertices)
    image = np.clip(extend(image, covered), 0.0, 1.0)
    return TexturedMesh(mesh, corner_uvs, torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))


def _layout(corner_uvs: FloatArray, size: int) -> tuple[NDArray[np.int32], FloatArray]:
    """The face [S, S] (-1: none) that each texel paints, and where on it [S, S, 3]. Row 0 is the top, v = 1."""
    flat = corner_uvs.reshape(-1, 2)
    xyz = np.stack([flat[:, 0] * size, (1 - flat[:, 1]) * size, np.ones(len(flat))], axis=1)
    corners = np.arange(len(flat), dtype=np.int32).reshape(-1, 3)
    face_ids, barycentric, _, _ = rasterize_triangles(xyz.astype(np.float32), corners, size, size)
    return face_ids, barycentric


def _pictures(
    cloud: Gaussians, cameras: Cameras, vertices: NDArray, faces: NDArray[np.int64]
) -> Generator[Picture, None, None]:
    viewmats = world_to_camera_opencv(cameras)
    with torch.no_grad():
        colors, alphas, _ = rasterization(
            cloud.means,
            cloud.quats,
            cloud.scales,
            cloud.opacities,
            cloud.colors,
            viewmats,
            cameras.intrinsics,
            cameras.width,
            cameras.height,
            render_mode="RGB+ED",
        )
    for view in range(len(cameras)):
        viewmat, intrinsics = viewmats[view].numpy(), cameras.intrinsics[view].numpy()
        alpha = alphas[view, ..., 0].numpy()
        seen = project(vertices, viewmat, intrinsics)
        _, _, mesh_depth, _ = rasterize_triangles(seen, faces.astype(np.int32), cameras.height, cameras.width)
        yield Picture(
            viewmat,
            intrinsics,
            cameras.camera_to_world[view, :3, 3].numpy(),
            colors[view, ..., :3].numpy() / np.maximum(alpha, 1e-4)[..., None],
            alpha,
            np.ascontiguousarray(colors[view, ..., 3].numpy()),
            mesh_depth,
        )
