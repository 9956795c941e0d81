"""A base colour texture for a mesh from the Gaussians it was made of: unwrap, look from all round, solve, fill."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray

from backend.datatypes import Gaussians, Mesh, Step, TexturedMesh
from backend.errors import BadInput
from backend.render import parallel
from backend.texture.fill import TRUST, extend, spread_over_mesh
from backend.texture.mean import splat_mean
from backend.texture.observe import Observations, observe
from backend.texture.paint import colors_of, paint
from backend.texture.raster import draw_colors
from backend.texture.scene import TOLERANCE, Scene
from backend.texture.seams import seam_points
from backend.texture.solve import solve
from backend.texture.unwrap import unwrap

FloatArray = NDArray[np.float32]

CAMERAS = 32
VIEWS_PER_STEP = 4
STEPS = CAMERAS // VIEWS_PER_STEP + 2
SOLVED = 2048  # texels of a side that the largest pictures can feed; larger textures are enlarged from that
VERTEX_VIEW = 512  # pixels of the pictures for colours of vertices


def bake_texture(
    gaussians: Gaussians, mesh: Mesh, size: int = 1024, *, sharpen: bool = True
) -> Generator[Step, None, TexturedMesh]:
    """The mesh with uvs and a base colour of size x size texels.

    sharpen: solve for the texels that reproduce the pictures best; without it, take their weighted mean.
    Raises BadInput where the Gaussians have no colour to give, the mesh no faces, or size is out of range.
    """
    if not 16 <= size <= 8192:
        raise BadInput(f"The texture's size must lie between 16 and 8192, not {size}.")
    wanted, size = size, min(size, SOLVED)
    scene = Scene.of(gaussians, mesh)
    corner_uvs = unwrap(mesh, size)
    yield Step(1, STEPS, "Unwrapping the mesh")

    uvs = corner_uvs.numpy()
    sums = np.zeros((len(scene.vertices), 5), np.float32)
    parts: list[Observations] = []
    cameras = scene.cameras(CAMERAS, view_size(size))
    for start in range(0, CAMERAS, VIEWS_PER_STEP):
        pictures = list(scene.pictures(cameras[start : start + VIEWS_PER_STEP]))
        for picture in pictures:
            paint(scene.vertices, scene.normals, picture, TOLERANCE, sums)
        work = [(picture, scene.vertices, scene.faces, scene.normals, uvs, size, TOLERANCE) for picture in pictures]
        parts += parallel.run(observe, work)
        yield Step(2 + start // VIEWS_PER_STEP, STEPS, "Painting the texture")

    observations = Observations.together(parts)
    image = np.zeros((3, size, size), np.float32)
    covered = np.zeros((size, size), np.bool_)
    draw_colors(uvs, _vertex_colors(scene, sums)[scene.faces], image, covered)
    trust = splat_mean(observations, image, covered, 0.2 * TRUST)
    extend(image, covered)
    if sharpen:
        seams = seam_points(scene.faces.astype(np.int64), uvs, size)
        solve(image, observations, trust, seams)
        covered.reshape(-1)[seams.texels] = True  # the borders' outer texels are solved for too
        extend(image, covered)
    texture = torch.from_numpy(np.clip(image, 0.0, 1.0))
    if wanted > size:
        texture = torch.nn.functional.interpolate(texture[None], size=(wanted, wanted), mode="bilinear")[0]
    return TexturedMesh(mesh, corner_uvs, texture)


def bake_vertex_colors(gaussians: Gaussians, mesh: Mesh) -> torch.Tensor:
    """[n, 3] sRGB in [0, 1]: a colour for each of the mesh's vertices.

    Raises BadInput where the Gaussians have no colour to give, or the mesh no faces.
    """
    scene = Scene.of(gaussians, mesh)
    sums = np.zeros((len(scene.vertices), 5), np.float32)
    for picture in scene.pictures(scene.cameras(CAMERAS, VERTEX_VIEW)):
        paint(scene.vertices, scene.normals, picture, TOLERANCE, sums)
    return torch.from_numpy(_vertex_colors(scene, sums))


def view_size(size: int) -> int:
    """Pixels along the side of the pictures for a texture of `size` texels."""
    return max(min(size, 512), min(size // 2, 1024), 128)


def _vertex_colors(scene: Scene, sums: FloatArray) -> FloatArray:
    colors, weights = colors_of(sums)
    return spread_over_mesh(colors, weights[:, 0], scene.faces.astype(np.int64), scene.mean)
