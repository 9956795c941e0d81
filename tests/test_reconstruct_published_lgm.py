"""The published LGM as a reconstructor: cameras and pictures into its world, Gaussians back out of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from stand_ins import ball_views
from torch import Tensor

from backend import device
from backend.cameras import orbit, rays
from backend.datatypes import Cameras, Gaussians, Views
from backend.errors import BadInput
from backend.nets.lgm import LgmConfig
from backend.reconstruct.precision import widen_when_used
from backend.reconstruct.published_lgm import (
    FOV_DEGREES,
    RADIUS,
    PublishedLgm,
    canonical,
    model_cameras,
    network_input,
    through_the_lens,
)

SMALL = LgmConfig(
    down=(32, 32, 64), down_attention=(False, False, True), up=(64, 32), up_attention=(True, False), layers=1
)


@pytest.fixture(scope="module")
def model() -> PublishedLgm:
    small = PublishedLgm.untrained(SMALL)
    small.size = 32
    return small


def run(model: PublishedLgm, views: Views) -> tuple[Gaussians, list[str], int]:
    warnings: list[str] = []
    walk = model.reconstruct(views, warnings)
    steps = 0
    while True:
        try:
            step = next(walk)
        except StopIteration as end:
            return end.value, warnings, steps
        steps += 1
        assert 0 < step.fraction <= 1


def covariances(gaussians: Gaussians) -> Tensor:
    w, x, y, z = gaussians.quats.unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]  # fmt: skip
    turned = torch.stack(rows, -1).view(-1, 3, 3) * gaussians.scales[:, None]
    return turned @ turned.transpose(1, 2)


def test_the_first_camera_comes_to_azimuth_zero_and_all_to_the_models_distance() -> None:
    cameras = orbit([35.0, 125.0, 215.0, 305.0], 20.0, 3.0, 50.0, 16)
    moved, turn, scale = model_cameras(cameras)
    assert scale == pytest.approx(RADIUS / 3.0)
    expected = orbit([0.0, 90.0, 180.0, 270.0], 20.0, RADIUS, 50.0, 16).camera_to_world
    assert torch.allclose(moved.camera_to_world, expected, atol=1e-5)
    assert torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-6)


def test_gaussians_come_back_to_where_the_cameras_were() -> None:
    """Where a camera sees a Gaussian, and how large and how turned, is the same in both worlds."""
    cameras = orbit([35.0, 125.0, 215.0, 305.0], 20.0, 3.0, 50.0, 16)
    moved, turn, scale = model_cameras(cameras)
    g = torch.Generator().manual_seed(0)
    inside = Gaussians(
        torch.rand(50, 3, generator=g) - 0.5,
        torch.rand(50, 3, generator=g) * 0.1,
        torch.nn.functional.normalize(torch.randn(50, 4, generator=g), dim=-1),
        torch.rand(50, generator=g),
        torch.rand(50, 3, generator=g),
    )
    back = canonical(inside, turn, scale)
    for before, after in zip(moved.camera_to_world, cameras.camera_to_world, strict=True):
        seen = (inside.means - before[:3, 3]) @ before[:3, :3]
        assert torch.allclose((back.means - after[:3, 3]) @ after[:3, :3], seen / scale, atol=1e-5)
        spread = before[:3, :3].T @ covariances(inside) @ before[:3, :3]
        assert torch.allclose(after[:3, :3].T @ covariances(back) @ after[:3, :3], spread / scale**2, atol=1e-5)


def test_pictures_are_normalised_on_white_with_rays_moment_first() -> None:
    cameras = orbit([0.0, 90.0, 180.0, 270.0], 0.0, RADIUS, FOV_DEGREES, 8)
    rgba = torch.zeros(4, 4, 8, 8)
    rgba[0, :, 0, 0] = 1.0
    images = network_input(Views(rgba, cameras))
    white = (1.0 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(images[:, :3], white[None, :, None, None].expand(4, 3, 8, 8), atol=1e-6)
    origins, directions = rays(cameras)
    assert torch.allclose(images[:, 6:].permute(0, 2, 3, 1), directions)
    assert torch.allclose(images[:, 3:6].permute(0, 2, 3, 1), torch.linalg.cross(origins, directions, dim=-1))
    black = torch.cat([torch.zeros(4, 3, 8, 8), torch.ones(4, 1, 8, 8)], 1)
    assert (network_input(Views(black, cameras))[:, :3] < -1.7).all()


def test_another_lens_is_padded_or_cropped_to_the_models() -> None:
    narrow = orbit([0.0], 0.0, RADIUS, 30.0, 64)
    views = Views(torch.ones(1, 4, 64, 64), narrow)
    seen = through_the_lens(views, 32)
    assert seen.rgba.shape == (1, 4, 32, 32)
    share = (torch.tensor(30.0 / 2).deg2rad().tan() / torch.tensor(FOV_DEGREES / 2).deg2rad().tan()) ** 2
    assert float(seen.rgba[:, 3].mean()) == pytest.approx(float(share), abs=0.03)
    same = orbit([0.0], 0.0, RADIUS, FOV_DEGREES, 32)
    picture = torch.rand(1, 4, 32, 32)
    assert torch.equal(through_the_lens(Views(picture, same), 32).rgba, picture)


def test_any_turn_about_the_upright_gives_the_same_object(model: PublishedLgm) -> None:
    views = ball_views(32)
    first, _, steps = run(model, views)
    assert steps == model.network.unet.stages + 1
    angle = torch.tensor(0.7)
    turn = torch.eye(4)
    turn[0, 0] = turn[2, 2] = angle.cos()
    turn[0, 2], turn[2, 0] = angle.sin(), -angle.sin()
    cameras = views.cameras
    turned = Cameras(turn @ cameras.camera_to_world, cameras.intrinsics, cameras.width, cameras.height)
    second, _, _ = run(model, Views(views.rgba, turned))
    assert len(first) == len(second) == 4 * 16 * 16
    assert torch.allclose(first.means @ turn[:3, :3].T, second.means, atol=1e-4)
    assert torch.allclose(turn[:3, :3] @ covariances(first) @ turn[:3, :3].T, covariances(second), atol=1e-4)
    assert torch.allclose(first.colors, second.colors, atol=1e-4)


def test_what_is_unusual_is_said(model: PublishedLgm) -> None:
    assert run(model, ball_views(32))[1] == []
    gaussians, warnings, _ = run(model, ball_views(32, views=6))
    assert len(gaussians) == 4 * 16 * 16
    assert "4 of 6 views" in warnings[0]
    with pytest.raises(BadInput, match="too few"):
        run(model, ball_views(32, views=3))
    narrow = orbit([0.0, 30.0, 60.0, 90.0], 0.0, 3.0, 50.0, 32)
    assert "quarter turn" in run(model, replace(ball_views(32), cameras=narrow))[1][0]
    centre = Cameras(torch.eye(4).repeat(4, 1, 1), narrow.intrinsics, 32, 32)
    with pytest.raises(BadInput, match="middle"):
        run(model, replace(ball_views(32), cameras=centre))


def test_old_weights_leave_gaussians_unturned_and_say_so(model: PublishedLgm) -> None:
    old = PublishedLgm(model.network, size=32, rotations=False)
    gaussians, warnings, _ = run(old, ball_views(32))
    assert torch.equal(gaussians.quats, torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(gaussians), 4))
    assert "fixrot" in warnings[0]


def test_weights_that_a_file_has_in_half_stay_so_and_compute_as_float32_ones(tmp_path: Path) -> None:
    """On a processor without bf16: the same bits as with all weights in float32, and half the memory between calls."""
    path = tmp_path / "model_fp16_fixrot.safetensors"
    halves = {
        name: value.half().contiguous() for name, value in PublishedLgm.untrained(SMALL).network.state_dict().items()
    }
    save_file(halves, path)
    wide = PublishedLgm.load(path, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "has_fast_bfloat16", lambda _: False)
        narrow = PublishedLgm.load(path)
    wide.size = narrow.size = 32
    views = ball_views(32)
    expected, _, _ = run(wide, views)
    for _ in range(2):  # the second call finds what the first one left
        found, _, _ = run(narrow, views)
        for name in ("means", "scales", "opacities", "colors"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
    heavy = [p for p in narrow.network.parameters() if p.ndim > 1]
    small = sum(p.numel() for p in heavy if p.dtype == torch.float16)
    assert small > 0.95 * sum(p.numel() for p in heavy)
    assert all(p.dtype == torch.float32 for p in narrow.network.parameters() if p.ndim == 1)


def test_a_layer_that_fails_leaves_its_weights_as_they_were() -> None:
    layer = torch.nn.Linear(4, 4)
    widen_when_used([layer], torch.float16)
    with pytest.raises(RuntimeError):
        layer(torch.ones(3, 5))
    assert layer.weight.dtype == torch.float16
    assert layer(torch.ones(3, 4)).dtype == torch.float32
