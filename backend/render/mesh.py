"""Pictures of a triangle mesh, differentiable in its vertices: depth, normals and a smooth outline, on any machine.

What a pixel's centre shows is a matter of yes or no and has no gradient. As in nvdiffrast (Laine et al. 2020, arXiv
2011.03277, section 3) it is the antialiasing of the outline that has one: where the outline passes between the centres
of two pixels, it decides how much of the one or the other is covered. Here it is found by walking along the outline's
own edges, not on the face that a pixel shows: with faces smaller than a pixel that is often the wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.errors import BadInput
from backend.render.mesh_edges import MeshEdges
from backend.render.rasterize import numba_present


@dataclass(frozen=True)
class MeshPictures:
    """C pictures of a mesh.

    depth [C, H, W, 1] along the camera's z (0: nothing); normals [C, H, W, 3] of the faces, in the world, unit (0:
    nothing); alphas [C, H, W, 1] in [0, 1], between the two only at the outline; face_ids [C, H, W] int32 (-1: none).
    """

    depth: Tensor
    normals: Tensor
    alphas: Tensor
    face_ids: Tensor


def rasterize_mesh(
    vertices: Tensor,  # [n, 3]
    faces: Tensor,  # [m, 3]
    viewmats: Tensor,  # [C, 4, 4] world to camera, OpenCV axes
    Ks: Tensor,  # [C, 3, 3] pixels
    width: int,
    height: int,
    near_plane: float = 0.01,
    edges: MeshEdges | None = None,  # of these faces, where many pictures are made of them
) -> MeshPictures:
    """Draw a mesh in C views; depth, normals and alphas are differentiable in `vertices`.

    Depth and normals move with the face that a pixel's centre shows, alphas with the outline between covered and
    uncovered pixels. Faces that reach behind the near plane are left out. Both sides of a face show.
    Raises BadInput for shapes and indices that do not fit.
    """
    _check(vertices, faces, viewmats, Ks, width, height)
    edges = edges or MeshEdges.of(faces)
    if numba_present():
        places = (viewmats.detach().to("cpu", torch.float32), Ks.detach().to("cpu", torch.float32))
        moved = vertices.to("cpu", torch.float32)
        triangles = np.ascontiguousarray(faces.detach().cpu().numpy(), np.int32)
        depth, normals, alphas, face_ids = _Draw.apply(moved, triangles, edges, *places, (width, height, near_plane))
    else:
        from backend.render.mesh_reference import draw_reference

        depth, normals, alphas, face_ids = draw_reference(
            vertices, faces, viewmats.to(vertices), Ks.to(vertices), width, height, near_plane, edges
        )
    device = vertices.device
    alphas = alphas.clamp(0.0, 1.0)[..., None]
    return MeshPictures(depth[..., None].to(device), normals.to(device), alphas.to(device), face_ids.to(device))


def _check(vertices: Tensor, faces: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int) -> None:
    views = viewmats.shape[0]
    for name, tensor, shape in (
        ("vertices", vertices, (vertices.shape[0], 3)),
        ("faces", faces, (faces.shape[0], 3)),
        ("viewmats", viewmats, (views, 4, 4)),
        ("Ks", Ks, (views, 3, 3)),
    ):
        if tuple(tensor.shape) != shape:
            raise BadInput(f"Drawing a mesh needs {name} of the shape {shape}, not {tuple(tensor.shape)}.")
    if width < 1 or height < 1:
        raise BadInput(f"A picture needs a width and a height of at least one pixel, not {width} x {height}.")
    if len(faces) and not 0 <= int(faces.min()) <= int(faces.max()) < len(vertices):
        raise BadInput(f"The faces of the mesh name vertices that it has not; it has {len(vertices)}.")


class _Draw(torch.autograd.Function):
    """The numba kernels; everything float32 on the CPU."""

    @staticmethod
    def forward(ctx, vertices, faces, edges, viewmats, Ks, numbers):  # type: ignore[no-untyped-def]
        """-> depth [C, H, W], normals [C, H, W, 3], alphas [C, H, W] (not limited), face_ids [C, H, W]."""
        from backend.render import mesh_numba as kernels
        from backend.render.parallel import run

        width, height, near_plane = numbers
        points = np.ascontiguousarray(vertices.detach().numpy())
        cameras = [_camera(viewmats[view], Ks[view]) for view in range(viewmats.shape[0])]
        count, pixels = len(cameras), (len(cameras), height, width)
        normals = np.zeros((len(faces), 4), np.float32)
        kernels.unit_normals(points, faces, normals)
        screen = np.empty((count, len(points), 3), np.float32)
        face_ids, inverse_depth = np.full(pixels, -1, np.int32), np.zeros(pixels, np.float32)
        shares, crossed = np.zeros((count, 2, *pixels[1:]), np.float32), np.full((count, 2, *pixels[1:]), -1, np.int32)
        depth, alphas = np.zeros(pixels, np.float32), np.zeros(pixels, np.float32)
        picture = np.zeros((*pixels, 3), np.float32)

        def work(view: int) -> None:
            pose, intrinsics = cameras[view]
            areas = np.zeros(len(faces), np.float32)
            seen = screen[view]
            kernels.project_vertices(points, pose, intrinsics, np.float32(near_plane), seen)
            kernels.draw_faces(seen, faces, face_ids[view], inverse_depth[view], areas)
            kernels.find_outline(seen, edges.vertices, edges.faces, areas, face_ids[view], shares[view], crossed[view])
            kernels.shade(
                seen, edges.vertices, normals, face_ids[view], inverse_depth[view], shares[view], crossed[view],
                depth[view], picture[view], alphas[view],
            )  # fmt: skip

        run(work, [(view,) for view in range(count)])
        ctx.kept = (points, faces, edges, cameras, normals, screen, face_ids, inverse_depth, shares, crossed)
        found = [torch.from_numpy(array) for array in (depth, picture, alphas, face_ids)]
        ctx.mark_non_differentiable(found[-1])
        return tuple(found)

    @staticmethod
    def backward(ctx, v_depth, v_normals, v_alphas, _):  # type: ignore[no-untyped-def, override]
        from backend.render import mesh_numba as kernels
        from backend.render.parallel import run

        points, faces, edges, cameras, normals, screen, face_ids, inverse_depth, shares, crossed = ctx.kept
        given = [np.ascontiguousarray(v.numpy()) for v in (v_depth, v_normals, v_alphas)]

        def work(view: int) -> NDArray[np.float32]:
            pose, intrinsics = cameras[view]
            found, out = np.zeros((len(faces), 6), np.float32), np.zeros_like(points)
            kernels.gather_surface(
                screen[view], faces, normals, face_ids[view], inverse_depth[view], pose, intrinsics, given[0][view],
                given[1][view], found,
            )  # fmt: skip
            kernels.spread_surface(points, faces, normals, found, out)
            kernels.outline_backward(
                screen[view], edges.vertices, face_ids[view], shares[view], crossed[view], pose, intrinsics,
                given[2][view], out,
            )  # fmt: skip
            return out

        total = np.zeros_like(points)
        for part in run(work, [(view,) for view in range(len(cameras))]):
            total += part
        return torch.from_numpy(total), None, None, None, None, None


def _camera(viewmat: Tensor, K: Tensor) -> tuple[Any, Any]:
    """view [3, 4] and fx, fy, cx, cy as the kernels take them."""
    numbers = torch.stack([K[0, 0], K[1, 1], K[0, 2], K[1, 2]])
    return np.ascontiguousarray(viewmat[:3].numpy()), numbers.numpy()
