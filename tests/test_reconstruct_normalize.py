"""Posed pictures from outside: where the object is, how large its world is, which views to take."""

from __future__ import annotations

import pytest
import torch

from backend.cameras import look_at, orbit
from backend.datatypes import Cameras
from backend.errors import BadInput
from backend.reconstruct.normalize import Similarity, axes_meet, best_spread, centering, fitting_outlines


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


def outlines(points: torch.Tensor, cameras: Cameras) -> torch.Tensor:
    """[V, 4]: the boxes round the points [N, 3] in each picture."""
    local = torch.einsum(
        "vji,vnj->vni", cameras.camera_to_world[:, :3, :3], points - cameras.camera_to_world[:, None, :3, 3]
    )
    homogeneous = torch.stack([local[..., 0], -local[..., 1], -local[..., 2]], dim=-1)
    pixels = torch.einsum("vij,vnj->vni", cameras.intrinsics, homogeneous / homogeneous[..., 2:])[..., :2]
    return torch.cat([pixels.amin(1), pixels.amax(1)], dim=-1)


@pytest.mark.parametrize("fov", [20.0, 50.0])
@pytest.mark.parametrize("sides", [(1.0, 1.0, 1.0), (0.3, 1.0, 0.4), (1.0, 0.2, 0.6)])
@pytest.mark.parametrize("shape", ["box", "ball"])
def test_outlines_tell_place_and_size(fov: float, sides: tuple[float, float, float], shape: str) -> None:
    """Whatever the lens: a box that fills the picture has corners much nearer than its middle."""
    grid = torch.linspace(-1, 1, 21)
    points = torch.stack(torch.meshgrid(grid, grid, grid, indexing="ij"), dim=-1).reshape(-1, 3)
    if shape == "ball":
        points = torch.nn.functional.normalize(points[points.norm(dim=-1) > 0], dim=-1)
    points = points * torch.tensor(sides) * 0.9
    radius = 3.0 * 0.466 / torch.tan(torch.deg2rad(torch.tensor(fov / 2)))
    cameras = orbit([20.0, 100.0, 190.0, 290.0], [20.0, 5.0, 35.0, 10.0], float(radius), fov, 256)
    center, scale = torch.tensor([0.3, -0.2, 0.1]), 7.0  # of the object within its world; the world is 7 times as large
    world = moved(cameras, [0.0, 0.0, 0.0], scale)
    found = fitting_outlines(world.camera_to_world, world.intrinsics, outlines((points + center) * scale, world), 1.8)
    assert found.scale * scale == pytest.approx(1.0, rel=0.2)
    assert float((found.center / scale - center).norm()) < 0.15


def test_outlines_of_different_things_do_no_harm() -> None:
    cameras = orbit([0.0, 90.0, 180.0, 270.0], 20.0, 3.0, 50.0, 256)
    random = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) * 100
    boxes = torch.cat([random[:, :2], random[:, :2] + 20 + random[:, 2:]], dim=-1)
    found = fitting_outlines(cameras.camera_to_world, cameras.intrinsics, boxes, 1.8)
    assert torch.isfinite(found.center).all()
    assert 0.01 < found.scale < 100
    with pytest.raises(BadInput):
        fitting_outlines(cameras.camera_to_world, cameras.intrinsics, torch.full((4, 4), 128.0), 1.8)


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
