"""LGM's network: the published sizes, its stride, and Gaussians that land on their rays."""

from __future__ import annotations

import pytest
import torch

from backend.cameras import orbit, rays
from backend.nets.lgm import BIG, SMALL, STARTER, TINY, Lgm, LgmConfig, absolute_gaussians, ray_gaussians


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"),
    [(TINY, 59_743_360, 244), (SMALL, 412_958_240, 344), (BIG, 415_042_848, 376)],
)
def test_the_published_sizes(config: LgmConfig, parameters: int, tensors: int) -> None:
    with torch.device("meta"):
        network = Lgm(config)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == tensors
    assert "unet.down_blocks.0.nets.0.norm1.weight" in network.state_dict()


def test_the_output_is_smaller_than_the_input_by_its_stride() -> None:
    network = Lgm(STARTER)
    raw = network(torch.randn(1, 4, 11, 64, 64))
    assert STARTER.stride == 2
    assert raw.shape == (1, 4, 14, 32, 32)


def test_views_see_each_other() -> None:
    torch.manual_seed(0)
    network = Lgm(STARTER).eval()
    images = torch.randn(1, 4, 11, 32, 32)
    changed = images.clone()
    changed[0, 3] += 1.0
    with torch.no_grad():
        difference = (network(images) - network(changed))[0, 0].abs().max()
    assert difference > 1e-5


def test_a_config_survives_its_card() -> None:
    assert LgmConfig.from_dict(STARTER.to_dict()) == STARTER
    as_lists = {k: list(v) if isinstance(v, tuple) else v for k, v in STARTER.to_dict().items()}
    assert LgmConfig.from_dict(as_lists) == STARTER


def test_published_activations() -> None:
    raw = torch.zeros(1, 1, 14, 1, 1)
    raw[0, 0, 0], raw[0, 0, 7] = 3.0, 2.0
    row = absolute_gaussians(raw)[0, 0]
    assert row[0] == 1.0
    assert row[3] == 0.5
    assert torch.allclose(row[4:7], torch.full((3,), 0.0693147))
    assert torch.equal(row[7:11], torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert torch.equal(row[11:], torch.full((3,), 0.5))


def test_ray_gaussians_lie_on_their_pixels_rays() -> None:
    cameras = orbit([0.0, 90.0, 180.0, 270.0], 20.0, 3.0, 50.0, 8)
    origins, directions = rays(cameras)
    raw = torch.zeros(1, 4, 14, 8, 8)
    raw[:, :, 0] = 0.5
    rgb = torch.rand(1, 4, 3, 8, 8) * 0.9 + 0.05
    rows = ray_gaussians(raw, origins[None], directions[None], torch.full((1, 4, 8, 8), 3.0), rgb)[0]
    expected = (origins + 3.15 * directions).reshape(-1, 3)
    assert torch.allclose(rows[:, :3], expected, atol=1e-5)
    assert torch.allclose(rows[:, 11:], rgb[0].permute(0, 2, 3, 1).reshape(-1, 3), atol=1e-5)
    assert torch.allclose(rows[:, 7:11].norm(dim=-1), torch.ones(256))
