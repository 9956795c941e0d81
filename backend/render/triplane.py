"""Volume rendering of a triplane NeRF: features from three planes, a small MLP, and compositing along rays.

The planes span the cube [-1, 1]^3. The MLP's first output is a logit whose sigmoid is the opacity of a step of length
`STEP`; a step of another length is as opaque as the same density makes it, so any number of samples gives one picture.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

STEP = 0.06  # the length whose opacity is sigmoid(logit); scene units
Decoder = Callable[[Tensor], Tensor]  # features [..., C] to (logit, r, g, b) [..., 4], colours before the sigmoid

# Each plane is spanned by two axes: (x, y), (x, z), (z, y); columns run along the first, rows along the second.
PLANE_AXES = ((0, 1), (0, 2), (2, 1))


@numba.njit(parallel=True, fastmath=True, cache=True)
def _gather(planes, points, out):
    batch, _, height, width, channels = planes.shape
    count = points.shape[1]
    blocks = 8
    for job in numba.prange(batch * blocks):
        b, block = job // blocks, job % blocks
        for i in range(block * count // blocks, (block + 1) * count // blocks):
            for c in range(channels):
                out[b, i, c] = 0.0
            for plane in range(3):
                first = points[b, i, 2 if plane == 2 else 0]
                second = points[b, i, 2 if plane == 1 else 1]
                u = min(max((first + 1.0) * 0.5 * width - 0.5, 0.0), width - 1.0)
                v = min(max((second + 1.0) * 0.5 * height - 0.5, 0.0), height - 1.0)
                u0, v0 = min(int(u), width - 2), min(int(v), height - 2)
                fu, fv = np.float32(u - u0), np.float32(v - v0)
                one = np.float32(1.0)
                w00, w01 = (one - fu) * (one - fv), fu * (one - fv)
                w10, w11 = (one - fu) * fv, fu * fv
                p = planes[b, plane]
                for c in range(channels):
                    out[b, i, c] += (
                        w00 * p[v0, u0, c]
                        + w01 * p[v0, u0 + 1, c]
                        + w10 * p[v0 + 1, u0, c]
                        + w11 * p[v0 + 1, u0 + 1, c]
                    )


@numba.njit(parallel=True, fastmath=True, cache=True)
def _scatter(points, gradient, planes_gradient):
    batch, _, height, width, channels = planes_gradient.shape
    for job in numba.prange(batch * 3):  # one plane a job, so no two jobs write the same cell
        b, plane = job // 3, job % 3
        p = planes_gradient[b, plane]
        for i in range(points.shape[1]):
            first = points[b, i, 2 if plane == 2 else 0]
            second = points[b, i, 2 if plane == 1 else 1]
            u = min(max((first + 1.0) * 0.5 * width - 0.5, 0.0), width - 1.0)
            v = min(max((second + 1.0) * 0.5 * height - 0.5, 0.0), height - 1.0)
            u0, v0 = min(int(u), width - 2), min(int(v), height - 2)
            fu, fv = np.float32(u - u0), np.float32(v - v0)
            one = np.float32(1.0)
            w00, w01 = (one - fu) * (one - fv), fu * (one - fv)
            w10, w11 = (one - fu) * fv, fu * fv
            for c in range(channels):
                g = gradient[b, i, c]
                p[v0, u0, c] += w00 * g
                p[v0, u0 + 1, c] += w01 * g
                p[v0 + 1, u0, c] += w10 * g
                p[v0 + 1, u0 + 1, c] += w11 * g


class _SamplePlanesCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, planes: Tensor, points: Tensor) -> Tensor:  # type: ignore[override]
        planes, points = planes.float().contiguous(), points.float().contiguous()
        out = torch.empty(*points.shape[:2], planes.shape[-1])
        _gather(planes.detach().numpy(), points.numpy(), out.numpy())
        ctx.save_for_backward(points)
        ctx.planes_shape = planes.shape
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        (points,) = ctx.saved_tensors
        planes_gradient = torch.zeros(ctx.planes_shape)
        _scatter(points.numpy(), gradient.float().contiguous().numpy(), planes_gradient.numpy())
        return planes_gradient, None


def sample_planes_reference(planes: Tensor, points: Tensor) -> Tensor:
    """`sample_planes` in plain torch, for any device."""
    batch, _, _, _, channels = planes.shape
    total = planes.new_zeros(batch, points.shape[1], channels)
    for plane, (first, second) in enumerate(PLANE_AXES):
        where = points[:, None, :, [first, second]].to(planes.dtype)
        image = planes[:, plane].permute(0, 3, 1, 2)
        found = F.grid_sample(image, where, mode="bilinear", padding_mode="border", align_corners=False)
        total = total + found[:, :, 0].transpose(1, 2)
    return total


def sample_planes(planes: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of three feature planes, summed.

    planes [B, 3, H, W, C]; points [B, K, 3] in [-1, 1] (clamped to the border outside), no gradient flows to them.
    Returns [B, K, C].
    """
    if planes.device.type == "cpu":
        return _SamplePlanesCpu.apply(planes, points.detach())
    return sample_planes_reference(planes, points.detach())


def box_interval(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the cube [-1, 1]^3: two tensors [..., 1]; equal where they miss it."""
    safe = torch.where(directions.abs() < 1e-8, torch.full_like(directions, 1e-8), directions)
    one, other = (-1.0 - origins) / safe, (1.0 - origins) / safe
    near = torch.minimum(one, other).amax(-1, keepdim=True).clamp_min(0.0)
    far = torch.maximum(one, other).amin(-1, keepdim=True)
    return near, torch.maximum(far, near)


def composite(logits: Tensor, colors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Front-to-back compositing. logits [..., S], colors [..., S, D], lengths [..., 1] of a step.

    Returns the premultiplied colours [..., D + 1] with the alpha last, and the weights [..., S].
    """
    density = F.softplus(logits) * (lengths / STEP)
    passed = torch.exp(-torch.cumsum(density, -1))
    before = torch.cat([torch.ones_like(passed[..., :1]), passed[..., :-1]], -1)
    weights = before - passed
    color = (weights.unsqueeze(-1) * colors).sum(-2)
    return torch.cat([color, weights.sum(-1, keepdim=True)], -1), weights


def render_rays(
    planes: Tensor, decoder: Decoder, origins: Tensor, directions: Tensor, samples: int, jitter: bool = False
) -> Tensor:
    """Differentiable rendering for training: every sample of every ray goes through the decoder.

    origins, directions [B, R, 3], unit directions. Returns [B, R, 4]: the weighted sum of 2 * colour - 1, then alpha.
    """
    near, far = box_interval(origins, directions)
    steps = torch.arange(samples, device=origins.device, dtype=origins.dtype)
    offset = torch.rand(*origins.shape[:2], samples, device=origins.device) if jitter else 0.5
    distance = near + (far - near) * (steps + offset) / samples
    points = origins.unsqueeze(2) + distance.unsqueeze(-1) * directions.unsqueeze(2)
    decoded = decoder(sample_planes(planes, points.flatten(1, 2)).unflatten(1, (-1, samples)))
    color, _ = composite(decoded[..., 0], decoded[..., 1:].sigmoid() * 2 - 1, (far - near) / samples)
    return color


@torch.no_grad()
def occupied_cells(planes: Tensor, decoder: Decoder, resolution: int = 32, threshold: float = -4.0) -> Tensor:
    """[resolution]^3 booleans (x, y, z): where the field of one object (planes [1, 3, H, W, C]) may be opaque.

    A cell counts when its centre or a neighbouring cell's is above the threshold, so that thin parts are not lost.
    """
    ticks = (torch.arange(resolution, device=planes.device) + 0.5) / resolution * 2 - 1
    grid = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(1, -1, 3)
    logits = decoder(sample_planes(planes, grid))[..., 0].reshape(1, 1, resolution, resolution, resolution)
    return F.max_pool3d(logits, 3, stride=1, padding=1)[0, 0] > threshold


@torch.no_grad()
def render_rays_sparse(
    planes: Tensor, decoder: Decoder, origins: Tensor, directions: Tensor, samples: int, chunk: int = 16_384
) -> Tensor:
    """Rendering of one object without gradients: only samples in occupied cells reach the decoder.

    planes [1, 3, H, W, C]; origins, directions [R, 3]. Returns [R, 4] as `render_rays` does.
    """
    cells = occupied_cells(planes, decoder)
    resolution = cells.shape[0]
    result = []
    for origin, direction in zip(origins.split(chunk), directions.split(chunk), strict=True):
        near, far = box_interval(origin, direction)
        steps = (torch.arange(samples, device=origin.device) + 0.5) / samples
        distance = near + (far - near) * steps
        points = origin.unsqueeze(1) + distance.unsqueeze(-1) * direction.unsqueeze(1)
        index = ((points + 1) * (0.5 * resolution)).long().clamp_(0, resolution - 1)
        inside = cells[index[..., 0], index[..., 1], index[..., 2]] & (far > near)
        decoded = points.new_zeros(*points.shape[:2], 4)
        decoded[..., 0] = -30.0
        if inside.any():
            decoded[inside] = decoder(sample_planes(planes, points[inside].unsqueeze(0)))[0].to(decoded.dtype)
        color, _ = composite(decoded[..., 0], decoded[..., 1:].sigmoid() * 2 - 1, (far - near) / samples)
        result.append(color)
    return torch.cat(result)
