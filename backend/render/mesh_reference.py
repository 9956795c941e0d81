"""The mesh rasteriser in plain torch: the numba kernels must agree with it; it stands in where numba is missing.

Every face is tried at every pixel; gradients are autograd's, in the precision of `vertices`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.render.mesh_edges import MeshEdges

CRACK = -1e-5
GRAZING = 1e-3
_AT_ONCE = 1 << 22  # (pixel, face) pairs


def draw_reference(
    vertices: Tensor,
    faces: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float,
    edges: MeshEdges,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """depth [C, H, W], normals [C, H, W, 3], alphas [C, H, W] (not limited to [0, 1]), face_ids [C, H, W] int32."""
    corners = vertices[faces]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=-1)
    normals = normals / normals.norm(dim=-1, keepdim=True).clamp(min=1e-20)
    pictures = []
    for viewmat, K in zip(viewmats, Ks, strict=True):
        local = vertices @ viewmat[:3, :3].T + viewmat[:3, 3]
        depth = local[:, 2].clamp(min=near_plane)
        screen = torch.stack([local[:, 0] / depth * K[0, 0] + K[0, 2], local[:, 1] / depth * K[1, 1] + K[1, 2]], dim=-1)
        before = (local[:, 2] > near_plane)[faces].all(dim=1)
        areas = torch.where(before, _cross(screen[faces[:, 1]] - screen[faces[:, 0]],
                                           screen[faces[:, 2]] - screen[faces[:, 0]]), 0.0)  # fmt: skip
        face_ids = _nearest(screen.detach(), 1.0 / depth.detach(), faces, areas.detach(), width, height)
        alpha = (face_ids >= 0).to(vertices)
        for axis in (0, 1):
            alpha = alpha + _outline(screen, edges, areas.detach(), face_ids, axis)
        pictures.append((*_surface(local, normals, faces, face_ids, K), alpha, face_ids))
    found = [torch.stack(parts) for parts in zip(*pictures, strict=True)]
    return found[0], found[1], found[2], found[3]


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _nearest(screen: Tensor, inverse: Tensor, faces: Tensor, areas: Tensor, width: int, height: int) -> Tensor:
    """[H, W] int32: the nearest face at each pixel's centre, -1 for none."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([column, row], dim=-1).reshape(-1, 1, 2).to(screen) + 0.5
    found = torch.full((height * width,), -1, dtype=torch.int32, device=screen.device)
    nearest = screen.new_zeros(height * width)
    drawn = (areas.abs() > 0).nonzero()[:, 0]
    for chosen in drawn.split(max(_AT_ONCE // (height * width), 1)):
        a, b, c = screen[faces[chosen]].unbind(dim=1)
        wb = _cross(pixels - a, c - a) / areas[chosen]
        wc = _cross(b - a, pixels - a) / areas[chosen]
        weights = torch.stack([1 - wb - wc, wb, wc], dim=-1)
        here = (weights * inverse[faces[chosen]]).sum(dim=-1)
        here = torch.where((weights >= CRACK).all(dim=-1), here, 0.0)
        best, which = here.max(dim=1)
        closer = best > nearest
        nearest = torch.where(closer, best, nearest)
        found = torch.where(closer, chosen[which].to(torch.int32), found)
    return found.reshape(height, width)


def _surface(local: Tensor, normals: Tensor, faces: Tensor, face_ids: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """depth [H, W] where the pixels' rays meet the planes of the faces that they show, and normals [H, W, 3]."""
    rows, columns = (face_ids >= 0).nonzero(as_tuple=True)
    shown = face_ids[rows, columns].long()
    a, b, c = local[faces[shown]].unbind(dim=1)
    x, y = (columns + 0.5 - K[0, 2]) / K[0, 0], (rows + 0.5 - K[1, 2]) / K[1, 1]
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    across = torch.linalg.cross(b - a, c - a, dim=-1)
    along = (across * rays).sum(dim=-1)
    least = GRAZING * across.norm(dim=-1)
    along = torch.where(along < 0, torch.minimum(along, -least), torch.maximum(along, least))
    size = face_ids.shape
    depth = local.new_zeros(size).index_put((rows, columns), (across * a).sum(dim=-1) / along)
    return depth, local.new_zeros(*size, 3).index_put((rows, columns), normals[shown])


def _outline(screen: Tensor, edges: MeshEdges, areas: Tensor, face_ids: Tensor, axis: int) -> Tensor:
    """[H, W]: what alpha gains where the outline passes between a pixel and its right (axis 0) or lower (1) one."""
    if axis == 1:  # the same with x and y exchanged, which turns every face round
        return _outline(screen.flip(-1), edges, -areas, face_ids.T, 0).T
    change = screen.new_zeros(face_ids.shape)
    vertices, faces = torch.from_numpy(edges.vertices).long(), torch.from_numpy(edges.faces).long()
    side = areas[faces[:, 0]]
    other = torch.where(faces[:, 1] >= 0, areas[faces[:, 1]], 0.0)
    folded = (side.sign() * other.sign() <= 0) & ((side != 0) | (other != 0))
    side = torch.where(side == 0, -other, side)
    start, end = screen[vertices].unbind(dim=1)
    flat = start[:, 1] == end[:, 1]
    chosen = (folded & ~flat).nonzero()[:, 0]
    start, end, side = start[chosen], end[chosen], side[chosen]
    step = end - start
    weight = (step[:, 1] ** 2 / (step**2).sum(dim=-1)).detach()
    slope = step[:, 0] / step[:, 1]

    covered = face_ids >= 0
    rows, left = (covered[:, :-1] != covered[:, 1:]).nonzero(as_tuple=True)
    if len(rows) == 0 or len(chosen) == 0:
        return change
    left_covered = covered[rows, left][:, None]
    y = (rows + 0.5).to(screen)[:, None]
    x = start[:, 0] + (y - start[:, 1]) * slope - 0.5 - left[:, None]
    to_right = (side > 0) == (step[:, 1] < 0)
    low, high = torch.minimum(start[:, 1], end[:, 1]), torch.maximum(start[:, 1], end[:, 1])
    # A crossing at a centre itself belongs to the pair of which that pixel is the covered one.
    between = torch.where(left_covered, (x >= 0) & (x < 1), (x > 0) & (x <= 1))
    crosses = (y >= low) & (y <= high) & between & (to_right[None] != left_covered)
    share = torch.where(left_covered, x, 1 - x)
    share, which = torch.where(crosses, share, -1.0).max(dim=1)
    gain = torch.where(crosses.any(dim=1), (share - 0.5) * weight[which], 0.0)
    # More than halfway: the uncovered pixel gains; less: the covered one loses.
    column = torch.where((gain > 0) == left_covered[:, 0], left + 1, left)
    return change.index_put((rows, column), gain, accumulate=True)
