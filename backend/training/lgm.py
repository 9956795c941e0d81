"""Training the small reconstructor: renders of its Gaussians against the world's, ray distances as a helper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.nets.lgm import STARTER, Lgm
from backend.reconstruct.lgm import as_gaussians, gaussian_rows
from backend.render.views import render_gaussians
from backend.training.contact_sheet import save_sheet
from backend.training.dataset import HELD_OUT_SEED
from backend.training.imagined import imagined_batch
from backend.training.lgm_dataset import LgmBatch, lgm_batch
from backend.training.loop import LossFunction, Watch
from backend.views.dmv3d import Dmv3dGenerator

Row = tuple[str, Tensor]  # a caption and pictures, see contact_sheet.py

DISTANCE_WEIGHT, OPACITY_WEIGHT, ALPHA_WEIGHT = 0.3, 0.05, 1.0


def new_network() -> Lgm:
    return Lgm(STARTER)


def losses(network: Lgm, batch: LgmBatch, device: str) -> tuple[dict[str, Tensor], Tensor]:
    """The terms of the loss, each a scalar, and the premultiplied renders [B, W, 4, S, S] of the wanted views."""
    predicted = gaussian_rows(network, batch.given.to(device), [views.to(device) for views in batch.cameras])
    rendered = torch.stack(
        [
            render_gaussians(as_gaussians(rows), views.to(device), background=0.0)
            for rows, views in zip(predicted, batch.wanted_cameras, strict=True)
        ]
    )
    wanted = batch.wanted.to(device)
    alpha = batch.alpha.flatten(1).to(device)
    eyes = torch.stack([views.camera_to_world[:, :3, 3] for views in batch.cameras]).to(device)
    pixels = batch.alpha.shape[-1] ** 2
    reached = (predicted[..., :3] - eyes.repeat_interleave(pixels, 1)).norm(dim=-1)
    distance = batch.distance.flatten(1).to(device)
    solid = (alpha > 0.99) & (distance > 0)
    error = (reached - distance).abs()
    terms = {
        "color": F.mse_loss(rendered[:, :, :3], wanted[:, :, :3] * wanted[:, :, 3:]),
        "alpha": F.mse_loss(rendered[:, :, 3], wanted[:, :, 3]),
        "distance": (error * solid).sum() / solid.sum().clamp_min(1),
        "opacity": F.binary_cross_entropy(predicted[..., 3].clamp(1e-4, 1 - 1e-4), (alpha > 0.5).float()),
    }
    return terms, rendered.detach()


def total(terms: dict[str, Tensor]) -> Tensor:
    return (
        terms["color"]
        + ALPHA_WEIGHT * terms["alpha"]
        + DISTANCE_WEIGHT * terms["distance"]
        + OPACITY_WEIGHT * terms["opacity"]
    )


def loss_function(
    seed: int, batch_size: int, size: int, device: str, imagined_by: Dmv3dGenerator | None = None
) -> LossFunction:
    """imagined_by: a generator on the CPU whose objects take every other batch's place."""

    def loss(network: nn.Module, first: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(network, Lgm)
        stride = network.config.stride
        if imagined_by is not None and first // batch_size % 2:
            batch = imagined_batch(imagined_by, seed, first, batch_size, size, stride)
        else:
            batch = lgm_batch(seed, first, batch_size, size, stride)
        terms, _ = losses(network, batch, device)
        return total(terms), {name: float(value.detach()) for name, value in terms.items()}

    return loss


@torch.no_grad()
def validate(network: Lgm, seed: int, size: int, device: str, scenes: int = 24) -> tuple[dict[str, float], list[Row]]:
    """Over held-out scenes: PSNR in dB of premultiplied colour in one seen and two unseen views, mean distance error
    along the rays, alpha error; and the rows of a sheet, three true views beside their renders."""
    sums: dict[str, float] = {}
    rows: list[Row] = []
    for index in range(scenes):
        batch = lgm_batch(seed + HELD_OUT_SEED, index, 1, size, network.config.stride, easy=True)
        terms, rendered = losses(network, batch, device)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value) / scenes
        truth = batch.wanted[0, :, :3] * batch.wanted[0, :, 3:] + 1 - batch.wanted[0, :, 3:]
        made = rendered[0, :, :3] + 1 - rendered[0, :, 3:]
        rows.append((batch.captions[0], torch.cat([truth, made.cpu()])))
    psnr = -10 * float(np.log10(sums["color"]))
    return {"psnr": psnr, "distance": sums["distance"], "alpha": sums["alpha"]}, rows


def watch(seed: int, size: int, device: str) -> Watch:
    """Held-out figures and a sheet of truth beside render."""

    def look(network: nn.Module, folder: Path, step: int) -> dict[str, float]:
        assert isinstance(network, Lgm)
        figures, rows = validate(network, seed, size, device)
        save_sheet(folder / f"samples_{step:06d}.png", rows, columns=2)
        return figures

    return look
