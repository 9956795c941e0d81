"""Where an optimisation from scratch begins: Gaussians on the visual hull of the silhouettes, or, where pictures have
no alpha, at random points that many cameras see."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.cameras import rays, world_to_camera_opencv
from backend.datatypes import CANONICAL_SIZE, Gaussians, Views
from backend.errors import BadInput
from backend.formats.images import resize
from backend.reconstruct.normalize import Similarity, centering
from backend.reconstruct.optimise_agree import where_views_agree
from backend.render.visual_hull import hull_distances

_RADIUS = 3.0  # where the median camera stands in the frame that is optimised in
_GRID = 48  # voxels along a side of the coarse hull
_SOLID = 0.5
_CANDIDATES = 4  # random points for each one that is taken
_HULL_OPACITY, _RANDOM_OPACITY = 0.7, 0.1


@dataclass(frozen=True)
class Region:
    """What the cameras look at: a box [3], [3] in the views' frame."""

    low: Tensor
    high: Tensor

    @property
    def similarity(self) -> Similarity:
        """To the canonical frame: centred, the longest side CANONICAL_SIZE."""
        return Similarity((self.low + self.high) / 2, CANONICAL_SIZE / float((self.high - self.low).max()))


def has_alpha(views: Views) -> Tensor:
    """[V] bool: which pictures say where the object is."""
    return views.rgba[:, 3].amin(dim=(1, 2)) < 0.99


def visibility(points: Tensor, views: Views) -> tuple[Tensor, Tensor]:
    """For points [N, 3]: the share of the views that frame each [N], and the smallest alpha that one of them shows [N].

    Views without alpha show 1 everywhere."""
    framed, least = points.new_zeros(len(points)), points.new_ones(len(points))
    viewmats = world_to_camera_opencv(views.cameras)
    for view in range(len(views)):
        seen = points @ viewmats[view, :3, :3].T + viewmats[view, :3, 3]
        pixels = seen @ views.cameras.intrinsics[view].T
        x, y = (pixels[:, :2] / pixels[:, 2:].clamp_min(1e-6)).floor().long().unbind(-1)
        height, width = views.rgba.shape[-2:]
        inside = (seen[:, 2] > 1e-3) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        alpha = views.rgba[view, 3, y.clamp(0, height - 1), x.clamp(0, width - 1)]
        framed += inside
        least = torch.where(inside, torch.minimum(least, alpha), least)
    return framed / len(views), least


def find_region(views: Views) -> Region:
    """The box of the object: where silhouettes agree, or, without them, what most cameras see. Raises BadInput."""
    rough = _rough_frame(views)
    spans = 0.5 * max(views.cameras.width, views.cameras.height) / views.cameras.intrinsics[:, 0, 0]
    half = min(_RADIUS * float(spans.median()), 0.9 * _RADIUS)
    low, high = torch.full((3,), -half), torch.full((3,), half)
    inside = Views(views.rgba, rough.cameras(views.cameras))
    for _ in range(2):  # the second time at the size of what the first one found
        side = float((high - low).max()) / _GRID
        axes = [torch.arange(float(a) + 0.5 * side, float(b), side) for a, b in zip(low, high, strict=True)]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
        framed, least = visibility(points, inside)
        solid = points[(framed > 0.5) & (least > _SOLID)]
        if len(solid) == 0:
            break
        low, high = solid.amin(0) - side, solid.amax(0) + side
    return Region(rough.points_back(low), rough.points_back(high))


def _rough_frame(views: Views) -> Similarity:
    try:
        return centering(views.cameras, _RADIUS)
    except BadInput:
        # Cameras side by side, or one alone: the object is somewhere in front of them.
        pose = views.cameras.camera_to_world
        middle, forward = pose[:, :3, 3].mean(0), -pose[:, :3, 2].mean(0)
        distance = max(2.0 * float((pose[:, :3, 3] - middle).norm(dim=-1).max()), 1e-6)
        if len(views) == 1 or float(forward.norm()) < 1e-3:
            distance = _RADIUS
        return Similarity(middle + distance * forward, _RADIUS / distance)


def start_from_views(views: Views, count: int, generator: torch.Generator) -> Gaussians:
    """About `count` Gaussians to begin with, of views in the canonical frame (see `find_region`)."""
    if bool(has_alpha(views).all()):
        on_hull = _on_hull(views, count)
        if len(on_hull) >= 16:
            return on_hull
    return _at_random(views, count, generator)


def _on_hull(views: Views, count: int) -> Gaussians:
    """A Gaussian for each pixel of small versions of the views, in its colour, where its ray enters the hull, or
    behind that, where the other views show the same colour."""
    covered = float((views.rgba[:, 3] > _SOLID).float().mean()) * len(views)
    side = max(8, min(max(views.rgba.shape[-2:]), round(math.sqrt(count / max(covered, 1e-6)))))
    cameras = views.cameras.resized(side, side)
    distances = hull_distances(views.rgba[:, 3], views.cameras, side)
    origins, directions = rays(cameras)
    small = torch.stack([resize(rgba, side, side) for rgba in views.rgba])
    there = small[:, 3] > _SOLID
    means = (origins + distances[..., None] * directions)[there]
    footprint = (distances / cameras.intrinsics[:, 0, 0, None, None])[there]
    colors = small[:, :3].permute(0, 2, 3, 1)[there]
    sources = torch.arange(len(views))[:, None, None].expand_as(there)[there]
    means = where_views_agree(means, directions[there], colors, sources, views)
    return _round(means, 0.6 * footprint, colors, _HULL_OPACITY)


def _at_random(views: Views, count: int, generator: torch.Generator) -> Gaussians:
    """Random points of the canonical cube that are inside every silhouette that there is."""
    points = CANONICAL_SIZE * (torch.rand(_CANDIDATES * count, 3, generator=generator) - 0.5)
    framed, least = visibility(points, views)
    inside = points[(framed > 0) & (least > _SOLID)]
    points = inside if len(inside) else points[:count]
    colors, variance = _colors_seen(points, views)
    # A place on a surface has the same colour in all views that see it; but so has emptiness before a plain wall.
    empty = (colors - border_color(views)).abs().amax(-1) < 0.1
    chosen = (variance + 1.0 * empty).argsort()[:count]
    size = CANONICAL_SIZE / max(len(chosen), 1) ** (1 / 3)
    return _round(points[chosen], points.new_full((len(chosen),), 0.5 * size), colors[chosen], _RANDOM_OPACITY)


def border_color(views: Views) -> Tensor:
    """[3]: the median colour of the views' borders."""
    rgb = views.rgba[:, :3]
    edges = [rgb[..., 0, :], rgb[..., -1, :], rgb[..., :, 0], rgb[..., :, -1]]
    return torch.cat(edges, dim=-1).permute(1, 0, 2).flatten(1).median(dim=1).values


def _colors_seen(points: Tensor, views: Views) -> tuple[Tensor, Tensor]:
    """Mean [N, 3] and variance [N] of what the views show where each point would be seen."""
    total, weight = points.new_zeros(len(points), 3), points.new_full((len(points), 1), 1e-6)
    squares = points.new_zeros(len(points))
    viewmats = world_to_camera_opencv(views.cameras)
    height, width = views.rgba.shape[-2:]
    for view in range(len(views)):
        seen = points @ viewmats[view, :3, :3].T + viewmats[view, :3, 3]
        pixels = seen @ views.cameras.intrinsics[view].T
        x, y = (pixels[:, :2] / pixels[:, 2:].clamp_min(1e-6)).floor().long().unbind(-1)
        inside = (seen[:, 2] > 1e-3) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        rgba = views.rgba[view, :, y.clamp(0, height - 1), x.clamp(0, width - 1)].T
        share = rgba[:, 3:] * inside[:, None]
        total += share * rgba[:, :3]
        squares += (share * rgba[:, :3] ** 2).sum(-1)
        weight += share
    mean = total / weight
    return mean, squares / weight[:, 0] - mean.square().sum(-1)


def _round(means: Tensor, sizes: Tensor, colors: Tensor, opacity: float) -> Gaussians:
    return Gaussians(
        means,
        sizes[:, None].repeat(1, 3),
        means.new_tensor([1.0, 0, 0, 0]).repeat(len(means), 1),
        means.new_full((len(means),), opacity),
        colors,
    )
