"""Volume rendering of a triplane NeRF: features from three planes, a small MLP, and compositing along rays.

The planes span the cube [-1, 1]^3. The MLP's first output is a logit whose sigmoid is the opacity of a step of length
`STEP`; a step of another length is as opaque as the same density makes it, so any number of samples gives one picture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from backend.render.parallel import chunks, inlined, kernel, numba_present, run

STEP = 0.06  # the length whose opacity is sigmoid(logit); scene units
Decoder = Callable[[Tensor], Tensor]  # features [..., C] to (logit, r, g, b) [..., 4], colours before the sigmoid

# Each plane is spanned by two axes: (x, y), (x, z), (z, y); columns run along the first, rows along the second.
PLANE_AXES = ((0, 1), (0, 2), (2, 1))


@inlined
def _corner(position, size):
    """The left cell and the weight of the right one for a position in [-1, 1], clamped to the border."""
    x = min(max((position + 1.0) * 0.5 * size - 0.5, 0.0), size - 1.0)
    left = min(int(x), size - 2)
    return left, np.float32(x - left)


@inlined
def _weights(fu, fv):
    one = np.float32(1.0)
    return (one - fu) * (one - fv), fu * (one - fv), (one - fu) * fv, fu * fv


@kernel
def _gather(planes, points, out):
    """planes [3, H, W, C], points [K, 3], out [K, C]."""
    height, width, channels = planes.shape[1:]
    for i in range(points.shape[0]):
        for c in range(channels):
            out[i, c] = 0.0
        for plane in range(3):
            u, fu = _corner(points[i, 2 if plane == 2 else 0], width)
            v, fv = _corner(points[i, 2 if plane == 1 else 1], height)
            w00, w01, w10, w11 = _weights(fu, fv)
            p = planes[plane]
            for c in range(channels):
                out[i, c] += w00 * p[v, u, c] + w01 * p[v, u + 1, c] + w10 * p[v + 1, u, c] + w11 * p[v + 1, u + 1, c]


@kernel
def _scatter(points, gradient, plane, target):
    """points [K, 3], gradient [K, C]; target [H, W, C], the gradient of plane number `plane`."""
    height, width, channels = target.shape
    for i in range(points.shape[0]):
        u, fu = _corner(points[i, 2 if plane == 2 else 0], width)
        v, fv = _corner(points[i, 2 if plane == 1 else 1], height)
        w00, w01, w10, w11 = _weights(fu, fv)
        for c in range(channels):
            g = gradient[i, c]
            target[v, u, c] += w00 * g
            target[v, u + 1, c] += w01 * g
            target[v + 1, u, c] += w10 * g
            target[v + 1, u + 1, c] += w11 * g


class _SamplePlanesCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, planes: Tensor, points: Tensor) -> Tensor:  # type: ignore[override]
        planes, points = planes.float().contiguous(), points.float().contiguous()
        out = torch.empty(*points.shape[:2], planes.shape[-1])
        p, k, o = planes.detach().numpy(), points.numpy(), out.numpy()
        parts = chunks(k.shape[1], 4096)
        run(_gather, [(p[b], k[b, first:last], o[b, first:last]) for b in range(len(k)) for first, last in parts])
        ctx.save_for_backward(points)
        ctx.planes_shape = planes.shape
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        (points,) = ctx.saved_tensors
        planes_gradient = torch.zeros(ctx.planes_shape)
        k, g, target = points.numpy(), gradient.float().contiguous().numpy(), planes_gradient.numpy()
        # One plane a job, so that no two jobs write the same cell.
        run(_scatter, [(k[b], g[b], plane, target[b, plane]) for b in range(len(k)) for plane in range(3)])
        return planes_gradient, None


def sample_planes_reference(planes: Tensor, points: Tensor) -> Tensor:
    """`sample_planes` in plain torch, for any device, and where numba is missing."""
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
    if planes.device.type == "cpu" and numba_present():
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
