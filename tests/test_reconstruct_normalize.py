"""Posed pictures from outside: where the object is, how large its world is, which views to take."""

from __future__ import annotations

import pytest
import torch

from backend.cameras import look_at, orbit
from backend.datatypes import Cameras
from backend.errors import BadInput
from backend.reconstruct.normalize import Similarity, axes_meet, best_spread, centering


def moved(cameras: Cameras, center: list[float], scale: float) -> Cameras:
    """The cameras in a world that is `scale` times as large and whose object is at `center`."""
    pose = cameras.camera_to_world.clone()
    pose[:, :3, 3] = pose[:, :3, 3] * scale + torch.tensor(center)
    return Cameras(pose, cameras.intrinsics, cameras.width, cameras.height)


@pytest.mark.parametrize("scale", [0.001, 1.0, 1000.0])
def test_cameras_come_back_to_the_orbit(scale: float) -> None:
    orbiting = orbit([0.0, 80.0, 170.0, 260.0, 300.0], [0.0, 20.0, 40.0, -10.0, 60.0], 3.0, 50.0, 32)
    outside = moved(orbiting, [5.0 * scale, -2.0 * scale, 1.0 * scale], scale)
    similarity = centering(outside, 3.0)
    inside = similarity.cameras(outside)
    torch.testing.assert_close(inside.camera_to_world, orbiting.camera_to_world, atol=1e-4, rtol=0)
    points = torch.randn(10, 3)
    torch.testing.assert_close(similarity.points_back(similarity.points(points)), points, atol=1e-3, rtol=1e-3)
    again = Similarity.from_json(similarity.to_json())
    torch.testing.assert_close(again.points(points), similarity.points(points))


def test_axes_that_nearly_meet_are_averaged() -> None:
    positions = torch.tensor([[3.0, 0, 0], [-3.0, 0, 0.1], [0, 0, 3.0], [0, 0.5, -3.0]])
    targets = 0.05 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    cameras = Cameras(look_at(positions, targets), torch.eye(3).repeat(4, 1, 1), 1, 1)
    assert float(axes_meet(cameras).norm()) < 0.2


def test_senseless_cameras_get_a_sentence() -> None:
    side_by_side = torch.eye(4).repeat(4, 1, 1)
    side_by_side[:, 0, 3] = torch.arange(4)
    outwards = orbit([0.0, 90.0, 180.0, 270.0], 0.0, 3.0, 50.0, 32).camera_to_world.clone()
    outwards[:, :3, 0] *= -1
    outwards[:, :3, 2] *= -1
    one_place = torch.eye(4).repeat(4, 1, 1)
    for poses in (side_by_side, outwards, one_place):
        with pytest.raises(BadInput):
            centering(Cameras(poses, torch.eye(3).repeat(len(poses), 1, 1), 1, 1), 3.0)


def test_the_best_spread_views_are_taken_from_the_front_on() -> None:
    azimuths = [100.0, 95.0, 92.0, 180.0, 5.0, 270.0, 90.0, 350.0]
    chosen = best_spread(orbit(azimuths, 10.0, 3.0, 50.0, 32), 4)
    taken = [azimuths[index] for index in chosen]
    assert taken[0] in (5.0, 350.0)
    assert 90.0 <= taken[1] <= 100.0
    assert taken[2:] == [180.0, 270.0]


def test_exactly_enough_views_are_all_taken() -> None:
    assert best_spread(orbit([90.0, 0.0, 180.0, 270.0], 0.0, 3.0, 50.0, 32), 4) == [1, 0, 2, 3]


def test_too_few_views_get_a_sentence() -> None:
    with pytest.raises(BadInput, match="3 posed pictures are too few; 4 are needed"):
        best_spread(orbit([0.0, 90.0, 180.0], 0.0, 3.0, 50.0, 32), 4)
