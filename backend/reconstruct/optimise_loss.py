"""The loss of 3D Gaussian splatting: 0.8 L1 + 0.2 (1 - SSIM) (arXiv 2308.04079, equation 7), and PSNR."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

SSIM_SHARE = 0.2
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


@functools.cache
def _window() -> Tensor:
    offsets = torch.arange(_WINDOW, dtype=torch.float32) - _WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    return weights / weights.sum()


def _blur(pictures: Tensor, padding: int = 0) -> Tensor:
    """[M, 1, H, W] blurred by the window; without padding the border is lost."""
    weights = _window().to(pictures)
    pictures = F.conv2d(pictures, weights.reshape(1, 1, -1, 1), padding=(padding, 0))
    return F.conv2d(pictures, weights.reshape(1, 1, 1, -1), padding=(0, padding))


class _Ssim(torch.autograd.Function):
    """The mean of SSIM over [M, 1, H, W], differentiable in the first argument only.

    Written out because autograd would keep and run back through every convolution, at three times the cost.
    """

    @staticmethod
    def forward(ctx, a, b):
        count = a.shape[0]
        mean_a, mean_b, aa, bb, ab = _blur(torch.cat([a, b, a * a, b * b, a * b])).split(count)
        n1, n2 = 2 * mean_a * mean_b + _C1, 2 * (ab - mean_a * mean_b) + _C2
        d1 = mean_a**2 + mean_b**2 + _C1
        d2 = aa + bb - mean_a**2 - mean_b**2 + _C2
        likeness = n1 * n2 / (d1 * d2)
        if ctx.needs_input_grad[0]:
            by_mean = 2 * mean_b * (n2 - n1) / (d1 * d2) + 2 * mean_a * likeness * (1 / d2 - 1 / d1)
            ctx.save_for_backward(a, b, by_mean, -likeness / d2, 2 * n1 / (d1 * d2))
        return likeness.mean()

    @staticmethod
    def backward(ctx, v):
        a, b, *by = ctx.saved_tensors
        by_mean, by_aa, by_ab = _blur(torch.cat(by), padding=_WINDOW - 1).split(a.shape[0])
        return v / by[0].numel() * (by_mean + 2 * a * by_aa + b * by_ab), None


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of pictures [V, C, H, W] (Wang et al. 2004: window 11, sigma 1.5); 1: the same.

    Differentiable in `a` only. Pictures smaller than the window have the similarity 1.
    """
    if min(a.shape[-2:]) < _WINDOW:
        return a.new_ones(())
    similarity: Tensor = _Ssim.apply(a.flatten(0, 1)[:, None], b.detach().flatten(0, 1)[:, None])
    return similarity


def photometric_loss(rendered: Tensor, target: Tensor) -> Tensor:
    """0.8 L1 + 0.2 (1 - SSIM) of pictures [V, 3, H, W]."""
    return (1 - SSIM_SHARE) * (rendered - target).abs().mean() + SSIM_SHARE * (1 - ssim(rendered, target))


def psnr(rendered: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]; at most 100."""
    error = float((rendered.detach().clamp(0, 1) - target).square().mean())
    return 10.0 * float(torch.log10(torch.tensor(1.0 / max(error, 1e-10))))
