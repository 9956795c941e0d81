"""Posed pictures from outside: their world moved and scaled to where a reconstructor expects the object, and back.

The object is taken to be where the cameras' axes meet; the median camera then stands at the wanted distance. Nothing is
turned: which side is up and which is the front stays as the file has it.
"""

from __future__ import annotations

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
    positions, forward = pose[:, :3, 3], -torch.nn.functional.normalize(pose[:, :3, 2], dim=-1)
    # The distance of a point from an axis is |(1 - f f^T)(point - position)|.
    project = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None, :]
    system, target = project.sum(0), (project @ positions[:, :, None]).sum(0)[:, 0]
    fix = "Use pictures taken around one object, all pointing at it."
    if float(torch.linalg.eigvalsh(system)[0]) < 1e-3 * len(cameras):
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
