"""Depth and normals of the surface that Gaussians describe, for surface extraction. What gsplat does not have.

A Gaussian's centre depth is wrong everywhere but at its centre. Here each pixel takes the depth at which the Gaussian
is densest along the pixel's own ray. To first order those points lie on a plane through the centre with the normal
inverse(covariance) @ (centre as seen from the camera): the disc's own plane for a flat Gaussian, and one that faces the
camera for a round one (as RaDe-GS, arXiv 2406.01467, and for discs PGSR, arXiv 2406.06521). Inverse depth on a plane is
affine over the image, so it is inverse depth that is blended.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.render.gaussian_reference import Projected, blend_weights, project_gaussians, rotation_matrices, tiles
from backend.render.rasterize import check_gaussians, numba_present

REACH = 3.33  # standard deviations along z beyond which a plane is not followed: it may be nearly edge-on


@torch.no_grad()
def rasterization_geometry(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    viewmats: Tensor,  # [C, 4, 4] world to camera, OpenCV axes
    Ks: Tensor,  # [C, 3, 3] pixels
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    median: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Depth [C, H, W, 1] along the camera's z, world normals [C, H, W, 3] towards the camera, alphas [C, H, W, 1].

    The depth is the inverse of the mean inverse depth, weighted as the colours are; with `median` it is that of the
    Gaussian with which half of the light is gone, which does not mix front and back. Depth and normal are 0 where
    nothing is (with `median`: where alpha stays below one half). No gradients. Raises BadInput for shapes that do not
    fit.
    """
    check_gaussians(means, quats, scales, opacities, viewmats, Ks, width, height)
    tensors = [tensor.detach().to("cpu", torch.float32) for tensor in (means, quats, scales, opacities, viewmats, Ks)]
    views = viewmats.shape[0]
    image = torch.zeros(views, height, width, 5)  # normal, mean inverse depth, median inverse depth
    rest = torch.ones(views, height, width)
    for view in range(views):
        if numba_present():
            _with_numba(tensors, view, (width, height, near_plane, far_plane, eps2d), image, rest)
        else:
            cpu_means, cpu_quats, cpu_scales, cpu_opacities, cpu_viewmats, cpu_Ks = tensors
            projected = project_gaussians(
                cpu_means, cpu_quats, cpu_scales, cpu_opacities, cpu_viewmats[view], cpu_Ks[view], width, height,
                near_plane, far_plane, eps2d,
            )  # fmt: skip
            _blend_planes(projected, tensors, view, near_plane, image[view], rest[view])
    alphas = (1.0 - rest)[..., None]
    inverse = image[..., 4:5] if median else image[..., 3:4] / alphas.clamp(min=1e-10)
    depth = torch.where(inverse > 0, 1.0 / inverse.clamp(min=1e-30), 0.0)
    normals = torch.nn.functional.normalize(image[..., :3], dim=-1)
    return depth.to(means.device), normals.to(means.device), alphas.to(means.device)


def surface_planes(
    means: Tensor, quats: Tensor, scales: Tensor, viewmat: Tensor, K: Tensor, near_plane: float
) -> tuple[Tensor, Tensor]:
    """World normals [M, 3] towards the camera, and planes [M, 5] of Gaussians that lie in front of it.

    planes: inverse depth at the projected centre, its slopes in pixels x and y, its least and greatest value.
    """
    rotation = viewmat[:3, :3]
    centre = means @ rotation.T + viewmat[:3, 3]
    axes = rotation @ rotation_matrices(quats)  # columns
    # inverse(covariance) @ centre up to a factor, which keeps a flat Gaussian's zero out of the denominator.
    sizes = scales.abs().clamp(min=1e-12)
    sizes = torch.maximum(sizes, 1e-4 * sizes.amax(-1, keepdim=True))
    share = (sizes.amin(-1, keepdim=True) / sizes) ** 2
    normal = (axes @ (share * (centre[:, None, :] @ axes)[:, 0])[..., None])[..., 0]
    normal = torch.nn.functional.normalize(normal, dim=-1)
    along = (normal * centre).sum(-1).clamp(min=1e-12)
    z = centre[:, 2]
    reach = REACH * ((axes[:, 2] * scales) ** 2).sum(-1).sqrt()
    planes = [
        1.0 / z,
        normal[:, 0] / (K[0, 0] * along),
        normal[:, 1] / (K[1, 1] * along),
        1.0 / (z + reach),
        1.0 / (z - reach).clamp(min=near_plane),
    ]
    return -normal @ rotation, torch.stack(planes, dim=-1)


def _with_numba(tensors: list[Tensor], view: int, numbers: tuple, image: Tensor, rest: Tensor) -> None:
    """Fill image[view] and rest[view] with the kernels that also blend colours."""
    from backend.render.gaussian_numba import RECORD, Settings, blend_view, camera_numbers, project_view

    means, quats, scales, opacities, viewmats, Ks = tensors
    settings = Settings(*numbers)
    records = torch.empty(means.shape[0], RECORD)
    pose = viewmats[view, :3, :4].to(torch.float64).contiguous()
    arrays = [tensor.contiguous().numpy() for tensor in (means, quats, scales, opacities)]
    project_view(arrays, pose.numpy(), camera_numbers(Ks)[view].numpy(), settings, records.numpy())
    seen = (records[:, 7] > 0).nonzero()[:, 0]
    normals, planes = torch.zeros(means.shape[0], 3), torch.zeros(means.shape[0], 5)
    normals[seen], planes[seen] = surface_planes(
        means[seen], quats[seen], scales[seen], viewmats[view], Ks[view], settings.near_plane
    )
    blend_view(records.numpy(), normals.numpy(), planes.numpy(), 2, settings, image[view].numpy(), rest[view].numpy())


def _blend_planes(
    projected: Projected, tensors: list[Tensor], view: int, near_plane: float, image: Tensor, rest: Tensor
) -> None:
    """The same in plain torch for one view: image [H, W, 5], rest [H, W]."""
    means, quats, scales, opacities, viewmats, Ks = tensors
    ids = projected.ids
    normals, planes = surface_planes(means[ids], quats[ids], scales[ids], viewmats[view], Ks[view], near_plane)
    for rows, columns, pixels, here in tiles(projected, image.shape[1], image.shape[0], 16):
        if here.numel() == 0:
            continue
        centre, plane = projected.means2d[here], planes[here]
        weights, left = blend_weights(pixels, centre, projected.conics[here], opacities[ids[here]])
        offset = pixels[:, None, :] - centre[None, :, :]
        inverse = plane[:, 0] + (offset * plane[:, 1:3]).sum(-1)
        inverse = inverse.clamp(plane[:, 3], plane[:, 4])
        passed = weights.cumsum(dim=1)
        crossing = (weights > 0) & (passed >= 0.5) & (passed - weights < 0.5)
        values = [weights @ normals[here], (weights * inverse).sum(1, keepdim=True)]
        values.append((crossing * inverse).sum(1, keepdim=True))
        size = (rows.stop - rows.start, columns.stop - columns.start)
        image[rows, columns] = torch.cat(values, dim=-1).reshape(*size, 5)
        rest[rows, columns] = left.reshape(size)
