"""The rasteriser in plain torch: slow, differentiable through autograd, any dtype and device. Read this one first.

3D Gaussian Splatting (arXiv 2308.04079) with the numbers of gsplat's classic mode. The tests hold the numba kernels
against it; it also serves where numba is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ALPHA_LEAST = 1.0 / 255.0
ALPHA_MOST = 0.999
STOP = 1e-4


class Projected(NamedTuple):
    """The M Gaussians that one view sees, nearest first."""

    ids: Tensor  # [M] which of the N Gaussians
    means2d: Tensor  # [M, 2] pixels
    conics: Tensor  # [M, 3] inverse covariance xx, xy, yy
    depths: Tensor  # [M] along the camera's z
    extents: Tensor  # [M, 2] half sides in pixels of the box in which alpha reaches 1/255


def rotation_matrices(quats: Tensor) -> Tensor:
    """[N, 3, 3] from wxyz quaternions [N, 4] of any length."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def project_gaussians(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    radius_clip: float = 0.0,
) -> Projected:
    """Project [N, ...] Gaussians to one view (EWA splatting) and drop those it cannot see."""
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    with torch.no_grad():
        z = means @ rotation[2] + translation[2]
        ahead = (z >= near_plane) & (z <= far_plane) & (z > 0) & (opacities >= ALPHA_LEAST)
        ahead &= (quats.square().sum(-1) > 0) & torch.isfinite(torch.cat([means, quats, scales], dim=-1)).all(-1)
        index = ahead.nonzero()[:, 0]
    camera = means[index] @ rotation.T + translation
    x, y, z = camera.unbind(-1)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1)
    # The Jacobian of the projection is taken no further out than 1.3 half fields of view about the image's middle.
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    tx = z * (x / z).clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
    ty = z * (y / z).clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([fx / z, zero, -fx * tx / z**2], dim=-1),
            torch.stack([zero, fy / z, -fy * ty / z**2], dim=-1),
        ],
        dim=-2,
    )
    rows = jacobian @ rotation @ (rotation_matrices(quats[index]) * scales[index][:, None, :])
    covariance = rows @ rows.transpose(-1, -2) + eps2d * torch.eye(2, dtype=means.dtype, device=means.device)
    cxx, cxy, cyy = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    det = cxx * cyy - cxy * cxy
    conics = torch.stack([cyy / det, -cxy / det, cxx / det], dim=-1)
    with torch.no_grad():
        edge = torch.log(opacities[index] / ALPHA_LEAST)  # sigma where alpha reaches 1/255
        extents = torch.sqrt(2 * edge[:, None] * torch.stack([cxx, cyy], dim=-1))
        size = means.new_tensor([width, height])
        seen = (extents.ceil() > radius_clip).any(-1) & (extents < 1e8).all(-1) & (det > 0)
        seen &= ((means2d + extents > 0) & (means2d - extents < size)).all(-1) & (means2d.abs() < 1e9).all(-1)
        kept = seen.nonzero()[:, 0]
        kept = kept[torch.argsort(z[kept], stable=True)]
    return Projected(index[kept], means2d[kept], conics[kept], z[kept], extents[kept])


def blend_weights(
    pixels: Tensor, means2d: Tensor, conics: Tensor, opacities: Tensor, before: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights [P, M] of M Gaussians, nearest first, at P pixel centres [P, 2], and the transmittance left [P].

    before: the transmittance [P] that nearer Gaussians left. Of a pixel that has stopped it has a minus sign.
    """
    dx, dy = (pixels[:, None, :] - means2d[None, :, :]).unbind(-1)
    sigma = 0.5 * (conics[:, 0] * dx**2 + conics[:, 2] * dy**2) + conics[:, 1] * dx * dy
    alpha = (opacities * torch.exp(-sigma)).clamp(max=ALPHA_MOST)
    alpha = torch.where((sigma >= 0) & (alpha >= ALPHA_LEAST), alpha, 0.0)
    # A pixel stops at the first Gaussian that would leave it no more than STOP, without taking that one.
    going = before[:, None] * torch.cumprod(1 - alpha, dim=1) > STOP
    alpha = torch.where(going, alpha, 0.0)
    after = before.abs()[:, None] * torch.cumprod(1 - alpha, dim=1)
    earlier = torch.cat([before.abs()[:, None], after[:, :-1]], dim=1)
    return alpha * earlier, torch.where(going[:, -1], after[:, -1], -after[:, -1])


def blend(
    pixels: Tensor, means2d: Tensor, conics: Tensor, opacities: Tensor, values: Tensor, before: Tensor
) -> tuple[Tensor, Tensor]:
    """Values [M, D] blended at P pixel centres [P, D], and the transmittance left as in `blend_weights`."""
    weights, rest = blend_weights(pixels, means2d, conics, opacities, before)
    return weights @ values, rest


def tiles(
    projected: Projected, width: int, height: int, tile_size: int
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Rows, columns, pixel centres [P, 2] of each tile, and which of the M Gaussians [K] touch it."""
    low, high = projected.means2d - projected.extents - 0.02, projected.means2d + projected.extents + 0.02
    for top in range(0, height, tile_size):
        rows = slice(top, min(top + tile_size, height))
        in_row = ((low[:, 1] <= rows.stop - 0.5) & (high[:, 1] >= rows.start + 0.5)).nonzero()[:, 0]
        row_low, row_high = low[in_row, 0], high[in_row, 0]
        for left in range(0, width, tile_size):
            columns = slice(left, min(left + tile_size, width))
            v = torch.arange(rows.start, rows.stop).to(low) + 0.5
            u = torch.arange(columns.start, columns.stop).to(low) + 0.5
            pixels = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1).reshape(-1, 2)
            yield rows, columns, pixels, in_row[(row_low <= columns.stop - 0.5) & (row_high >= columns.start + 0.5)]


def rasterize_reference(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    radius_clip: float = 0.0,
    with_depth: bool = False,
    tile_size: int = 16,
    at_once: int = 4096,
) -> tuple[Tensor, Tensor, list[Projected]]:
    """colours [C, H, W, D (+ 1 with the depth)] without background, alphas [C, H, W, 1], what each view sees.

    Tiles, and no more than `at_once` Gaussians of one at a time, bound the memory and change nothing: a tile of the
    image's size gives the same picture.
    """
    channels = colors.shape[-1] + int(with_depth)
    images, rests, seen = [], [], []
    for view in range(viewmats.shape[0]):
        projected = project_gaussians(
            means, quats, scales, opacities, viewmats[view], Ks[view], width, height, near_plane, far_plane, eps2d,
            radius_clip,
        )  # fmt: skip
        ids, means2d, conics, depths, _ = projected
        values = (colors[view] if colors.ndim == 3 else colors)[ids]
        if with_depth:
            values = torch.cat([values, depths[:, None]], dim=-1)
        image = torch.cat([means.new_zeros(height, width, channels), means.new_ones(height, width, 1)], dim=-1)
        for rows, columns, pixels, touching in tiles(projected, width, height, tile_size):
            if touching.numel() == 0:
                continue
            tile, rest = means.new_zeros(pixels.shape[0], channels), means.new_ones(pixels.shape[0])
            for here in touching.split(at_once):
                # Checkpointing keeps one [P, M] table at a time rather than all of them.
                seen_here, rest = checkpoint(
                    blend, pixels, means2d[here], conics[here], opacities[ids[here]], values[here], rest,
                    use_reentrant=False, preserve_rng_state=False,
                )  # fmt: skip
                tile = tile + seen_here
                if (rest <= 0).all():
                    break
            tile = torch.cat([tile, rest.abs()[:, None]], dim=-1)
            image[rows, columns] = tile.reshape(rows.stop - rows.start, -1, channels + 1)
        images.append(image[..., :-1])
        rests.append(image[..., -1:])
        seen.append(projected)
    return torch.stack(images), 1.0 - torch.stack(rests), seen
