"""A camera turned after the fact sees what a camera that had been turned would have seen."""

from __future__ import annotations

import torch

from backend.cameras import look_at, orbit_positions, pinhole, rays
from backend.datatypes import Cameras
from backend.views.reaim import aimed_at_origin, reaim


def picture(cameras: Cameras) -> torch.Tensor:
    """[4, H, W]: a ball of radius 0.9 with a smooth pattern that is fixed in the world, seen by one camera."""
    origins, directions = rays(cameras)
    along = -(origins * directions).sum(-1)
    miss = (origins + along[..., None] * directions).norm(dim=-1)
    hit = origins + (along - (0.81 - miss**2).clamp_min(0).sqrt())[..., None] * directions
    rgb = 0.5 + 0.4 * torch.sin(2 * hit)
    alpha = ((0.9 - miss) / 0.04).clamp(0, 1)
    return torch.cat([rgb.permute(0, 3, 1, 2), alpha[:, None]], 1)[0]


def test_reaiming_is_what_the_turned_camera_sees() -> None:
    position = orbit_positions(torch.tensor([30.0]), torch.tensor([25.0]), 4.0)
    askew = Cameras(
        look_at(position, torch.tensor([[0.3, -0.2, 0.2]]), up=(0.3, 1.0, 0.1)), pinhole(1, 45, 400, 300), 400, 300
    )
    target = aimed_at_origin(askew.camera_to_world, 1.4, 96)
    found = reaim(picture(askew), askew.camera_to_world[0], askew.intrinsics[0], target)
    expected = picture(target)
    assert float((found[3] - expected[3]).abs().mean()) < 0.006
    solid = (found[3] > 0.99) & (expected[3] > 0.99)
    assert float((found[:3] - expected[:3])[:, solid].abs().max()) < 0.03
    # The ball's shadow on the plane through the origin is a little wider than the ball.
    width = int((expected[3] > 0.5).any(dim=0).sum())
    assert abs(width / 96 - 0.9 / (1 - 0.81 / 16) ** 0.5 / 1.4) < 0.03


def test_what_the_picture_does_not_show_is_transparent() -> None:
    position = torch.tensor([[0.0, 0.0, 4.0]])
    beside = Cameras(look_at(position, torch.tensor([[2.0, 0.0, 0.0]])), pinhole(1, 40, 64, 64), 64, 64)
    target = aimed_at_origin(beside.camera_to_world, 1.4, 32)
    found = reaim(torch.ones(4, 64, 64), beside.camera_to_world[0], beside.intrinsics[0], target)
    assert float(found[3, :, :10].max()) == 0.0
    assert float(found[3, 16, 30]) > 0.9
    away = Cameras(look_at(position, torch.tensor([[0.0, 0.0, 9.0]])), pinhole(1, 40, 64, 64), 64, 64)
    assert float(reaim(torch.ones(4, 64, 64), away.camera_to_world[0], away.intrinsics[0], target).max()) == 0.0


def test_farther_cameras_have_narrower_lenses() -> None:
    positions = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 6.0]])
    cameras = aimed_at_origin(look_at(positions, torch.zeros(2, 3)), 1.4, 64)
    torch.testing.assert_close(cameras.intrinsics[1, 0, 0], 2 * cameras.intrinsics[0, 0, 0])
