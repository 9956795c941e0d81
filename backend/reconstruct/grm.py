"""GRM as a reconstructor: posed views in, Gaussians in the canonical frame out.

The model's world has +Z up, the front at azimuth 225, and the object in [-1, 1]^3; its cameras stand 2.7 away with
lenses of 50 degrees and see a white background. Views are brought there and Gaussians back, here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path

import torch
from torch import Tensor

from backend.cameras import pinhole
from backend.datatypes import Cameras, Gaussians, Step, Views
from backend.errors import BadInput
from backend.nets.grm import GaussianMaps, Grm, gaussian_maps
from backend.nets.grm_config import PAPER, GrmConfig
from backend.reconstruct.normalize import best_spread
from backend.reconstruct.precision import loaded_network, placed, random_network
from backend.reconstruct.turning import gaussians_about_up, turned_about_up
from backend.views.reaim import reaim
from backend.weights import read_config

RADIUS = 2.7
FOV_DEGREES = 50.0
REACH = 1.0  # half the side of the cube outside which the released code drops Gaussians
FAINTEST = 0.05  # the opacity below which it does not save them

# What a coarse dtype rounds here is seen in every position.
_FINE = ("visual_encoder.out_layer_",)

_HALF = math.sqrt(0.5)
# Canonical to model: x to azimuth 315, y up to z up, z (the front) to azimuth 225.
_TURN = torch.tensor([[_HALF, 0.0, -_HALF], [-_HALF, 0.0, -_HALF], [0.0, 1.0, 0.0]])
_TO_OPENCV = torch.diag(torch.tensor([1.0, -1.0, -1.0]))


def model_poses(cameras: Cameras) -> tuple[Tensor, float]:
    """[V, 4, 4] camera to world as the model has them, and how many of its units one canonical unit is.

    The median camera comes to stand where the model's cameras stood. Raises BadInput where it stands at the origin.
    """
    distance = float(cameras.camera_to_world[:, :3, 3].norm(dim=-1).median())
    if not distance > 1e-6:
        raise BadInput("The cameras stand in the middle of the object.", "Use pictures taken around one object.")
    scale = RADIUS / distance
    pose = cameras.camera_to_world.clone()
    pose[:, :3, :3] = _TURN @ pose[:, :3, :3] @ _TO_OPENCV
    pose[:, :3, 3] = scale * (pose[:, :3, 3] @ _TURN.T)
    return pose, scale


def model_pictures(views: Views, size: int, warnings: list[str]) -> Tensor:
    """[V, 3, size, size] in [-1, 1]: the views over white, padded or cropped to the lens that the model knows.

    Says so in `warnings` where that cuts off something of an object.
    """
    lens = pinhole(1, FOV_DEGREES, size, size)
    cut = []
    pictures = []
    for index, rgba in enumerate(views.rgba):
        own, pose = views.cameras.intrinsics[index], views.cameras.camera_to_world[index]
        target = Cameras(pose[None], lens, size, size)
        same = rgba.shape[-2:] == (size, size) and bool(torch.allclose(own, lens[0], rtol=0.0, atol=0.01))
        pictures.append(rgba if same else reaim(rgba, pose, own, target))
        # Alpha is an area: what was there and is not there any more has been cut off.
        before, after = (
            float(picture[3].sum()) / float(k[0, 0] * k[1, 1]) for picture, k in ((rgba, own), (pictures[-1], lens[0]))
        )
        if after < 0.98 * before:
            cut.append(index)
    if cut:
        warnings.append(
            f"Views {', '.join(map(str, cut))} show more than this model's lens of {FOV_DEGREES:.0f} degrees sees: "
            "what is outside it is cut off."
        )
    square = Cameras(views.cameras.camera_to_world, lens.expand(len(views), -1, -1), size, size)
    return 2.0 * Views(torch.stack(pictures), square).over(1.0) - 1.0


def canonical(maps: GaussianMaps, scale: float) -> Gaussians:
    """The Gaussians that the released code keeps, in the canonical frame, on the CPU. `scale` is model_poses'."""
    keep = (maps.means.abs().amax(-1) < REACH) & (maps.opacities > FAINTEST)
    means, scales, quats, opacities, colors = (part[keep].cpu() for part in maps)
    return Gaussians(means @ _TURN / scale, scales / scale, turned_back(quats), opacities, colors)


def turned_back(quats: Tensor) -> Tensor:
    """[N, 4] rotations (w first) in the model's world as they are in the canonical one."""
    # The inverse of the turn, which is -45 degrees about z after 90 about x.
    half = math.radians(22.5)
    c, s = _HALF * math.cos(half), _HALF * math.sin(half)
    w, x, y, z = c, -c, s, s
    left = quats.new_tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    return torch.nn.functional.normalize(quats @ left.T, dim=-1)


def ring_offset(cameras: Cameras) -> float:
    """By how many degrees an even ring of four stands off the quarter turns that the model was trained on, -45 to 45;
    0 for any other cameras."""
    position = cameras.camera_to_world[:, :3, 3]
    azimuths = torch.rad2deg(torch.atan2(position[:, 0], position[:, 2])) % 360.0
    gaps = (azimuths.roll(-1) - azimuths) % 360.0
    if len(cameras) != 4 or float((gaps - 90.0).abs().max()) > 1.0:
        return 0.0
    return float((azimuths[0] + 45.0) % 90.0 - 45.0)


def joined(parts: list[Gaussians]) -> Gaussians:
    """All of them."""
    return Gaussians(*(torch.cat([getattr(part, name) for part in parts]) for name in Gaussians.__dataclass_fields__))


class GrmReconstructor:
    """A published GRM on a device."""

    def __init__(self, network: Grm, device: str = "cpu") -> None:
        self.network = network.eval().requires_grad_(False)
        self.config = network.config
        self.device = device

    @classmethod
    def load(cls, path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> GrmReconstructor:
        """Reads converted weights, whose metadata hold the config, into `dtype`. Raises MissingWeights."""
        config = GrmConfig.from_dict(read_config(path))
        return cls(loaded_network(lambda: placed(Grm(config), "meta", dtype, _FINE), path, device), device)

    @classmethod
    def untrained(
        cls, config: GrmConfig = PAPER, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> GrmReconstructor:
        """Random weights: for trying the way of a job, never for a result."""
        return cls(placed(random_network(lambda: Grm(config), seed), device, dtype, _FINE), device)

    def chosen(self, views: Views, warnings: list[str]) -> Views:
        """As many of the views as the network can see together, the best spread; says so where some are left out.

        Raises BadInput where it cannot see any.
        """
        count = self.config.usable_views(len(views))
        if count == len(views):
            return views
        warnings.append(f"GRM can use {count} of {len(views)} views: those best spread were chosen.")
        picked = best_spread(views.cameras, count)
        return Views(views.rgba[picked], views.cameras[picked])

    @torch.inference_mode()
    def reconstruct(self, views: Views, warnings: list[str] | None = None) -> Generator[Step, None, Gaussians]:
        """Gaussians of an object at the origin that the views' cameras look at, in the cameras' own frame.

        Raises BadInput for a number of views that the network cannot use, and when the views show nothing.
        """
        warnings = [] if warnings is None else warnings
        views = self.chosen(views.to("cpu"), warnings)
        offset = ring_offset(views.cameras)
        if abs(offset) > 0.01:
            views = Views(views.rgba, turned_about_up(views.cameras, -offset))
        poses, scale = model_poses(views.cameras)
        pictures = model_pictures(views, self.config.input_res, warnings)[None].to(self.device)
        focal = 0.5 / math.tan(math.radians(FOV_DEGREES) / 2)
        lenses = torch.tensor([focal, focal, 0.5, 0.5]).expand(1, len(views), 4).to(self.device)
        poses = poses[None].to(self.device)

        walk = self.network.walk(pictures, poses, lenses)
        total, done = self.network.blocks + 1, 0
        while True:
            try:
                next(walk)
            except StopIteration as finished:
                raw = finished.value
                break
            done += 1
            yield Step(done, total, "Looking at all views together")
        parts = []
        for view in range(len(views)):  # one at a time, as all have to be kept only once
            only = slice(view, view + 1)
            parts.append(canonical(gaussian_maps(self.config, raw[:, only], poses[:, only], lenses[:, only]), scale))
        gaussians = joined(parts)
        if not len(gaussians):
            raise BadInput(
                "Nothing can be made out in the views.", "Choose pictures that show one object on a plain background."
            )
        yield Step(total, total, "Placing Gaussians")
        return gaussians_about_up(gaussians, offset) if abs(offset) > 0.01 else gaussians
