"""Depth and normals of the surface that Gaussians describe, for surface extraction. What gsplat does not have.

A Gaussian's centre depth is wrong everywhere but at its centre. Here each pixel takes the depth at which the Gaussian
is densest along the pixel's own ray. To first order those points lie on a plane through the centre with the normal
inverse(covariance) @ (centre as seen from the camera): the disc's own plane for a flat Gaussian, and one that faces the
camera for a round one (as RaDe-GS, arXiv 2406.01467, and for discs PGSR, arXiv 2406.06521). Inverse depth on a plane is
affine over the image, so it is inverse depth that is blended.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backend.render.gaussian_checks import check_colors, check_gaussians
from backend.render.gaussian_reference import Projected, blend_weights, project_gaussians, rotation_matrices, tiles
from backend.render.parallel import numba_present

REACH = 3.33  # standard deviations along z beyond which a plane is not followed: it may be nearly edge-on
_AT_ONCE = 4096  # Gaussians of a tile at a time, without numba


class Surface(NamedTuple):
    """What C views see of the Gaussians' surface; everything is 0 where nothing is."""

    colors: Tensor  # [C, H, W, D] as `rasterization` blends them, without a background
    depth: Tensor  # [C, H, W, 1] along the camera's z
    normals: Tensor  # [C, H, W, 3] world, towards the camera, unit length
    alphas: Tensor  # [C, H, W, 1]


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
    """Depth, normals and alphas as in `rasterization_surface`, without colours."""
    surface = rasterization_surface(
        means, quats, scales, opacities, means[:, :0], viewmats, Ks, width, height, near_plane, far_plane, eps2d, median
    )
    return surface.depth, surface.normals, surface.alphas


@torch.no_grad()
def rasterization_surface(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    colors: Tensor,  # [N, D] or [C, N, D]
    viewmats: Tensor,  # [C, 4, 4] world to camera, OpenCV axes
    Ks: Tensor,  # [C, 3, 3] pixels
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    median: bool = False,
) -> Surface:
    """Colours, depth, normals and alphas in one pass.

    The depth is the inverse of the mean inverse depth, weighted as the colours are; with `median` it is that of the
    Gaussian with which half of the light is gone, which does not mix front and back. Depth and normal are 0 where
    nothing is (with `median`: where alpha stays below one half). No gradients. Raises BadInput for shapes that do not
    fit.
    """
    check_gaussians(means, quats, scales, opacities, viewmats, Ks, width, height)
    check_colors(colors, means.shape[0], viewmats.shape[0])
    tensors = [tensor.detach().to("cpu", torch.float32) for tensor in (means, quats, scales, opacities, colors)]
    cpu_means, cpu_quats, cpu_scales, cpu_opacities, cpu_colors = tensors
    cpu_viewmats, cpu_Ks = viewmats.detach().to("cpu", torch.float32), Ks.detach().to("cpu", torch.float32)
    if numba_present():
        from backend.render.gaussian_numba import Settings
        from backend.render.gaussian_numba_planes import blend_planes_numba

        settings = Settings(width, height, near_plane, far_plane, eps2d)
        image, rest = blend_planes_numba(tensors, cpu_viewmats, cpu_Ks, settings, REACH)
    else:
        image = torch.zeros(viewmats.shape[0], height, width, colors.shape[-1] + 5)
        rest = torch.ones(viewmats.shape[0], height, width)
        for view in range(viewmats.shape[0]):
            projected = project_gaussians(
                cpu_means, cpu_quats, cpu_scales, cpu_opacities, cpu_viewmats[view], cpu_Ks[view], width, height,
                near_plane, far_plane, eps2d,
            )  # fmt: skip
            values = cpu_colors[view] if colors.ndim == 3 else cpu_colors
            _blend_planes(
                projected, tensors, values, cpu_viewmats[view], cpu_Ks[view], near_plane, image[view], rest[view]
            )
    alphas = (1.0 - rest)[..., None]
    inverse = image[..., -1:] if median else image[..., -2:-1] / alphas.clamp(min=1e-10)
    depth = torch.where(inverse > 0, 1.0 / inverse.clamp(min=1e-30), 0.0)
    normals = torch.nn.functional.normalize(image[..., -5:-2], dim=-1)
    return Surface(*(tensor.to(means.device) for tensor in (image[..., :-5], depth, normals, alphas)))


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


def _blend_planes(
    projected: Projected,
    tensors: list[Tensor],
    colors: Tensor,
    viewmat: Tensor,
    K: Tensor,
    near_plane: float,
    image: Tensor,
    rest: Tensor,
) -> None:
    """One view in plain torch: image [H, W, D + 5] (colours, normals, mean and median inverse depth), rest [H, W]."""
    means, quats, scales, opacities, _ = tensors
    ids = projected.ids
    normals, planes = surface_planes(means[ids], quats[ids], scales[ids], viewmat, K, near_plane)
    constants = torch.cat([colors[ids], normals], dim=-1)
    for rows, columns, pixels, touching in tiles(projected, image.shape[1], image.shape[0], 16):
        if touching.numel() == 0:
            continue
        left, values = torch.ones(pixels.shape[0]), torch.zeros(pixels.shape[0], image.shape[-1])
        for here in touching.split(_AT_ONCE):
            centre, plane = projected.means2d[here], planes[here]
            before = left
            weights, left = blend_weights(pixels, centre, projected.conics[here], opacities[ids[here]], before)
            offset = pixels[:, None, :] - centre[None, :, :]
            inverse = plane[:, 0] + (offset * plane[:, 1:3]).sum(-1)
            inverse = inverse.clamp(plane[:, 3], plane[:, 4])
            light = before.abs()[:, None] - weights.cumsum(dim=1)  # after each Gaussian
            crossing = (weights > 0) & (light <= 0.5) & (light + weights > 0.5)
            values[:, :-2] += weights @ constants[here]
            values[:, -2] += (weights * inverse).sum(1)
            values[:, -1] += (crossing * inverse).sum(1)
        size = (rows.stop - rows.start, columns.stop - columns.start)
        image[rows, columns] = values.reshape(*size, -1)
        rest[rows, columns] = left.abs().reshape(size)
