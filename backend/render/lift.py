"""Features of posed views gathered at 3D points: their mean and variance over the views.

On a CPU one numba pass does what grid_sample, mean and variance would do through arrays V times as large; the plain
torch version below is the reference and serves every other device.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@numba.njit(fastmath=True, cache=True)
def _corner(position, size):
    """Left cell and weight of the right one for a position in [0, 1], clamped to the border."""
    x = min(max(position * size - 0.5, 0.0), size - 1.0)
    left = min(int(x), size - 2)
    return left, np.float32(x - left)


@numba.njit(fastmath=True, cache=True)
def _sample(image, where_x, where_y, out):
    height, width, channels = image.shape
    u, fu = _corner(where_x, width)
    v, fv = _corner(where_y, height)
    one = np.float32(1.0)
    w00, w01, w10, w11 = (one - fu) * (one - fv), fu * (one - fv), (one - fu) * fv, fu * fv
    for c in range(channels):
        out[c] = (
            w00 * image[v, u, c] + w01 * image[v, u + 1, c] + w10 * image[v + 1, u, c] + w11 * image[v + 1, u + 1, c]
        )


@numba.njit(parallel=True, fastmath=True, cache=True)
def _forward(features, where, out):
    batch, views, _, _, channels = features.shape
    for b in numba.prange(batch):
        found = np.empty((views, channels), np.float32)
        for k in range(where.shape[2]):
            for v in range(views):
                _sample(features[b, v], where[b, v, k, 0], where[b, v, k, 1], found[v])
            for c in range(channels):
                mean = np.float32(0.0)
                for v in range(views):
                    mean += found[v, c]
                mean /= views
                variance = np.float32(0.0)
                for v in range(views):
                    variance += (found[v, c] - mean) ** 2
                out[b, k, c] = mean
                out[b, k, channels + c] = variance / views


@numba.njit(parallel=True, fastmath=True, cache=True)
def _backward(features, where, out, gradient, features_gradient):
    batch, views, height, width, channels = features.shape
    for b in numba.prange(batch):
        found = np.empty(channels, np.float32)
        for k in range(where.shape[2]):
            for v in range(views):
                _sample(features[b, v], where[b, v, k, 0], where[b, v, k, 1], found)
                u0, fu = _corner(where[b, v, k, 0], width)
                v0, fv = _corner(where[b, v, k, 1], height)
                one = np.float32(1.0)
                w00, w01, w10, w11 = (one - fu) * (one - fv), fu * (one - fv), (one - fu) * fv, fu * fv
                target = features_gradient[b, v]
                for c in range(channels):
                    g = gradient[b, k, c] + np.float32(2.0) * gradient[b, k, channels + c] * (found[c] - out[b, k, c])
                    g /= views
                    target[v0, u0, c] += w00 * g
                    target[v0, u0 + 1, c] += w01 * g
                    target[v0 + 1, u0, c] += w10 * g
                    target[v0 + 1, u0 + 1, c] += w11 * g


class _LiftCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, where: Tensor) -> Tensor:  # type: ignore[override]
        features, where = features.detach().float().contiguous(), where.detach().float().contiguous()
        out = torch.empty(features.shape[0], where.shape[2], 2 * features.shape[-1])
        _forward(features.numpy(), where.numpy(), out.numpy())
        ctx.save_for_backward(features, where, out)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        features, where, out = ctx.saved_tensors
        result = torch.zeros_like(features)
        _backward(features.numpy(), where.numpy(), out.numpy(), gradient.float().contiguous().numpy(), result.numpy())
        return result, None


def lift_features_reference(features: Tensor, where: Tensor) -> Tensor:
    """`lift_features` in plain torch, for any device."""
    images = features.flatten(0, 1).permute(0, 3, 1, 2)
    grid = where.flatten(0, 1)[:, :, None].to(images.dtype) * 2 - 1
    found = F.grid_sample(images, grid, padding_mode="border", align_corners=False)[..., 0]
    found = found.unflatten(0, features.shape[:2]).transpose(2, 3)
    mean = found.mean(1)
    return torch.cat([mean, ((found - mean.unsqueeze(1)) ** 2).mean(1)], -1)


def lift_features(features: Tensor, where: Tensor) -> Tensor:
    """Mean and variance over the views of features sampled where 3D points fall in each.

    features [B, V, h, w, C]; where [B, V, K, 2] image positions in [0, 1] (clamped to the border), no gradient flows to
    them. Returns [B, K, 2 * C].
    """
    if features.device.type == "cpu":
        return _LiftCpu.apply(features, where)
    return lift_features_reference(features, where)
