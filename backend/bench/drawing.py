"""Pictures of shapes, meshes and Gaussians for the benchmarks, and how much two of them are alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.metrics import structural_similarity

from backend.bench.shapes import Shape, pattern
from backend.cameras import orbit, world_to_camera_opencv
from backend.datatypes import Cameras, Gaussians, Mesh, TexturedMesh, Views
from backend.render.views import render_gaussians
from backend.surface import topology
from backend.surface.probe import sphere_cameras
from backend.texture.raster import project, rasterize_triangles

FloatArray = NDArray[np.float32]
Colors = Callable[[NDArray, NDArray, NDArray], NDArray]  # faces [p], shares of their corners [p, 3], places [p, 3]

SAMPLES = 3  # a pixel's side is so many samples
SHOWN = 320  # pixels of a picture in a sheet
RADIUS, FOV = 4.4, 30.0


def unseen_cameras(size: int = 320) -> Cameras:
    """Cameras that neither the optimiser's views nor a texture's pictures stand at."""
    azimuths = [17.0, 63.0, 111.0, 158.0, 203.0, 249.0, 292.0, 341.0]
    return orbit(azimuths, torch.tensor([8.0, 33.0, -14.0, 52.0, 3.0, -31.0, 21.0, 68.0]), RADIUS, FOV, size)


def views_of(shape: Shape, count: int, size: int) -> Views:
    """Pictures of the original from all round."""
    cameras = sphere_cameras(count, 1.25, size)
    return Views(torch.from_numpy(_pictures(shape.vertices, shape.faces, _patterned, cameras)), cameras)


def likeness(
    shape: Shape, textured: TexturedMesh, cameras: Cameras, colors_at: Callable[[NDArray], NDArray] = pattern
) -> tuple[float, float]:
    """PSNR and SSIM of pictures of a textured mesh against the original's, over white, the mean over the cameras."""

    def painted(faces: NDArray, shares: NDArray, places: NDArray) -> NDArray:
        return colors_at(places)

    wanted = _over_white(_pictures(shape.vertices, shape.faces, painted, cameras))
    mesh = textured.mesh
    made = _over_white(_pictures(mesh.vertices.double().numpy(), mesh.faces.numpy(), _textured(textured), cameras))
    errors = ((wanted - made) ** 2).mean(axis=(1, 2, 3))
    psnr = float((-10 * np.log10(np.maximum(errors, 1e-10))).mean())
    ssim = [structural_similarity(a, b, channel_axis=0, data_range=1.0) for a, b in zip(wanted, made, strict=True)]
    return psnr, float(np.mean(ssim))


def draw_shape(shape: Shape) -> list[FloatArray]:
    """Three pictures [3, S, S]: nothing, the original's form, the original's colours."""
    nothing = np.ones((3, SHOWN, SHOWN), np.float32)
    return [
        nothing,
        _show(shape.vertices, shape.faces, _shaded(shape.vertices, shape.faces)),
        _show(shape.vertices, shape.faces, _patterned),
    ]


def draw_mesh(mesh: Mesh, textured: TexturedMesh | None) -> list[FloatArray]:
    """Two pictures [3, S, S]: the form, and the colours where there are some."""
    vertices, faces = mesh.vertices.double().numpy(), mesh.faces.numpy()
    pictures = [_show(vertices, faces, _shaded(vertices, faces))]
    if textured is not None:
        pictures.append(_show(vertices, faces, _textured(textured)))
    return pictures


def draw_gaussians(gaussians: Gaussians) -> FloatArray:
    """[3, S, S]."""
    with torch.no_grad():
        return render_gaussians(gaussians, _shown_camera(), background=1.0)[0, :3].clamp(0, 1).numpy()


def sheet(columns: list[tuple[str, list[FloatArray]]]) -> Image.Image:
    """Pictures in columns, each with a title."""
    rows = max(len(pictures) for _, pictures in columns)
    result = Image.new("RGB", (SHOWN * len(columns), SHOWN * rows + 16), "white")
    for column, (title, pictures) in enumerate(columns):
        ImageDraw.Draw(result).text((SHOWN * column + 8, 2), title, fill="black")
        for row, picture in enumerate(pictures):
            pixels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
            result.paste(Image.fromarray(pixels), (SHOWN * column, SHOWN * row + 16))
    return result


def _shown_camera() -> Cameras:
    return orbit([28.0], 22.0, RADIUS, FOV, SHOWN)


def _show(vertices: NDArray, faces: NDArray, colors: Colors) -> FloatArray:
    return _over_white(_pictures(vertices, faces, colors, _shown_camera()))[0]


def _over_white(rgba: FloatArray) -> FloatArray:
    return rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]


def _pictures(vertices: NDArray, faces: NDArray, colors: Colors, cameras: Cameras) -> FloatArray:
    """[V, 4, H, W] straight alpha, with soft edges."""
    fine = cameras.resized(cameras.width * SAMPLES, cameras.height * SAMPLES)
    viewmats = world_to_camera_opencv(fine).numpy()
    result = np.zeros((len(cameras), 4, cameras.height, cameras.width), np.float32)
    for view in range(len(cameras)):
        seen = project(vertices, viewmats[view], fine.intrinsics[view].numpy())
        face_ids, shares, _, _ = rasterize_triangles(seen, faces.astype(np.int32), fine.height, fine.width)
        hit = face_ids >= 0
        shown, share = face_ids[hit], shares[hit]
        places = np.einsum("pk,pkd->pd", share, vertices[faces[shown]])
        image = np.zeros((fine.height, fine.width, 4), np.float32)
        image[hit, :3] = colors(shown, share, places)
        image[hit, 3] = 1.0
        image = image.reshape(cameras.height, SAMPLES, cameras.width, SAMPLES, 4).mean(axis=(1, 3))
        image[..., :3] /= np.maximum(image[..., 3:], 1e-6)
        result[view] = image.transpose(2, 0, 1)
    return result


def _patterned(faces: NDArray, shares: NDArray, places: NDArray) -> NDArray:
    return pattern(places)


def _shaded(vertices: NDArray, triangles: NDArray) -> Colors:
    normals = topology.face_normals(vertices, triangles)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
    light = np.array([0.35, 0.75, 0.55])

    def colors(faces: NDArray, shares: NDArray, places: NDArray) -> NDArray:
        bright = 0.55 + 0.4 * (normals[faces] @ light)
        return np.clip(bright, 0.05, 1.0)[:, None] * np.array([0.9, 0.9, 0.93])

    return colors


def _textured(textured: TexturedMesh) -> Colors:
    corner_uvs, image = textured.corner_uvs.numpy(), textured.base_color.numpy()
    size = image.shape[-1]

    def colors(faces: NDArray, shares: NDArray, places: NDArray) -> NDArray:
        uv = np.einsum("pk,pkd->pd", shares, corner_uvs[faces])
        x = np.clip(uv[:, 0] * size - 0.5, 0, size - 1.001)
        y = np.clip((1 - uv[:, 1]) * size - 0.5, 0, size - 1.001)
        left, top = x.astype(int), y.astype(int)
        right, down = (x - left)[:, None], (y - top)[:, None]
        above = image[:, top, left].T * (1 - right) + image[:, top, left + 1].T * right
        below = image[:, top + 1, left].T * (1 - right) + image[:, top + 1, left + 1].T * right
        return above * (1 - down) + below * down

    return colors
