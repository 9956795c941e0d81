"""What the adapters of published view generators share: previews of latents, and alpha for what they paint."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from backend.datatypes import CANONICAL_SIZE
from backend.errors import BadInput, UnsupportedDevice

# Colours of the four channels of Stable Diffusion's latents: a linear guess at its decoder, a thousand times as quick.
_LATENT_COLORS = (
    (0.3512, 0.2297, 0.3227),
    (0.3250, 0.4974, 0.2350),
    (-0.2829, 0.1762, 0.2721),
    (-0.2120, -0.2616, -0.7177),
)
_PREVIEW_SIDE = 160  # pixels


def checked_picture(image: Tensor | None, model: str, multiple: int = 1) -> Tensor:
    """The prepared picture [4, S, S] that a model sees, on the CPU. Raises BadInput where it is none."""
    if image is None:
        raise BadInput(f"{model} makes views of a picture, and there is none.", "Choose a picture.")
    side = image.shape[-1]
    if tuple(image.shape) != (4, side, side) or side % multiple or side < multiple:
        sides = f"S, S] with S a multiple of {multiple}" if multiple > 1 else "S, S]"
        raise BadInput(f"The picture must be [4, {sides}, not {tuple(image.shape)}.", "Prepare it first.")
    return image.cpu()


def latent_preview(latents: Tensor, gain: float = 1.0) -> Tensor:
    """[V, 4, h, w] RGBA on the CPU, of latents [V, 4, h, w] times the VAE's factor, enlarged to be looked at.

    gain: what the decoder's pictures are multiplied by.
    """
    colors = latents.new_tensor(_LATENT_COLORS)
    rgb = torch.einsum("vchw,cd->vdhw", latents.float(), colors.float()) * (gain / 2) + 0.5
    scale = max(1, round(_PREVIEW_SIDE / rgb.shape[-1]))
    rgb = F.interpolate(rgb.clamp(0, 1), scale_factor=scale, mode="bilinear").clamp(0, 1).cpu()  # its weights round
    return torch.cat([rgb, torch.ones_like(rgb[:, :1])], 1)


def checked_latents(latents: Tensor) -> Tensor:
    """The latents. Raises UnsupportedDevice where the device made no numbers of them: pictures would come out black."""
    if not bool(latents.isfinite().all()):
        raise UnsupportedDevice(
            f"This machine's {latents.device.type.upper()} device gave no numbers in half precision.",
            "Update its driver, or use the CPU or the recipe 'starter'.",
        )
    return latents


def cut_from_background(picture: Tensor) -> Tensor:
    """[4, H, W] straight RGBA of a painted picture [3, H, W] in [0, 1] that stands before a plain background.

    Where no plain background is found, or nothing that stands out from it, all of it is taken as the object.
    """
    from backend.views.matting import plain_background_matte

    matte = plain_background_matte(np.ascontiguousarray(picture.permute(1, 2, 0).numpy(), dtype=np.float32))
    if matte is None or not 0.002 < float(matte.alpha.mean()) < 0.97:
        return torch.cat([picture, torch.ones_like(picture[:1])])
    rgb = torch.from_numpy(matte.rgb).float().permute(2, 0, 1).clamp(0, 1)
    return torch.cat([rgb, torch.from_numpy(matte.alpha).float()[None].clamp(0, 1)])


def cut_from_white(picture: Tensor) -> Tensor:
    """As `cut_from_background` where it is white: over white, the result is the picture again."""
    alpha = cut_from_background(picture)[3:]
    # What is darker than the alpha allows for needs more of it.
    alpha = torch.maximum(alpha, 1 - picture.amin(0, keepdim=True)) * (alpha > 0)
    rgb = (picture - (1 - alpha)) / alpha.clamp_min(1e-6)
    return torch.cat([torch.where(alpha > 0, rgb, torch.ones_like(rgb)).clamp(0, 1), alpha])


def filling_radius(fov_degrees: float, fraction: float) -> float:
    """How far a camera stands from an object of the canonical size that fills this fraction of its picture."""
    return CANONICAL_SIZE / (2 * math.tan(math.radians(fov_degrees) / 2) * fraction)
