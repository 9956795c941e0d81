"""Features of posed views gathered at 3D points: their mean and variance over the views.

On a CPU one numba pass does what grid_sample, mean and variance would do through arrays V times as large; the plain
torch version below is the reference and serves every other device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from backend.render.parallel import inlined, kernel, numba_present, run


@inlined
def _corner(position, size):
    """The left cell and the weight of the right one for a position in [0, 1], clamped to the border."""
    x = min(max(position * size - 0.5, 0.0), size - 1.0)
    left = min(int(x), size - 2)
    return left, np.float32(x - left)


@inlined
def _weights(fu, fv):
    one = np.float32(1.0)
    return (one - fu) * (one - fv), fu * (one - fv), (one - fu) * fv, fu * fv


@inlined
def _sample(image, place, out):
    height, width, channels = image.shape
    u, fu = _corner(place[0], width)
    v, fv = _corner(place[1], height)
    w00, w01, w10, w11 = _weights(fu, fv)
    for c in range(channels):
        one = w00 * image[v, u, c] + w01 * image[v, u + 1, c]
        out[c] = one + w10 * image[v + 1, u, c] + w11 * image[v + 1, u + 1, c]


@kernel
def _forward(features, where, out):
    """features [V, h, w, C], where [V, K, 2], out [K, 2 * C]."""
    views, channels = features.shape[0], features.shape[3]
    found = np.empty((views, channels), np.float32)
    for k in range(where.shape[1]):
        for v in range(views):
            _sample(features[v], where[v, k], found[v])
        for c in range(channels):
            mean = np.float32(0.0)
            for v in range(views):
                mean += found[v, c]
            mean /= views
            variance = np.float32(0.0)
            for v in range(views):
                variance += (found[v, c] - mean) ** 2
            out[k, c] = mean
            out[k, channels + c] = variance / views


@kernel
def _backward(features, where, out, gradient, features_gradient):
    """gradient [K, 2 * C] of what `_forward` wrote to out; adds to features_gradient [V, h, w, C]."""
    views, height, width, channels = features.shape
    found = np.empty(channels, np.float32)
    for k in range(where.shape[1]):
        for view in range(views):
            _sample(features[view], where[view, k], found)
            u, fu = _corner(where[view, k, 0], width)
            v, fv = _corner(where[view, k, 1], height)
            w00, w01, w10, w11 = _weights(fu, fv)
            target = features_gradient[view]
            for c in range(channels):
                g = gradient[k, c] + np.float32(2.0) * gradient[k, channels + c] * (found[c] - out[k, c])
                g /= views
                target[v, u, c] += w00 * g
                target[v, u + 1, c] += w01 * g
                target[v + 1, u, c] += w10 * g
                target[v + 1, u + 1, c] += w11 * g


class _LiftCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, where: Tensor) -> Tensor:  # type: ignore[override]
        features, where = features.detach().float().contiguous(), where.detach().float().contiguous()
        out = torch.empty(features.shape[0], where.shape[2], 2 * features.shape[-1])
        run(_forward, zip(features.numpy(), where.numpy(), out.numpy(), strict=True))
        ctx.save_for_backward(features, where, out)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        features, where, out = ctx.saved_tensors
        result = torch.zeros_like(features)
        arrays = (features, where, out, gradient.float().contiguous(), result)
        run(_backward, zip(*(array.numpy() for array in arrays), strict=True))
        return result, None


def lift_features_reference(features: Tensor, where: Tensor) -> Tensor:
    """`lift_features` in plain torch, for any device, and where numba is missing."""
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
    if features.device.type == "cpu" and numba_present():
        return _LiftCpu.apply(features, where)
    return lift_features_reference(features, where)
