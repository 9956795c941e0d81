"""The noise schedule shared by training and sampling: continuous time, variance preserving, shifted cosine.

x_t = alpha * x_0 + sigma * noise with alpha^2 + sigma^2 = 1. The shift moves the cosine schedule (Nichol and Dhariwal,
2021) towards noise as simple diffusion does for larger pictures (arXiv 2301.11093, section 3.1): four views of one
object repeat each other, so that much more noise is needed before the object can no longer be made out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHIFT = 4.0
_LOWEST, _HIGHEST = -14.0, 9.0


def log_snr(time: Tensor) -> Tensor:
    """log(alpha^2 / sigma^2) at time in [0, 1]; 0 is clean."""
    angle = (time.double() * (math.pi / 2)).clamp(1e-4, math.pi / 2 - 1e-4)
    value = -2.0 * torch.log(torch.tan(angle)) - 2.0 * math.log(SHIFT)
    return value.clamp(_LOWEST, _HIGHEST).float()


def alpha_sigma(log_snr_value: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise scales of the same shape as the input."""
    return torch.sigmoid(log_snr_value).sqrt(), torch.sigmoid(-log_snr_value).sqrt()


def ddim_step(
    noisy: Tensor, clean: Tensor, now: Tensor, then: Tensor, eta: float = 0.0, fresh: Tensor | None = None
) -> Tensor:
    """DDIM (arXiv 2010.02502, eq. 12 and 16) from log-SNR `now` to the cleaner `then`.

    eta: how much of the noise is replaced by `fresh` noise of the same shape, from 0 (deterministic) to 1 (as DDPM).
    """
    alpha, sigma = alpha_sigma(now)
    next_alpha, next_sigma = alpha_sigma(then)
    noise = (noisy - alpha * clean) / sigma
    if fresh is None:
        return next_alpha * clean + next_sigma * noise
    replaced = eta * next_sigma / sigma * (1 - (alpha / next_alpha) ** 2).clamp_min(0).sqrt()
    return next_alpha * clean + (next_sigma**2 - replaced**2).clamp_min(0).sqrt() * noise + replaced * fresh
