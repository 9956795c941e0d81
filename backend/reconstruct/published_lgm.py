"""LGM as published (arXiv 2402.05054): four posed views in, Gaussians in the canonical frame out.

The model's cameras stand 1.5 from the origin with lenses of 49.1 degrees, +Y up, the first at azimuth 0, before a white
background; objects reach to about 0.6 and Gaussians to 1. Views are brought there and Gaussians back, here and nowhere
else. The released code's positive elevation is below the object: only its numbers, not its rays, differ from ours.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from backend.cameras import pinhole, plucker
from backend.datatypes import Cameras, Gaussians, Step, Views
from backend.device import inference_dtype
from backend.errors import BadInput
from backend.nets.lgm import BIG, Lgm, LgmConfig, absolute_gaussians
from backend.reconstruct.lgm import as_gaussians, resize_rgba
from backend.reconstruct.normalize import best_spread
from backend.reconstruct.precision import (
    dtype_of_file,
    layers,
    loaded_network,
    placed,
    random_network,
    widen_when_used,
)
from backend.views.reaim import reaim
from backend.weights import read_shapes

VIEWS = 4
SIZE = 256
RADIUS = 1.5
FOV_DEGREES = 49.1
FAINTEST = 0.005  # the released export drops fainter Gaussians
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
# What a coarse dtype rounds here is seen in every position, and these layers are quick.
_FINE = ("unet.norm_out.", "unet.conv_out.", "conv.")


def model_cameras(cameras: Cameras) -> tuple[Cameras, Tensor, float]:
    """The cameras in the model's world, the turn [3, 3] there, and how many of its units one canonical unit is.

    The first camera comes to azimuth 0, the median one to the model's distance. Raises BadInput where it stands at the
    origin.
    """
    pose = cameras.camera_to_world.clone()
    distance = float(pose[:, :3, 3].norm(dim=-1).median())
    if not distance > 1e-6:
        raise BadInput("The cameras stand in the middle of the object.", "Use pictures taken around one object.")
    scale = RADIUS / distance
    x, _, z = pose[0, :3, 3].tolist()
    length = math.hypot(x, z)
    sine, cosine = (x / length, z / length) if length > 1e-3 * distance else (0.0, 1.0)  # none straight from above
    turn = pose.new_tensor([[cosine, 0.0, -sine], [0.0, 1.0, 0.0], [sine, 0.0, cosine]])
    pose[:, :3] = turn @ pose[:, :3]
    pose[:, :3, 3] *= scale
    return Cameras(pose, cameras.intrinsics, cameras.width, cameras.height), turn, scale


def through_the_lens(views: Views, size: int) -> Views:
    """The views at `size` pixels with the lens that the model knows: padded or cropped where theirs is another one."""
    lens = pinhole(len(views), FOV_DEGREES, size, size)
    cameras = Cameras(views.cameras.camera_to_world, lens, size, size)
    own = views.cameras.resized(size, size).intrinsics
    if torch.allclose(own, lens, rtol=0.0, atol=0.01):
        return Views(resize_rgba(views.rgba, size), cameras)
    pictures = [
        reaim(rgba, views.cameras.camera_to_world[index], views.cameras.intrinsics[index], cameras[index : index + 1])
        for index, rgba in enumerate(views.rgba)
    ]
    return Views(torch.stack(pictures), cameras)


def network_input(views: Views) -> Tensor:
    """[V, 9, H, W] of views in the model's world: colours on white, normalised, then Plücker rays (moment first)."""
    mean, std = (views.rgba.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
    return torch.cat([(views.over(1.0) - mean) / std, plucker(views.cameras)], 1)


def canonical(gaussians: Gaussians, turn: Tensor, scale: float) -> Gaussians:
    """Gaussians of the model's world in the canonical frame; turn and scale as `model_cameras` gave them."""
    # The inverse turn, by the first camera's azimuth about +Y, as a quaternion times the Gaussians' own.
    half = 0.5 * math.atan2(-float(turn[0, 2]), float(turn[0, 0]))
    c, s = math.cos(half), math.sin(half)
    left = gaussians.quats.new_tensor([[c, 0.0, -s, 0.0], [0.0, c, 0.0, s], [s, 0.0, c, 0.0], [0.0, -s, 0.0, c]])
    quats = torch.nn.functional.normalize(gaussians.quats @ left.T, dim=-1)
    return Gaussians(
        gaussians.means @ turn / scale, gaussians.scales / scale, quats, gaussians.opacities, gaussians.colors
    )


def wide_layers(network: Lgm) -> list[nn.Module]:
    """The layers that hold nearly all of the weights, but none whose dtype says in which one the network computes."""
    return layers(network, (*_FINE, "unet.conv_in."))


class PublishedLgm:
    """A published LGM on a device. rotations: whether the weights know how Gaussians are turned (see `load`)."""

    def __init__(self, network: Lgm, device: str = "cpu", size: int = SIZE, rotations: bool = True) -> None:
        self.network = network.eval().requires_grad_(False)
        self.network.unet.fold()
        self.device, self.size, self.rotations = device, size, rotations

    @classmethod
    def load(cls, path: Path, device: str = "cpu", dtype: torch.dtype | None = None) -> PublishedLgm:
        """Reads a .safetensors file as published, into `dtype` (the best for the device by default).

        Where the best is float32 but the file has half of that, the weights stay as they are in the file and are
        widened layer by layer.

        Files without `fixrot` in their names were trained while a mistake made every rotation next to none: the
        quaternion was normalised over all Gaussians, and the rasteriser took it as it was. Their Gaussians are left
        unturned, as their training drew them. Nothing but the name tells these weights apart.

        Raises MissingWeights where the file is absent, damaged or not an LGM's.
        """
        config = LgmConfig.from_shapes(read_shapes(path))
        wanted = dtype or inference_dtype(device, torch.float16)
        stored = dtype_of_file(path) if dtype is None and device == "cpu" and wanted == torch.float32 else wanted

        def make() -> Lgm:
            network = placed(Lgm(config), "meta", wanted, _FINE, channels_last=True)
            if stored != wanted:
                widen_when_used(wide_layers(network), stored)
            return network

        network = loaded_network(make, path, device, channels_last=True)
        return cls(network, device, rotations="fixrot" in path.name)

    @classmethod
    def untrained(
        cls, config: LgmConfig = BIG, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> PublishedLgm:
        """Random weights: for trying the way of a job, never for a result."""
        network = placed(random_network(lambda: Lgm(config), seed), device, dtype, _FINE, channels_last=True)
        return cls(network, device)

    @torch.inference_mode()
    def reconstruct(self, views: Views, warnings: list[str] | None = None) -> Generator[Step, None, Gaussians]:
        """Gaussians of an object at the origin that the views' cameras look at, in the cameras' own frame.

        What is not as the model was trained is said in `warnings`. Raises BadInput for fewer than four views, and when
        they show nothing.
        """
        warnings = [] if warnings is None else warnings
        views = self._chosen(views.to("cpu"), warnings)
        cameras, turn, scale = model_cameras(views.cameras)
        seen = through_the_lens(Views(views.rgba, cameras), self.size)
        walk = self.network.walk(network_input(seen)[None].to(self.device))
        total, done = self.network.unet.stages + 1, 0
        while True:
            try:
                next(walk)
            except StopIteration as end:
                raw = end.value
                break
            done += 1
            yield Step(done, total, "Looking at all views together")
        gaussians = as_gaussians(absolute_gaussians(raw.float())[0].cpu())
        if not self.rotations:
            unturned = gaussians.quats.new_tensor([1.0, 0.0, 0.0, 0.0]).expand_as(gaussians.quats)
            gaussians = replace(gaussians, quats=unturned)
        gaussians = canonical(gaussians[gaussians.opacities >= FAINTEST], turn, scale)
        if not len(gaussians):
            raise BadInput(
                "Nothing can be made out in the views.", "Choose pictures that show one object on a plain background."
            )
        yield Step(total, total, "Placing Gaussians")
        return gaussians

    def _chosen(self, views: Views, warnings: list[str]) -> Views:
        if not self.rotations:
            warnings.append(
                "These are LGM's weights from before April 2024, which know no rotations: Gaussians are left unturned. "
                "The file model_fp16_fixrot.safetensors is better."
            )
        if len(views) > VIEWS:
            warnings.append(f"LGM can use {VIEWS} of {len(views)} views: those best spread were chosen.")
        if len(views) != VIEWS:
            picked = best_spread(views.cameras, VIEWS)  # raises BadInput for too few
            views = Views(views.rgba[picked], views.cameras[picked])
        position = views.cameras.camera_to_world[:, :3, 3]
        azimuths = torch.rad2deg(torch.atan2(position[:, 0], position[:, 2])).sort().values
        gaps = torch.cat([azimuths[1:], azimuths[:1] + 360.0]) - azimuths
        if float((gaps - 90.0).abs().max()) > 15.0:
            warnings.append(
                "LGM knows four views a quarter turn apart; these stand otherwise, and the object may suffer from it."
            )
        return views
