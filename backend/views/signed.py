"""How the multi-view denoiser sees pictures: RGBA as four signed channels in which an empty pixel is colourless.

Channels 0 to 2 are alpha * (2 * rgb - 1), so that neither a white nor a black object fades into the background;
channel 3 is 2 * alpha - 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_signed(rgba: Tensor) -> Tensor:
    """[..., 4, H, W] straight RGBA in [0, 1] to signed channels in [-1, 1]."""
    rgb, alpha = rgba[..., :3, :, :], rgba[..., 3:, :, :]
    return torch.cat([alpha * (2 * rgb - 1), 2 * alpha - 1], dim=-3)


def from_signed(signed: Tensor) -> Tensor:
    """The inverse of `to_signed`; colours of empty pixels come out grey, and everything is clamped to [0, 1]."""
    alpha = ((signed[..., 3:, :, :] + 1) / 2).clamp(0, 1)
    rgb = (signed[..., :3, :, :] / alpha.clamp_min(1e-3) + 1) / 2
    return torch.cat([rgb.clamp(0, 1), alpha], dim=-3)
