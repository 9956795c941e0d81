"""Training the small reconstructor: renders of its Gaussians against the world's, ray distances as a helper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.cameras import look_at, orbit, orbit_positions, pinhole
from backend.datatypes import Cameras
from backend.nets.lgm import STARTER, Lgm
from backend.reconstruct.lgm import as_gaussians, gaussian_rows
from backend.render.views import render_gaussians
from backend.training.contact_sheet import save_sheet
from backend.training.dataset import HELD_OUT_SEED, random_light
from backend.training.loop import LossFunction, Watch
from backend.training.world.scene import sample_object
from backend.training.world.tracer import render_batch
from backend.views.dmv3d import AZIMUTHS, FOV_DEGREES, RADIUS

NOVEL_VIEWS, SEEN_VIEWS = 2, 1  # rendered a scene and step
DISTANCE_WEIGHT, OPACITY_WEIGHT, ALPHA_WEIGHT = 0.3, 0.05, 1.0


def new_network() -> Lgm:
    return Lgm(STARTER)


def _input_cameras(rng: np.random.Generator, size: int, jitter_share: float) -> Cameras:
    """Mostly the generator's own four; sometimes a user's: uneven angles, heights, distances and lenses."""
    if rng.random() >= jitter_share:
        return orbit(list(AZIMUTHS), [float(rng.uniform(5, 35))] * 4, RADIUS, FOV_DEGREES, size)
    azimuths = torch.tensor(AZIMUTHS) + torch.from_numpy(rng.uniform(-25, 25, 4)).float()
    elevations = torch.from_numpy(rng.uniform(-10, 45, 4)).float()
    fov = float(rng.uniform(42, 58))
    # A longer lens stands further away, so that the object keeps its size in the frame.
    fitting = RADIUS * np.tan(np.radians(FOV_DEGREES / 2)) / np.tan(np.radians(fov / 2))
    radius = torch.from_numpy(rng.uniform(0.95, 1.15, 4) * fitting).float()
    positions = orbit_positions(azimuths, elevations, radius)
    return Cameras(look_at(positions, torch.zeros_like(positions)), pinhole(4, fov, size, size), size, size)


def _novel_cameras(rng: np.random.Generator, size: int) -> Cameras:
    azimuths = torch.from_numpy(rng.uniform(0, 360, NOVEL_VIEWS)).float()
    elevations = torch.from_numpy(rng.uniform(-20, 60, NOVEL_VIEWS)).float()
    return orbit(azimuths, elevations, RADIUS, FOV_DEGREES, size)


def _soften(rng: np.random.Generator, rgba: Tensor) -> Tensor:
    """Views as a denoiser makes them: blurred, and not quite agreeing with each other (LGM section 3.4)."""
    premultiplied = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
    size = rgba.shape[-1]
    small = F.interpolate(premultiplied, scale_factor=float(rng.uniform(0.3, 0.8)), mode="area")
    soft = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    if rng.random() < 0.5:  # a smooth random warp of a pixel or two, another for each view
        shift = torch.from_numpy(rng.normal(size=(4, 2, 5, 5))).float() * 0.015
        field = F.interpolate(shift, size=(size, size), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
        ticks = (torch.arange(size) + 0.5) / size * 2 - 1
        grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)
        soft = F.grid_sample(soft, grid + field, align_corners=False)
    return torch.cat([soft[:, :3] / soft[:, 3:].clamp_min(1e-3), soft[:, 3:]], 1).clamp(0, 1)


def _premultiplied(rgba: Tensor) -> Tensor:
    return torch.cat([rgba[..., :3, :, :] * rgba[..., 3:, :, :], rgba[..., 3:, :, :]], -3)


def losses(
    network: Lgm, seed: int, first: int, count: int, size: int, device: str, easy: bool = False
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The terms of the loss over scenes `first` to `first + count - 1`, and the last scene's [truth, render] pictures.

    easy: the generator's cameras, bare colours and sharp views only, as in evaluation.
    """
    rng = np.random.default_rng([seed, first, 2])
    scenes = [sample_object(seed, first + i) for i in range(count)]
    rows = [scene.placed(0.0 if easy or rng.random() < 0.6 else float(rng.uniform(0, 360))) for scene in scenes]
    cameras = [_input_cameras(rng, size, 0.0 if easy else 0.35) for _ in scenes]
    side = size // network.config.stride
    truth, _ = render_batch(rows, cameras)
    small, distance = render_batch(rows, [c.resized(side, side) for c in cameras])
    given = truth.clone()
    if not easy:
        lights = np.stack([random_light(rng, bare=0.6) for _ in scenes])
        lit = [i for i in range(count) if lights[i, 3] < 1]
        if lit:
            given[lit] = render_batch([rows[i] for i in lit], [cameras[i] for i in lit], lights[lit])[0]
        for i in range(count):
            if rng.random() < 0.5:
                given[i] = _soften(rng, given[i])
    novel = [_novel_cameras(rng, size) for _ in scenes]
    novel_truth, _ = render_batch(rows, novel)

    predicted = gaussian_rows(network, given.to(device), [c.to(device) for c in cameras])
    color, alpha, pictures = [], [], []
    for i in range(count):
        gaussians = as_gaussians(predicted[i])
        for views, wanted in ((cameras[i][[int(rng.integers(0, 4))][:SEEN_VIEWS]], None), (novel[i], novel_truth[i])):
            if wanted is None:
                same = (cameras[i].camera_to_world[:, None] == views.camera_to_world[None]).flatten(2).all(-1)
                wanted = truth[i][same.any(1)]
            rendered = render_gaussians(gaussians, views.to(device), background=0.0)
            target = _premultiplied(wanted).to(device)
            color.append(F.mse_loss(rendered[:, :3], target[:, :3]))
            alpha.append(F.mse_loss(rendered[:, 3:], target[:, 3:]))
            pictures = [target, rendered.detach()]

    hit = (small[:, :, 3] > 0.99).flatten(1).to(device)
    centers = torch.stack([c.camera_to_world[:, :3, 3] for c in cameras]).to(device)
    eyes = centers[:, :, None].expand(-1, -1, side * side, -1).flatten(1, 2)
    reached = (predicted[..., :3] - eyes).norm(dim=-1)
    error = (reached - distance.flatten(1).to(device)).abs()
    opacity = F.binary_cross_entropy(
        predicted[..., 3].clamp(1e-4, 1 - 1e-4), (small[:, :, 3] > 0.5).flatten(1).float().to(device)
    )
    terms = {
        "color": torch.stack(color).mean(),
        "alpha": torch.stack(alpha).mean(),
        "distance": (error * hit).sum() / hit.sum().clamp_min(1),
        "opacity": opacity,
    }
    return terms, pictures


def total(terms: dict[str, Tensor]) -> Tensor:
    return (
        terms["color"]
        + ALPHA_WEIGHT * terms["alpha"]
        + DISTANCE_WEIGHT * terms["distance"]
        + OPACITY_WEIGHT * terms["opacity"]
    )


def loss_function(seed: int, batch_size: int, size: int, device: str) -> LossFunction:
    def loss(network: nn.Module, first: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(network, Lgm)
        terms, _ = losses(network, seed, first, batch_size, size, device)
        return total(terms), {name: float(value.detach()) for name, value in terms.items()}

    return loss


def watch(seed: int, size: int, device: str, scenes: int = 24) -> Watch:
    """Held-out PSNR of unseen views (premultiplied RGB), distance error, and a sheet of truth beside render."""

    @torch.no_grad()
    def look(network: nn.Module, folder: Path, step: int) -> dict[str, float]:
        assert isinstance(network, Lgm)
        sums: dict[str, float] = {}
        rows = []
        for index in range(scenes):
            terms, (target, rendered) = losses(network, seed + HELD_OUT_SEED, index, 1, size, device, easy=True)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value) / scenes
            over_white = [picture[:, :3] + 1 - picture[:, 3:] for picture in (target, rendered)]
            rows.append((sample_object(seed + HELD_OUT_SEED, index).caption, torch.cat(over_white).cpu()))
        save_sheet(folder / f"samples_{step:06d}.png", rows, columns=2)
        return {"psnr": -10 * float(np.log10(sums["color"])), "distance": sums["distance"], "alpha": sums["alpha"]}

    return look
