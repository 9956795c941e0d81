"""Rasterisation of 3D Gaussians with the meaning and the argument names of `gsplat.rasterization`, on any device.

CUDA tensors go to gsplat where its compiled extension is already installed (nothing is ever compiled here); everything
else goes through the project's numba kernels on the CPU, or through plain torch where numba is missing.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from backend.errors import BadInput
from backend.render.gaussian_checks import check_colors, check_gaussians, expect_shape
from backend.render.gaussian_reference import Projected, rasterize_reference
from backend.render.geometry import rasterization_geometry
from backend.render.parallel import numba_present

RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")
TILE_SIZE = 16


def rasterization(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4] wxyz, of any length but zero
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    colors: Tensor,  # [N, D] or [C, N, D]
    viewmats: Tensor,  # [C, 4, 4] world to camera, OpenCV axes
    Ks: Tensor,  # [C, 3, 3] pixels
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int = TILE_SIZE,
    backgrounds: Tensor | None = None,  # [C, D]
    render_mode: str = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: str = "classic",
    channel_chunk: int = 32,
    distributed: bool = False,
    camera_model: str = "pinhole",
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Render N Gaussians to C views, as `gsplat.rasterization` does in its classic mode.

    Returns render_colors [C, H, W, X], render_alphas [C, H, W, 1] and meta. X is D for "RGB", 1 for "D" (depth along
    the camera's z, summed with the colours' weights) and "ED" (the same divided by alpha), D + 1 for "RGB+D" and
    "RGB+ED".
    Pixel (0, 0) has its centre at (0.5, 0.5). Gaussians that a view cannot see, or that are not finite, are left out.
    Differentiable in means, quats, scales, opacities, colors and backgrounds. meta (without gradients): radii
    [C, N, 2] int32 (0: not seen), means2d [C, N, 2], depths [C, N], conics [C, N, 3], opacities [C, N], and the sizes.

    packed, tile_size and channel_chunk change no result and are taken for compatibility.
    Raises BadInput for shapes that do not fit, and for what only gsplat itself can do.
    """
    check_gaussians(means, quats, scales, opacities, viewmats, Ks, width, height)
    check_colors(colors, means.shape[0], viewmats.shape[0])
    if backgrounds is not None:
        expect_shape("backgrounds", backgrounds, (viewmats.shape[0], *colors.shape[-1:]))
    if render_mode not in RENDER_MODES:
        raise BadInput(f"render_mode must be one of {', '.join(RENDER_MODES)}, not {render_mode}.")
    unsupported = {
        "sh_degree": sh_degree is not None,
        "rasterize_mode": rasterize_mode != "classic",
        "camera_model": camera_model != "pinhole",
        "sparse_grad": sparse_grad,
        "absgrad": absgrad,
        "distributed": distributed,
    }
    for name, asked in unsupported.items():
        if asked:
            raise BadInput(f"The rasteriser does not support {name}; give plain colours and a pinhole camera.")
    if (viewmats.requires_grad or Ks.requires_grad) and torch.is_grad_enabled():
        raise BadInput("The rasteriser gives no gradients to cameras; detach viewmats and Ks.")

    gsplat = compiled_gsplat() if means.is_cuda else None
    if gsplat is not None:
        return gsplat.rasterization(
            means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane=near_plane,
            far_plane=far_plane, radius_clip=radius_clip, eps2d=eps2d, packed=False, backgrounds=backgrounds,
            render_mode=render_mode,
        )  # fmt: skip

    with_depth = render_mode != "RGB"
    if render_mode in ("D", "ED"):
        colors = colors[..., :0]
    if numba_present():
        from backend.render.gaussian_numba import Settings, rasterize_numba, whole_radii_of

        settings = Settings(width, height, near_plane, far_plane, eps2d, radius_clip, with_depth)
        image, alphas, records = rasterize_numba(
            [tensor.to("cpu", torch.float32) for tensor in (means, quats, scales, opacities, colors)],
            viewmats.to("cpu"),
            Ks.to("cpu"),
            settings,
        )
        image, alphas = image.to(means.device), alphas.to(means.device)
        meta = _meta_of_records(records.to(means.device), whole_radii_of(records).to(means.device))
    else:
        image, alphas, seen = rasterize_reference(
            means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane, far_plane, eps2d,
            radius_clip, with_depth,
        )  # fmt: skip
        meta = _meta_of_projected(seen, means.detach(), opacities.detach())
    meta.update(width=width, height=height, tile_size=TILE_SIZE, n_cameras=viewmats.shape[0])
    meta.update(tile_width=-(-width // TILE_SIZE), tile_height=-(-height // TILE_SIZE))

    if render_mode.endswith("ED"):
        depth = image[..., -1:] / alphas.clamp(min=1e-10)
        image = torch.cat([image[..., :-1], depth], dim=-1)
    if backgrounds is not None and image.shape[-1] > int(with_depth):
        # The depth behind everything is 0.
        padded = torch.nn.functional.pad(backgrounds, (0, int(with_depth)))
        image = image + (1.0 - alphas) * padded[:, None, None, :].to(image)
    return image, alphas, meta


def warm_up(backward: bool = False) -> None:
    """Compile the kernels, or load them from their cache, so that the first picture does not wait for it."""
    means = torch.zeros(1, 3, requires_grad=backward)
    quats, scales = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.full((1, 3), 0.1)
    opacities, colors = torch.ones(1), torch.ones(1, 3)
    viewmats = torch.eye(4)[None].clone()
    viewmats[:, 2, 3] = 2.0
    Ks = torch.tensor([[[16.0, 0.0, 8.0], [0.0, 16.0, 8.0], [0.0, 0.0, 1.0]]])
    image, _, _ = rasterization(means, quats, scales, opacities, colors, viewmats, Ks, 16, 16)
    if backward:
        image.sum().backward()
    rasterization_geometry(means.detach(), quats, scales, opacities, viewmats, Ks, 16, 16)


@functools.cache
def compiled_gsplat() -> ModuleType | None:
    """gsplat, if it is installed together with its compiled extension.

    Without that extension gsplat would set off a compiler on its first use; that is left to the user.
    """
    try:
        importlib.import_module("gsplat.csrc")
        return importlib.import_module("gsplat")
    except Exception:  # not there, or built for another torch or CUDA: either way it cannot be used
        return None


def _meta_of_records(records: Tensor, radii: Tensor) -> dict[str, Any]:
    return {
        "radii": radii,
        "means2d": records[..., 0:2],
        "conics": records[..., 2:5],
        "opacities": records[..., 5],
        "depths": records[..., 6],
    }


def _meta_of_projected(seen: list[Projected], means: Tensor, opacities: Tensor) -> dict[str, Any]:
    def scatter(values: list[Tensor]) -> Tensor:
        out = means.new_zeros(len(seen), means.shape[0], *values[0].shape[1:])
        for view, value in enumerate(values):
            out[view, seen[view].ids] = value.detach()
        return out

    return {
        "radii": scatter([p.extents for p in seen]).ceil().to(torch.int32),
        "means2d": scatter([p.means2d for p in seen]),
        "conics": scatter([p.conics for p in seen]),
        "opacities": scatter([opacities[p.ids] for p in seen]),
        "depths": scatter([p.depths for p in seen]),
    }
