"""Posed pictures from outside: their world moved and scaled to where a reconstructor expects the object, and back.

The object is first taken to be where the cameras' axes meet, with the median camera at the wanted distance; where its
outline is known in every picture, the middles and sizes of the outlines say better where it is and how large. Nothing
is turned: which side is up and which is the front stays as the file has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backend.datatypes import Cameras, Gaussians
from backend.errors import BadInput


@dataclass(frozen=True)
class Similarity:
    """inside = scale * (outside - center). center: [3] outside, +Y up; scale: inside units for one outside."""

    center: Tensor
    scale: float

    def cameras(self, cameras: Cameras) -> Cameras:
        """Outside cameras to inside."""
        pose = cameras.camera_to_world.clone()
        pose[:, :3, 3] = (pose[:, :3, 3] - self.center) * self.scale
        return Cameras(pose, cameras.intrinsics, cameras.width, cameras.height)

    def points(self, points: Tensor) -> Tensor:
        """[..., 3] outside to inside."""
        return (points - self.center) * self.scale

    def points_back(self, points: Tensor) -> Tensor:
        """[..., 3] inside to outside."""
        return points / self.scale + self.center

    def gaussians(self, gaussians: Gaussians) -> Gaussians:
        """Outside Gaussians to inside: positions and sizes."""
        return Gaussians(
            self.points(gaussians.means),
            gaussians.scales * self.scale,
            gaussians.quats,
            gaussians.opacities,
            gaussians.colors,
        )

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return {
            "meaning": "inside = scale * (outside - center), both with +Y up; in transforms.json outside is Z up",
            "center": [float(value) for value in self.center],
            "scale": self.scale,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Similarity:
        """What to_json gave."""
        return cls(torch.tensor(fields["center"], dtype=torch.float32), float(fields["scale"]))


def axes_meet(cameras: Cameras) -> Tensor:
    """[3]: the point nearest to all cameras' axes (least squares), float64.

    Raises BadInput where the axes are parallel or meet behind the cameras: then these look at no one object.
    """
    pose = cameras.camera_to_world.double()
    return _lines_meet(pose[:, :3, 3], -torch.nn.functional.normalize(pose[:, :3, 2], dim=-1))


def _lines_meet(positions: Tensor, forward: Tensor) -> Tensor:
    """[3]: the point nearest to all lines from positions [V, 3] along unit forward [V, 3]; raises as axes_meet does."""
    # The distance of a point from a line is |(1 - f f^T)(point - position)|.
    project = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None, :]
    system, target = project.sum(0), (project @ positions[:, :, None]).sum(0)[:, 0]
    fix = "Use pictures taken around one object, all pointing at it."
    if float(torch.linalg.eigvalsh(system)[0]) < 1e-3 * len(positions):
        raise BadInput("The cameras all look the same way, so that where the object is cannot be told.", fix)
    point = torch.linalg.solve(system, target)
    depth = ((point - positions) * forward).sum(-1)
    if float((depth > 0).double().mean()) < 0.75:
        raise BadInput("The cameras do not look at one object: their axes meet behind them.", fix)
    return point


def centering(cameras: Cameras, radius: float) -> Similarity:
    """The similarity that puts where the axes meet at the origin and the median camera at `radius`. Raises BadInput."""
    center = axes_meet(cameras)
    distances = (cameras.camera_to_world[:, :3, 3].double() - center).norm(dim=-1)
    median = float(distances.median())
    if not median > 1e-9 * max(1.0, float(center.norm())):
        raise BadInput("The cameras stand in one place.", "Use pictures taken around one object.")
    return Similarity(center.float(), radius / median)


def fitting_outlines(camera_to_world: Tensor, intrinsics: Tensor, boxes: Tensor, size: float) -> Similarity:
    """The similarity that centres an object and makes its longest side `size`, by its outlines in the pictures.

    A rounded box along the axes is fitted, as what stands nearer to a camera looks larger; that is right to a tenth.
    camera_to_world [V, 4, 4], intrinsics [V, 3, 3] in pixels; boxes [V, 4]: left, top, right, bottom of the outlines in
    the same pixels. Raises BadInput as axes_meet does.
    """
    pose, lens, boxes = camera_to_world.double(), intrinsics.double(), boxes.double()
    focal = torch.stack([lens[:, 0, 0], lens[:, 1, 1]], dim=-1)
    least, most = ((corner - lens[:, :2, 2]) / focal for corner in (boxes[:, :2], boxes[:, 2:]))
    middle = 0.5 * (least + most)
    local = torch.stack([middle[:, 0], -middle[:, 1], -torch.ones(len(pose), dtype=torch.float64)], dim=-1)
    forward = torch.nn.functional.normalize((pose[:, :3, :3] @ local[:, :, None])[:, :, 0], dim=-1)
    center = _lines_meet(pose[:, :3, 3], forward)
    depth = ((pose[:, :3, 3] - center) * pose[:, :3, 2]).sum(-1).clamp_min(1e-12)
    extent = float(((most - least) * depth[:, None]).max())
    if not extent > 1e-12:
        raise BadInput("The object in the posed pictures has no size.", "Use pictures in which an object can be seen.")

    wanted = torch.cat([least, most], dim=-1) * depth[:, None] / extent
    fit, error = _fit_solid(_rounded_box(), pose, center, extent, depth, wanted)
    if not error < 0.2 or float(fit[:3].norm()) > 1.0 or float(fit[3:].max()) > math.log(2.0):
        return Similarity(center.float(), size / extent)  # none fits: outlines of different things
    return Similarity((center + extent * fit[:3]).float(), size / (2 * extent * float(fit[3:].max().exp())))


def _fit_solid(
    solid: Tensor, pose: Tensor, center: Tensor, extent: float, depth: Tensor, wanted: Tensor
) -> tuple[Tensor, float]:
    """[6]: offset and log half sides, in units of `extent`, of the solid [N, 3] that has the wanted outlines best
    (left, top, right, bottom [V, 4] in the same units); and the error that is left."""
    fit = torch.cat([torch.zeros(3, dtype=torch.float64), torch.full((3,), math.log(0.4), dtype=torch.float64)])
    fit.requires_grad_()

    def error() -> Tensor:
        points = center + extent * (fit[:3] + solid * fit[3:].exp())
        seen = torch.einsum("vji,vnj->vni", pose[:, :3, :3], points - pose[:, None, :3, 3])
        ahead = (-seen[..., 2:]).clamp_min(1e-3 * extent)
        slopes = torch.cat([seen[..., :1] / ahead, -seen[..., 1:2] / ahead], dim=-1)
        found = torch.cat([slopes.amin(1), slopes.amax(1)], dim=-1) * depth[:, None] / extent
        # The weak second term decides what no picture shows.
        return (found - wanted).square().sum() + 1e-4 * (fit[3:] - math.log(0.4)).square().sum()

    solver = torch.optim.LBFGS([fit], max_iter=40, line_search_fn="strong_wolfe")

    def evaluate() -> float:
        solver.zero_grad()
        value = error()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    with torch.enable_grad():
        solver.step(evaluate)
        left = float(error().detach())
    return fit.detach(), left if math.isfinite(left) else math.inf


def _rounded_box() -> Tensor:
    """[N, 3] points on x^4 + y^4 + z^4 = 1, between a ball and a box, as most things are."""
    ticks = torch.linspace(-1, 1, 7, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), dim=-1).reshape(-1, 3)
    surface = grid[grid.abs().amax(-1) == 1.0]
    return surface / surface.pow(4).sum(-1, keepdim=True) ** 0.25


def best_spread(cameras: Cameras, count: int) -> list[int]:
    """Indices of the `count` cameras that see most sides of the object, in the order of their azimuths.

    The views' centre is the origin. Starts with the camera nearest to the front (+Z) and goes on counter-clockwise seen
    from above. Raises BadInput where there are fewer cameras than that.
    """
    if len(cameras) < count:
        raise BadInput(
            f"{len(cameras)} posed picture{' is' if len(cameras) == 1 else 's are'} too few; {count} are needed.",
            f"Give {count} or more, taken around the object.",
        )
    positions = cameras.camera_to_world[:, :3, 3].double()
    directions = torch.nn.functional.normalize(positions, dim=-1)
    best: tuple[float, list[int]] = (-1.0, [])
    # Farthest-point choice from every possible first camera; the widest narrowest gap wins.
    for first in range(len(cameras)) if len(cameras) <= 200 else range(0, len(cameras), len(cameras) // 200 + 1):
        chosen = [first]
        nearest = (directions - directions[first]).norm(dim=-1)
        while len(chosen) < count:
            farthest = int(nearest.argmax())
            chosen.append(farthest)
            nearest = torch.minimum(nearest, (directions - directions[farthest]).norm(dim=-1))
        picked = directions[chosen]
        gaps = torch.cdist(picked, picked) + 9.0 * torch.eye(count, dtype=torch.float64)
        # Views level with the object tell more of it than one from straight above.
        score = float(gaps.min()) - 0.25 * float(picked[:, 1].abs().mean())
        if score > best[0] + 1e-9:
            best = (score, chosen)
    chosen = best[1] or list(range(count))
    azimuths = torch.rad2deg(torch.atan2(directions[chosen, 0], directions[chosen, 2])) % 360.0
    order = azimuths.argsort().tolist()
    front = int((torch.minimum(azimuths, 360.0 - azimuths)).argmin())
    at = order.index(front)
    return [chosen[index] for index in order[at:] + order[:at]]
