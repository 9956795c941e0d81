"""Training the reader of pictures: kinds, and the azimuth and elevation from which they were taken."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.nets.picture_reader import PictureReader, PictureReaderConfig
from backend.training.dataset import HELD_OUT_SEED, PictureBatch, picture_batch
from backend.training.loop import LossFunction, Watch
from backend.views.picture_reader import peak_azimuth
from backend.views.signed import to_signed
from backend.vocabulary import KIND_WORDS

KINDS = list(KIND_WORDS)
_SHARPNESS = 20.0  # of the von Mises distribution round the true azimuth that its bins must come to: 13 degrees


def new_network(size: int) -> PictureReader:
    return PictureReader(PictureReaderConfig(kinds=len(KINDS), image_size=size))


def _disturbed(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures [B, 4, S, S] a little off their middle, of other sizes, and in other colours of light."""
    count = len(pictures)
    draw = torch.rand(count, 6, generator=generator) * 2 - 1
    scale = 1 + 0.1 * draw[:, 0]
    zero = torch.zeros(count)
    rows = [torch.stack([scale, zero, 0.06 * draw[:, 1]], 1), torch.stack([zero, scale, 0.06 * draw[:, 2]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    premultiplied = torch.cat([pictures[:, :3] * pictures[:, 3:], pictures[:, 3:]], 1)
    moved = F.grid_sample(premultiplied, grid, align_corners=False)
    colors = moved[:, :3] / moved[:, 3:].clamp_min(1e-3) * (1 + 0.15 * draw[:, 3:, None, None])
    return torch.cat([colors.clamp(0, 1), moved[:, 3:]], 1)


def losses(network: PictureReader, batch: PictureBatch, pictures: Tensor, device: str) -> dict[str, Tensor]:
    """The terms of the loss, each a scalar, for `pictures` that show what `batch` says."""
    kinds, bins, elevation = network(to_signed(pictures).to(device))
    truth = torch.tensor([KINDS.index(kind) for kind in batch.kinds], device=device)
    centres = torch.arange(bins.shape[1]) * (2 * math.pi / bins.shape[1])
    wanted = (_SHARPNESS * torch.cos(batch.azimuths[:, None] - centres)).softmax(1).to(device)
    return {
        "kind": F.cross_entropy(kinds, truth),
        "azimuth": F.cross_entropy(bins, wanted) - (-wanted * wanted.clamp_min(1e-9).log()).sum(1).mean(),
        "elevation": F.smooth_l1_loss(elevation, batch.elevations.to(device), beta=0.1),
    }


def loss_function(seed: int, batch_size: int, size: int, device: str) -> LossFunction:
    def loss(network: nn.Module, first: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(network, PictureReader)
        generator = torch.Generator().manual_seed(seed * 5_003 + first)
        batch = picture_batch(seed, first, batch_size, size)
        terms = losses(network, batch, _disturbed(batch.pictures, generator), device)
        total = terms["kind"] + terms["azimuth"] + 2.0 * terms["elevation"]
        return total, {name: float(value.detach()) for name, value in terms.items()}

    return loss


@torch.no_grad()
def validate(network: PictureReader, seed: int, size: int, device: str, count: int = 384) -> dict[str, float]:
    """Over held-out pictures: share of kinds named rightly, median errors of azimuth and elevation in degrees, and the
    share of azimuths within 20 degrees. Kinds that look alike from all sides are left out of the azimuths."""
    batch = picture_batch(seed + HELD_OUT_SEED, 0, count, size)
    kinds, bins, elevation = network(to_signed(batch.pictures).to(device))
    named = [KINDS[int(number)] for number in kinds.argmax(1)]
    told = torch.tensor([math.radians(peak_azimuth(row)) for row in bins.cpu()])
    turned = torch.rad2deg(torch.atan2(torch.sin(told - batch.azimuths), torch.cos(told - batch.azimuths))).abs()
    turned = turned[torch.tensor([kind in SIDED_KINDS for kind in batch.kinds])]
    return {
        "kinds_right": sum(one == other for one, other in zip(named, batch.kinds, strict=True)) / count,
        "azimuth_error": float(turned.median()),
        "azimuths_near": float((turned < 20).float().mean()),
        "elevation_error": float(torch.rad2deg(elevation.cpu() - batch.elevations).abs().median()),
    }


# Kinds whose front, back and sides can be told apart.
SIDED_KINDS = ("mug", "chair", "car", "boat", "sofa", "robot", "house", "snowman")


def watch(seed: int, size: int, device: str) -> Watch:
    def look(network: nn.Module, folder: Path, step: int) -> dict[str, float]:
        assert isinstance(network, PictureReader)
        return validate(network, seed, size, device)

    return look
