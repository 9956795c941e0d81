"""Training examples for the reconstructor as the denoiser imagines them: soft, but true to each other.

LGM's paper distorts rendered views to prepare for a generator's (section 3.4). Where the generator is a radiance field
its own views are to be had, with any number of others that must come out.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backend.cameras import orbit
from backend.datatypes import Cameras
from backend.nets.diffusion import alpha_sigma, log_snr
from backend.nets.dmv3d import Dmv3d
from backend.training.dataset import dmv3d_batch
from backend.training.lgm_dataset import NOVEL_VIEWS, SEEN_VIEWS, LgmBatch, joined, novel_cameras
from backend.views.dmv3d import (
    AZIMUTHS,
    ELEVATION,
    FOV_DEGREES,
    RADIUS,
    Dmv3dGenerator,
    camera_inputs,
    render_planes,
)
from backend.views.signed import from_signed, to_signed

LEAST_NOISE, MOST_NOISE = 0.1, 0.8  # diffusion times: from the object itself to what its caption makes one think of


@torch.no_grad()
def imagined_batch(generator: Dmv3dGenerator, seed: int, first: int, count: int, size: int, stride: int) -> LgmBatch:
    """As `lgm_batch`: objects that `generator` makes of noised views of the world's. Distances are unknown, and 0."""
    network = generator.network
    source = torch.Generator().manual_seed(seed * 6_007 + first)
    rng = np.random.default_rng([seed, first, 3])
    batch = dmv3d_batch(seed, first, count, network.config.image_size, rays=2, points=2, pictured_share=0.0)
    encoded = [generator.vocabulary.encode(caption).tokens for caption in batch.captions]
    planes = _planes(network, batch.rgba, batch.cameras, torch.tensor(encoded), source)

    given_cameras = [orbit(list(AZIMUTHS), ELEVATION, RADIUS, FOV_DEGREES, size)] * count
    wanted_cameras, given, wanted = [], [], []
    for number, views in enumerate(given_cameras):
        seen = list(rng.integers(0, 4, SEEN_VIEWS))
        novel = novel_cameras(rng, size)
        all_views = from_signed(render_planes(network, planes[number : number + 1], joined(views, novel)))
        given.append(all_views[:4])
        wanted.append(torch.cat([all_views[seen], all_views[-NOVEL_VIEWS:]]))
        wanted_cameras.append(joined(views[seen], novel))
    pictures = torch.stack(given)
    alpha = torch.nn.functional.avg_pool2d(pictures[:, :, 3], stride)
    return LgmBatch(
        pictures, given_cameras, alpha, torch.zeros_like(alpha), torch.stack(wanted), wanted_cameras, batch.captions
    )


def _planes(network: Dmv3d, rgba: Tensor, cameras: list[Cameras], tokens: Tensor, source: torch.Generator) -> Tensor:
    """Feature planes of the objects that the network sees in views rgba [B, 4, 4, S, S] under noise."""
    count = len(tokens)
    levels = log_snr(LEAST_NOISE + (MOST_NOISE - LEAST_NOISE) * torch.rand(count, generator=source))
    alpha, sigma = (part.view(-1, 1, 1, 1, 1) for part in alpha_sigma(levels))
    noisy = alpha * to_signed(rgba) + sigma * torch.randn(rgba.shape, generator=source)
    inputs = [torch.stack(parts) for parts in zip(*map(camera_inputs, cameras), strict=True)]
    return network(noisy, *inputs, levels, tokens, torch.zeros(count, dtype=torch.bool))
