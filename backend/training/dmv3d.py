"""Training the small DMV3D: x0-prediction through volume rendering, with the world's own occupancy as a helper."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.datatypes import Step
from backend.nets.diffusion import alpha_sigma, log_snr
from backend.nets.dmv3d import Dmv3d, Dmv3dConfig
from backend.render.triplane import render_rays, sample_planes
from backend.training.contact_sheet import save_sheet
from backend.training.dataset import HELD_OUT_SEED, Dmv3dBatch, dmv3d_batch
from backend.training.loop import LossFunction, Watch
from backend.training.prompts import JUDGED, SAMPLED
from backend.views.dmv3d import Dmv3dGenerator, camera_inputs
from backend.views.signed import to_signed
from backend.vocabulary import Vocabulary

Result = TypeVar("Result")

NO_TEXT_SHARE = 0.1
# A user who gives a picture mostly gives no words; what kind of thing it shows can then be read from it.
NO_TEXT_SHARE_PICTURED, KIND_SHARE_PICTURED = 0.35, 0.35
PICTURED_SHARE = 0.5
SAMPLES_PER_RAY = 32
OCCUPANCY_WEIGHT, SURFACE_COLOR_WEIGHT, ALPHA_WEIGHT = 0.2, 1.0, 1.0


# small: the starter pack's 5 million weights; large: 183 million, for a GPU, in the paper's proportions.
NETWORKS: dict[str, dict[str, int]] = {
    "small": {},
    "large": {
        "image_size": 128, "patch_size": 8, "stem_width": 96, "lift_width": 48, "width": 768, "heads": 12,
        "encoder_blocks": 6, "decoder_blocks": 12, "plane_tokens": 16, "plane_width": 32,
    },
}  # fmt: skip


def new_network(vocabulary: Vocabulary, **sizes: int) -> Dmv3d:
    """sizes: as of Dmv3dConfig, for example one of NETWORKS."""
    return Dmv3d(Dmv3dConfig(vocabulary=len(vocabulary), **sizes))


def _noised(batch: Dmv3dBatch, levels: Tensor, generator: torch.Generator) -> Tensor:
    """[B, 4, 4, S, S]: views with noise at log-SNR `levels` [B], clean pictures put where they belong."""
    clean = to_signed(batch.rgba)
    alpha, sigma = alpha_sigma(levels)
    noise = torch.randn(clean.shape, generator=generator)
    noisy = alpha.view(-1, 1, 1, 1, 1) * clean + sigma.view(-1, 1, 1, 1, 1) * noise
    noisy[batch.clean_first, 0] = to_signed(batch.pictured[batch.clean_first])
    return noisy


def _tokens(batch: Dmv3dBatch, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
    encoded = []
    draws = torch.rand(len(batch.captions), generator=generator).tolist()
    for draw, pictured, kind, caption in zip(draws, batch.clean_first, batch.kinds, batch.captions, strict=True):
        silent = NO_TEXT_SHARE_PICTURED if pictured else NO_TEXT_SHARE
        if draw < silent:
            encoded.append(vocabulary.no_text())
        elif pictured and draw < silent + KIND_SHARE_PICTURED:
            encoded.append(vocabulary.encode(kind).tokens)
        else:
            encoded.append(vocabulary.encode(caption).tokens)
    return torch.tensor(encoded)


def losses(
    network: Dmv3d, batch: Dmv3dBatch, levels: Tensor, tokens: Tensor, generator: torch.Generator, device: str
) -> dict[str, Tensor]:
    """The terms of the loss, each a scalar: rendered rays, occupancy of points, colours on the surface."""
    noisy = _noised(batch, levels, generator).to(device)
    inputs = [torch.stack(parts).to(device) for parts in zip(*map(camera_inputs, batch.cameras), strict=True)]
    planes = network(noisy, *inputs, levels.to(device), tokens.to(device), batch.clean_first.to(device))

    truth = batch.supervision
    origins, directions, rgba = truth.origins.to(device), truth.directions.to(device), truth.rgba.to(device)
    rendered = render_rays(planes, network.decode, origins, directions, SAMPLES_PER_RAY, jitter=True)
    target = rgba[..., 3:] * (2 * rgba[..., :3] - 1)
    ray_color = F.mse_loss(rendered[..., :3].float(), target)
    ray_alpha = F.mse_loss(rendered[..., 3:].float(), rgba[..., 3:])

    surface = origins + directions * truth.distance.to(device).unsqueeze(-1)
    points = torch.cat([truth.points.to(device), surface.clamp(-1, 1)], 1)
    decoded = network.decode(sample_planes(planes, points)).float()
    count = truth.points.shape[1]
    occupancy = F.binary_cross_entropy_with_logits(decoded[:, :count, 0], truth.inside.float().to(device))
    hit = rgba[..., 3]
    color = (decoded[:, count:, 1:].sigmoid() - rgba[..., :3]).square().mean(-1)
    return {
        "color": ray_color,
        "alpha": ray_alpha,
        "inside": occupancy,
        "surface": (color * hit).sum() / hit.sum().clamp_min(1),
    }


def total(terms: dict[str, Tensor]) -> Tensor:
    return (
        terms["color"]
        + ALPHA_WEIGHT * terms["alpha"]
        + OCCUPANCY_WEIGHT * terms["inside"]
        + SURFACE_COLOR_WEIGHT * terms["surface"]
    )


def loss_function(vocabulary: Vocabulary, seed: int, batch_size: int, size: int, device: str) -> LossFunction:
    def loss(network: nn.Module, first: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(seed * 7_919 + first)
        batch = dmv3d_batch(seed, first, batch_size, size, pictured_share=PICTURED_SHARE)
        # Stratified over the batch: every step sees low and high noise.
        time = (torch.arange(batch_size) + torch.rand(batch_size, generator=generator)) / batch_size
        time = time[torch.randperm(batch_size, generator=generator)]
        assert isinstance(network, Dmv3d)
        terms = losses(network, batch, log_snr(time), _tokens(batch, vocabulary, generator), generator, device)
        return total(terms), {name: float(value.detach()) for name, value in terms.items()}

    return loss


@torch.no_grad()
def validate(
    network: Dmv3d, vocabulary: Vocabulary, seed: int, size: int, device: str, scenes: int = 32
) -> dict[str, float]:
    """PSNR in dB of held-out rays (RGB over grey) at three noise levels, text given, and with one clean view, without
    words and with the kind's name."""
    figures = {}
    for name, time, pictured in (
        ("psnr_t30", 0.3, 0.0),
        ("psnr_t60", 0.6, 0.0),
        ("psnr_t95", 0.95, 0.0),
        ("psnr_picture", 0.98, 1.0),
        ("psnr_named_picture", 0.98, 1.0),
    ):
        errors = []
        for first in range(0, scenes, 8):
            generator = torch.Generator().manual_seed(first)
            batch = dmv3d_batch(seed + HELD_OUT_SEED, first, 8, size, pictured_share=pictured)
            texts = {"psnr_picture": [""] * 8, "psnr_named_picture": batch.kinds}.get(name, batch.captions)
            words = [vocabulary.encode(text).tokens if text else vocabulary.no_text() for text in texts]
            levels = log_snr(torch.full((8,), time))
            terms = losses(network, batch, levels, torch.tensor(words), generator, device)
            errors.append(float(terms["color"]) / 4)  # signed colours span 2, so a quarter of their error
        figures[name] = -10 * float(np.log10(np.mean(errors)))
    return figures


def watch(vocabulary: Vocabulary, seed: int, size: int, device: str) -> Watch:
    """Held-out figures and a sheet of sampled prompts."""

    def look(network: nn.Module, folder: Path, step: int) -> dict[str, float]:
        assert isinstance(network, Dmv3d)
        generator = Dmv3dGenerator(network, vocabulary, device)
        rows = []
        for prompt in JUDGED + SAMPLED:
            rows.append((prompt, finish(generator.generate(prompt, seed=1)).over(1.0)))
        save_sheet(folder / f"samples_{step:06d}.png", rows, columns=2)
        return validate(network, vocabulary, seed, size, device)

    return look


def finish(walk: Generator[Step, None, Result]) -> Result:
    """Walks a stage to its end and returns its result."""
    while True:
        try:
            next(walk)
        except StopIteration as stop:
            return stop.value
