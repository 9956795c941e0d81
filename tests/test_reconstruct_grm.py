"""GRM as a reconstructor: its world and ours, its pictures, and what it makes of views that it was not made for."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from grm_cases import stored
from stand_ins import ball_views
from torch import Tensor

from backend.cameras import orbit, world_to_camera_opencv
from backend.datatypes import Gaussians, Step, Views
from backend.errors import BadInput, MissingWeights
from backend.nets.grm import GaussianMaps
from backend.nets.grm_config import GrmConfig
from backend.reconstruct.grm import (
    GrmReconstructor,
    canonical,
    model_pictures,
    model_poses,
    ring_offset,
    turned_back,
)
from backend.render.gaussian_reference import rotation_matrices
from backend.weights import save_checkpoint

TINY = GrmConfig(
    input_res=32, patch_size=8, layers=1, width=64, decoder_ratio=1, window_size=16,
    render_activation_type="sigmoid", scale_min_act=0.005, scale_max_act=0.02,
)  # fmt: skip
# Canonical to model: +X to azimuth 315 degrees, +Y to +Z, +Z to azimuth 225.
TURN = torch.tensor([[0.5**0.5, 0.0, -(0.5**0.5)], [-(0.5**0.5), 0.0, -(0.5**0.5)], [0.0, 1.0, 0.0]])


def walked(reconstructor: GrmReconstructor, views: Views, warnings: list[str]) -> tuple[Gaussians, list[Step]]:
    walk, steps = reconstructor.reconstruct(views, warnings), []
    while True:
        try:
            steps.append(next(walk))
        except StopIteration as finished:
            return finished.value, steps


def constant(opacity: float = 0.0) -> GrmReconstructor:
    """One that says 0 for everything, and `opacity`."""
    reconstructor = GrmReconstructor.untrained(TINY)
    encoder = reconstructor.network.visual_encoder
    torch.nn.init.zeros_(encoder.gaussian_upsampler.layernorm2.weight)
    torch.nn.init.ones_(encoder.gaussian_upsampler.layernorm2.bias)
    for name in ("depth", "feature", "scaling", "rotation"):
        torch.nn.init.zeros_(encoder.get_parameter(f"out_layer_{name}.weight"))
    torch.nn.init.constant_(encoder.out_layer_opacity.weight, opacity / TINY.width)
    return reconstructor


@pytest.mark.parametrize(
    ("case", "azimuths", "elevations"),
    [("A", [0.0, 90.0, 180.0, 270.0], [20.0] * 4), ("B", [30.0, 150.0, 270.0, 330.0], [30.0, 30.0, 30.0, -20.0])],
)
def test_cameras_stand_where_the_released_codes_stand(
    case: str, azimuths: list[float], elevations: list[float]
) -> None:
    cameras = orbit(azimuths, torch.tensor(elevations), 2.43, 50.0, 64)
    poses, scale = model_poses(cameras)
    assert scale == pytest.approx(2.7 / 2.43)
    assert torch.allclose(poses, stored(case)[0]["input.c2w"][0], atol=2e-6)


def test_pictures_are_white_padded_and_signed() -> None:
    views = ball_views(64)
    warnings: list[str] = []
    same = model_pictures(views, 64, warnings)
    assert torch.equal(same, 2 * views.over(1.0) - 1)
    smaller = model_pictures(views, 32, warnings)
    assert float((smaller - torch.nn.functional.avg_pool2d(same, 2)).abs().mean()) < 0.01
    narrow = orbit([0.0, 90.0, 180.0, 270.0], 20.0, 3.0, 25.0, 64)
    opaque = Views(torch.cat([torch.zeros(4, 3, 64, 64), torch.ones(4, 1, 64, 64)], 1), narrow)
    padded = model_pictures(opaque, 64, warnings)
    assert not warnings
    share = float((padded < 0).float().mean())  # tan(12.5) / tan(25), squared
    assert share == pytest.approx(0.2260, abs=0.02)
    wide = Views(opaque.rgba, orbit([0.0, 90.0, 180.0, 270.0], 20.0, 3.0, 70.0, 64))
    assert bool((model_pictures(wide, 64, warnings) < 0).all())
    assert len(warnings) == 1
    assert "cut off" in warnings[0]


def test_rotations_come_back() -> None:
    quats = torch.nn.functional.normalize(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    there = rotation_matrices(quats)
    assert torch.allclose(rotation_matrices(turned_back(quats)), TURN.T @ there, atol=1e-5)


def test_gaussians_come_back_and_the_released_codes_are_kept() -> None:
    means = torch.tensor([[0.5, 0.2, 0.9], [1.01, 0.0, 0.0], [0.0, 0.0, -0.5]]).view(1, 1, 1, 3, 3)
    unit = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, 1, 1, 3, 4)
    opacities = torch.tensor([0.06, 0.9, 0.04]).view(1, 1, 1, 3)
    scales, colors = torch.full_like(means, 0.02), torch.full_like(means, 0.25)
    gaussians = canonical(GaussianMaps(means, scales, unit, opacities, colors), 2.0)
    assert len(gaussians) == 1
    assert torch.allclose(gaussians.means @ TURN.T, means[0, 0, 0, :1] / 2)
    assert torch.allclose(gaussians.scales, torch.full((1, 3), 0.01))


def test_a_gaussian_lies_on_its_pixels_ray() -> None:
    """Depth 0 plus the cameras' distance: planes through the origin, seen at the pixels that made them."""
    views = ball_views(32)
    gaussians, steps = walked(constant(), views, [])
    assert [(step.step, step.steps) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    viewmats = world_to_camera_opencv(views.cameras)
    ticks = torch.arange(32) / 31 * 32
    expected: list[Tensor] = []
    for view, pose in zip(viewmats, views.cameras.camera_to_world, strict=True):
        focal = views.cameras.intrinsics[0, 0, 0]
        y, x = torch.meshgrid((ticks - 16) / focal, (ticks - 16) / focal, indexing="ij")
        seen = 3.0 * torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)
        world = torch.linalg.solve(view[:3, :3], (seen - view[:3, 3]).T).T
        assert torch.allclose(world[0] - world[-1], (world[0] - world[-1]) @ pose[:3, :3] @ pose[:3, :3].T, atol=1e-4)
        expected.append(world[((world @ TURN.T).abs() * 0.9 < 1).all(-1)])
    assert len(expected[0]) > 500
    assert torch.allclose(gaussians.means, torch.cat(expected), atol=1e-5)
    assert torch.allclose(gaussians.scales, torch.tensor(0.0125 / 0.9), atol=1e-6)
    assert torch.allclose(gaussians.colors, torch.tensor(0.5))


def test_an_even_ring_stands_at_the_quarter_turns_that_the_model_knows() -> None:
    """Views 10 degrees off give the Gaussians of views in place, turned by as much."""
    views = ball_views(32)
    place = orbit([0.0, 90.0, 180.0, 270.0], 20.0, 3.0, 50.0, 32)
    off = orbit([10.0, 100.0, 190.0, 280.0], 20.0, 3.0, 50.0, 32)
    reconstructor = GrmReconstructor.untrained(TINY)
    expected, _ = walked(reconstructor, Views(views.rgba, place), [])
    found, _ = walked(reconstructor, Views(views.rgba, off), [])
    c, s = math.cos(math.radians(10)), math.sin(math.radians(10))
    turn = torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    assert len(found) == len(expected) > 0
    assert torch.allclose(found.means, expected.means @ turn.T, atol=1e-4)
    rotations = turn @ rotation_matrices(expected.quats)
    assert torch.allclose(rotation_matrices(found.quats), rotations, atol=1e-4)
    assert ring_offset(orbit([30.0, 150.0, 270.0, 330.0], 20.0, 3.0, 50.0, 32)) == 0.0
    assert ring_offset(orbit([350.0, 80.0, 170.0, 260.0], 20.0, 3.0, 50.0, 32)) == pytest.approx(-10, abs=1e-3)


def test_views_that_the_model_cannot_use() -> None:
    warnings: list[str] = []
    reconstructor = constant()
    few, _ = walked(reconstructor, ball_views(32, views=6), warnings)
    assert warnings == ["GRM can use 4 of 6 views: those best spread were chosen."]
    four, _ = walked(reconstructor, ball_views(32), warnings)
    assert len(few) == pytest.approx(len(four), rel=0.1)
    with pytest.raises(BadInput, match="Nothing can be made out"):
        walked(constant(-9.0), ball_views(32), [])
    views = ball_views(32)
    nowhere = views.cameras.camera_to_world.clone()
    nowhere[:, :3, 3] = 0.0
    inside = type(views.cameras)(nowhere, views.cameras.intrinsics, 32, 32)
    with pytest.raises(BadInput, match="in the middle"):
        walked(reconstructor, Views(views.rgba, inside), [])


def test_weights_carry_their_config(tmp_path: Path) -> None:
    first = GrmReconstructor.untrained(TINY, seed=3)
    state = torch.random.get_rng_state()
    assert torch.equal(
        GrmReconstructor.untrained(TINY, seed=3).network.visual_encoder.transformer_encoder.conv.weight,
        first.network.visual_encoder.transformer_encoder.conv.weight,
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    path = tmp_path / "grm.safetensors"
    with pytest.raises(MissingWeights):
        GrmReconstructor.load(path)
    save_checkpoint(path, first.network.state_dict(), {"config": TINY.to_dict()}, torch.float32)
    again = GrmReconstructor.load(path)
    assert again.config == TINY
    assert torch.equal(walked(first, ball_views(32), [])[0].means, walked(again, ball_views(32), [])[0].means)
