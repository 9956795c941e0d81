"""GeoLRM as a reconstructor: any number of posed views in, Gaussians in the canonical frame out."""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from backend.datatypes import CANONICAL_SIZE, Cameras, Gaussians, Step, Views
from backend.errors import BadInput
from backend.nets.geolrm import GeoLrm, select_anchors
from backend.nets.geolrm_config import GeoLrmConfig
from backend.reconstruct.precision import loaded_network, random_network
from backend.views.reaim import aimed_at_origin, reaim
from backend.weights import read_config

MODEL_SCALE = 1.0 / CANONICAL_SIZE  # the model's objects are 1 long
RADIUS = 1.5 / MODEL_SCALE  # where the released inference has its cameras, in the canonical frame
SV3D_FOV, ZERO123PLUS_FOV = 39.6, 30.0  # what it takes their fields of view to be, in degrees
TRAINING_SIZE, LARGE_SIZE = 448, 560  # pixels of a view: as in training, and as the released inference has SV3D's
MAX_TOKENS = 8192
FAINTEST = 0.005  # the released export drops fainter Gaussians

# The model has +Z up and azimuth 0 at +X: (x, y, z) there are (z, x, y) of the canonical frame.
_TO_MODEL = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
_FROM_MODEL_QUAT = (0.5, -0.5, -0.5, -0.5)


def model_cameras(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """camera_to_world [V, 4, 4] in the model's frame, and intrinsics [V, 3, 3] divided by the image's size."""
    turn = cameras.camera_to_world.new_tensor(_TO_MODEL)
    pose = cameras.camera_to_world.clone()
    pose[:, :3] = turn @ pose[:, :3]
    pose[:, :3, 3] *= MODEL_SCALE
    size = cameras.intrinsics.new_tensor([cameras.width, cameras.height, 1.0])
    return pose, cameras.intrinsics / size[None, :, None]


def canonical_gaussians(rows: Tensor) -> Gaussians:
    """The network's rows [N, 14] as Gaussians in the canonical frame."""
    means, opacities, scales, quats, colors = rows.split([3, 1, 3, 4, 3], -1)
    w, xyz = quats[:, :1], quats[:, 1:]
    turn = rows.new_tensor(_FROM_MODEL_QUAT)
    turn_w, turn_xyz = turn[0], turn[1:].expand_as(xyz)
    real = turn_w * w - (turn_xyz * xyz).sum(-1, keepdim=True)
    imaginary = turn_w * xyz + w * turn_xyz + torch.linalg.cross(turn_xyz, xyz, dim=-1)
    return Gaussians(
        means @ rows.new_tensor(_TO_MODEL) / MODEL_SCALE,
        scales / MODEL_SCALE,
        torch.cat([real, imaginary], -1),
        opacities[:, 0],
        colors,
    )


def prepare(views: Views, size: int | None = None) -> tuple[Tensor, Cameras]:
    """Pictures [V, 3, size, size] on white, and their cameras, as the released inference prepares them.

    size: by default 448, or 560 for views that are larger than 448. The network knows square pictures with one focal
    length and the principal point in the middle: others are turned, from where they were taken, to look at the object.
    """
    if size is None:
        size = TRAINING_SIZE if min(views.cameras.width, views.cameras.height) <= TRAINING_SIZE else LARGE_SIZE
    if not _plain(views.cameras):
        target = aimed_at_origin(views.cameras.camera_to_world, RADIUS * math.tan(math.radians(SV3D_FOV / 2)), size)
        poses, lenses = views.cameras.camera_to_world, views.cameras.intrinsics
        turned = [reaim(rgba, poses[i], lenses[i], target[[i]]) for i, rgba in enumerate(views.rgba)]
        views = Views(torch.stack(turned), target)
    images = views.over(1.0)
    if images.shape[-1] != size:
        images = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return images.clamp(0, 1), views.cameras.resized(size, size)


def _plain(cameras: Cameras) -> bool:
    """Whether the pictures are square, with one focal length and the principal point in the middle."""
    lens, side = cameras.intrinsics, cameras.width
    off = torch.stack([lens[:, 0, 0] - lens[:, 1, 1], lens[:, 0, 2] - side / 2, lens[:, 1, 2] - side / 2])
    return cameras.width == cameras.height and float(off.abs().max()) < 1e-3 * side


class GeoLrmReconstructor:
    """The published model.

    dtype: of the encoders and layers; max_tokens: anchors, of 32 Gaussians each; seed: of the draw among more occupied
    voxels than that; size: pixels of a view, a multiple of 28 (see `prepare`); pad: fill up to max_tokens with anchors
    at the origin, as released, instead of leaving those away.
    """

    def __init__(
        self,
        network: GeoLrm,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_tokens: int = MAX_TOKENS,
        seed: int = 0,
        size: int | None = None,
        pad: bool = False,
    ) -> None:
        if size is not None and (size < 28 or size % 28):
            raise BadInput(f"GeoLRM cannot take views of {size} pixels.", "Use a multiple of 28, such as 448 or 560.")
        if max_tokens < 1:
            raise BadInput(f"GeoLRM cannot work with {max_tokens} tokens.", "Use 4096 to 16384.")
        self.network = network.in_precision(dtype).to(device).eval()
        self.device = device
        self.max_tokens, self.seed, self.size, self.pad = max_tokens, seed, size, pad

    @classmethod
    def load(cls, path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> GeoLrmReconstructor:
        """Reads a converted checkpoint. Raises MissingWeights where it is absent, damaged or of another model."""
        config = GeoLrmConfig.from_dict(read_config(path))
        return cls(loaded_network(lambda: GeoLrm(config).in_precision(dtype), path, device), device, dtype)

    @classmethod
    def untrained(
        cls,
        config: GeoLrmConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_tokens: int = MAX_TOKENS,
    ) -> GeoLrmReconstructor:
        """Random weights: for trying the way of a job, never for a result."""
        return cls(random_network(lambda: GeoLrm(config or GeoLrmConfig()), seed), device, dtype, max_tokens)

    @torch.inference_mode()
    def reconstruct(self, views: Views, warnings: list[str] | None = None) -> Generator[Step, None, Gaussians]:
        """Gaussians of an object in the canonical frame, from one view or more, of any cameras that look at it.

        Nothing of that needs `warnings`. Raises BadInput when the views show nothing.
        """
        views = views.to("cpu")
        fix = "Choose pictures that show one object on a plain background."
        if len(views) == 0 or float(views.rgba[:, 3].max()) < 0.02:
            raise BadInput("Nothing can be made out in the views.", fix)
        images, cameras = prepare(views, self.size)
        pose, lens = model_cameras(cameras)
        images, pose, lens = images.to(self.device), pose.to(self.device), lens.to(self.device)
        proposal, reconstruction = self.network.serializer, self.network.lrm_generator
        half = 1 + len(proposal.transformer.layers)
        total = half + 1 + len(reconstruction.transformer.layers)

        logits = yield from _walk(proposal.steps(images, pose, lens), 0, total, "Finding where the object is")
        anchors = select_anchors(logits, self.max_tokens, self.seed, self.pad)
        if len(anchors) == 0:
            raise BadInput("Nothing can be made out in the views.", fix)
        steps = reconstruction.steps(images, pose, lens, anchors)
        rows = (yield from _walk(steps, half, total, "Placing Gaussians")).cpu()
        gaussians = canonical_gaussians(rows[rows[:, 3] >= FAINTEST])
        if len(gaussians) == 0:
            raise BadInput("Nothing can be made out in the views.", fix)
        return gaussians


def _walk(steps: Generator[None, None, Tensor], done: int, total: int, message: str) -> Generator[Step, None, Tensor]:
    """Walks a network's steps and yields a `Step` for each, counted from `done`; returns what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            return finished.value
        done += 1
        yield Step(done, total, message)
