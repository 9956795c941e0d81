"""The outer skin of a radiance field as flat Gaussians.

Where a density is cut at a level of its own, thin soft walls tear and thick ones grow a second surface inside. Here a
place is inside where no direction sees it: the optical depth (arXiv 2003.08934, equation 1) to the open is taken in 26
directions, and the surface lies where the least of them passes a threshold. That is where pictures show it.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from backend.datatypes import Gaussians
from backend.errors import BadInput
from backend.render.triplane import STEP, Decoder, composite, occupied_cells, sample_planes
from backend.surface import topology
from backend.surface.points import turning_z_to
from backend.surface.polygonise import polygonise

SIDE = 96  # cells along a side of the cube [-1, 1]^3
_COARSE = 32  # cells a side in which empty space is passed over; SIDE is a multiple of it
_HIDDEN = 0.4  # optical depth that hides: of a rod with as much around its axis half can be seen through
_BLUR = 0.8  # cells: planes leave ripples about as fine as themselves
_SMOOTHING = 10  # rounds of Taubin's
_OPACITY = 0.95
_EMPTY = -30.0
# Colours are what a ray sees that comes straight at the skin, from so far outside to so far inside, in scene units.
_OUTSIDE, _INSIDE, _SAMPLES = 0.05, 0.07, 12
_AT_ONCE = 1 << 17  # points


@torch.no_grad()
def field_gaussians(planes: Tensor, decoder: Decoder) -> tuple[Gaussians, Tensor]:
    """Discs all over what can be seen of one object's field, and their outward normals [N, 3], both on the CPU.

    planes [1, 3, H, W, C]. Raises BadInput where the field is empty.
    """
    cell = 2.0 / SIDE
    thickness = F.softplus(density_logits(planes, decoder)) * (cell / STEP)
    hidden = 1 - torch.exp(-least_optical_depth(thickness.cpu()))
    outside = 1 - math.exp(-_HIDDEN) - gaussian_filter(hidden.numpy(), _BLUR)
    if not (outside < 0).any():
        raise BadInput("Nothing solid came of the views.", "Try another seed, other words or another picture.")
    vertices, faces = polygonise(outside.astype(np.float32), _SMOOTHING)
    normals = torch.from_numpy(topology.vertex_normals(vertices, faces).astype(np.float32))
    means = torch.from_numpy(vertices.astype(np.float32) + 0.5) * cell - 1
    discs = torch.tensor([0.6 * cell, 0.6 * cell, 0.1 * cell]).expand(len(means), 3).contiguous()
    colors = skin_colors(planes, decoder, means.to(planes.device), normals.to(planes.device)).cpu()
    return Gaussians(means, discs, turning_z_to(normals), torch.full((len(means),), _OPACITY), colors), normals


def density_logits(planes: Tensor, decoder: Decoder, side: int = SIDE) -> Tensor:
    """[side]^3 (x, y, z): the field's logits at the middles of cells; far below zero where it is surely empty."""
    occupied = occupied_cells(planes, decoder, _COARSE)
    for axis in range(3):
        occupied = occupied.repeat_interleave(side // _COARSE, axis)
    where = occupied.nonzero()
    logits = planes.new_full((side,) * 3, _EMPTY)
    points = (where + 0.5) * (2.0 / side) - 1
    found = [decoder(sample_planes(planes, some[None]))[0, :, 0] for some in points.float().split(_AT_ONCE)]
    if found:
        logits[tuple(where.T)] = torch.cat(found).to(logits.dtype)
    return logits


def least_optical_depth(thickness: Tensor) -> Tensor:
    """[n, n, n]: the least optical depth between a cell's middle and the open, of the 26 directions to its neighbours.

    thickness [n, n, n]: each cell's own, across its side.
    """
    least = torch.full_like(thickness, torch.inf)
    for direction in itertools.product((-1, 0, 1), repeat=3):
        if any(direction):
            least = torch.minimum(least, _swept(thickness, direction))
    return least


def _swept(thickness: Tensor, direction: tuple[int, ...]) -> Tensor:
    """[n, n, n]: the optical depth that light has passed which comes along a direction."""
    axis = next(axis for axis in range(3) if direction[axis])
    across = [step for other, step in enumerate(direction) if other != axis]
    length = math.hypot(*direction)
    slices = thickness.movedim(axis, 0)
    order = range(len(slices)) if direction[axis] > 0 else range(len(slices) - 1, -1, -1)
    passed, result = torch.zeros_like(slices[0]), torch.empty_like(slices)
    for at in order:
        passed = _shifted(passed, *across)
        result[at] = passed + 0.5 * length * slices[at]
        passed = passed + length * slices[at]
    return result.movedim(0, axis)


def _shifted(image: Tensor, down: int, right: int) -> Tensor:
    """An image [n, n] moved by a cell or none along either axis; nothing enters."""
    if not down and not right:
        return image
    padded = F.pad(image, (1, 1, 1, 1))
    return padded[1 - down : 1 - down + image.shape[0], 1 - right : 1 - right + image.shape[1]]


def skin_colors(planes: Tensor, decoder: Decoder, points: Tensor, normals: Tensor) -> Tensor:
    """[N, 3]: the colours that rays see which meet the skin at `points` against its outward `normals` [N, 3]."""
    length = (_OUTSIDE + _INSIDE) / _SAMPLES
    depths = (torch.arange(_SAMPLES, device=points.device) + 0.5) * length - _OUTSIDE
    found = []
    for some, outward in zip(points.split(_AT_ONCE // 16), normals.split(_AT_ONCE // 16), strict=True):
        along = some[:, None] - depths[:, None] * outward[:, None]
        values = decoder(sample_planes(planes, along.reshape(1, -1, 3)))[0].reshape(len(some), _SAMPLES, 4).float()
        seen, _ = composite(values[..., 0], values[..., 1:].sigmoid(), points.new_full((1, 1), length))
        found.append(seen[:, :3] / seen[:, 3:].clamp_min(1e-4))
    return torch.cat(found).clamp(0, 1) if found else points[:, :0].new_zeros(0, 3)
