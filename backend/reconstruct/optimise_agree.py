"""Moving the points of a start from the visual hull to where pictures agree about their colour: into hollows, which no
silhouette shows (a plane sweep along each point's own ray; Collins, CVPR 1996)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from backend.cameras import world_to_camera_opencv
from backend.datatypes import Views

_REACH, _STEPS = 1.2, 40  # how far a point may go, for an object 1.8 wide
_PRICE = 0.04  # of going a unit far, in units of colour: where all places look alike a point stays
_NEAREST_SHARE = 0.3  # of the views that could see a place; into a hollow most see what stands before it
_BETTER, _NOISE = 0.7, 0.02  # of the difference in colour at the hull, and less than it by: what makes a place better
_MOST_VIEWS = 24  # that are asked
_LEAST_COSINE = 0.35  # between the rays of two views that are taken to see the same side


def where_views_agree(points: Tensor, ways: Tensor, colors: Tensor, sources: Tensor, views: Views) -> Tensor:
    """[N, 3]: the points moved along `ways` to where the other views show most nearly their colours.

    points, ways (unit), colors [N, 3]; sources [N]: the view that each comes from.
    """
    differ = _disagreement(points, ways, colors, sources, views, False)
    best, found = torch.minimum(_BETTER * differ, differ - _NOISE), points
    for step in range(1, _STEPS + 1):
        distance = _REACH * step / _STEPS
        places = points + distance * ways
        price = _disagreement(places, ways, colors, sources, views, True) + _PRICE * distance
        found = torch.where((price < best)[:, None], places, found)
        best = torch.minimum(best, price)
    return found


def _disagreement(places: Tensor, ways: Tensor, colors: Tensor, sources: Tensor, views: Views, within: bool) -> Tensor:
    """[N]: the mean difference of colour in those views that differ least; infinite where fewer than two can see, and,
    if `within` is asked for, outside of any view's silhouette."""
    viewmats = world_to_camera_opencv(views.cameras)
    height, width = views.rgba.shape[-2:]
    differences = []
    outside = torch.zeros(len(places), dtype=torch.bool)
    for view in range(0, len(views), -(-len(views) // _MOST_VIEWS)):
        seen = places @ viewmats[view, :3, :3].T + viewmats[view, :3, 3]
        pixels = seen @ views.cameras.intrinsics[view].T
        across, down = (pixels[:, :2] / pixels[:, 2:].clamp_min(1e-6)).unbind(-1)
        grid = torch.stack([across / width * 2 - 1, down / height * 2 - 1], dim=-1)
        rgba = F.grid_sample(views.rgba[[view]], grid[None, None], align_corners=False)[0, :, 0].T
        framed = (grid.abs().amax(-1) < 1) & (seen[:, 2] > 1e-3)
        outside |= framed & (rgba[:, 3] < 0.5)
        rays = F.normalize(places - views.cameras.camera_to_world[view, :3, 3], dim=-1)
        fit = ((rays * ways).sum(-1) > _LEAST_COSINE) & (sources != view) & framed
        difference = (rgba[:, :3] - colors).abs().mean(-1) + (1 - rgba[:, 3])
        differences.append(torch.where(fit, difference, math.inf))
    ordered = torch.stack(differences).sort(dim=0).values
    count = ordered.isfinite().sum(0)
    taken = (_NEAREST_SHARE * count).ceil().long().clamp_min(1)
    sums = torch.where(ordered.isfinite(), ordered, 0.0).cumsum(0)
    unknown = (count < 2) | outside if within else count < 2
    return torch.where(~unknown, sums.gather(0, taken[None] - 1)[0] / taken, math.inf)
