"""The skin of a radiance field: where it lies, which way it looks, what colour it has, that it has no inner side."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.cameras import orbit
from backend.datatypes import Views
from backend.errors import BadInput
from backend.reconstruct.field import field_gaussians, least_optical_depth
from backend.reconstruct.view_colors import painted_by
from backend.surface import topology
from backend.surface.extract import extract_surface
from backend.training.dmv3d import finish

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def field_of(logit: Callable[[Tensor], Tensor]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Planes whose features are the place itself, and a decoder of a known density: red where x > 0, else blue."""
    ticks = (torch.arange(64) + 0.5) / 64 * 2 - 1
    planes = torch.zeros(1, 3, 64, 64, 3)  # rows run along a plane's second axis, columns along its first
    planes[0, 0, :, :, 0], planes[0, 0, :, :, 1] = ticks[None, :], ticks[:, None]  # (x, y)
    planes[0, 1, :, :, 2] = ticks[:, None]  # (x, z)

    def decoder(places: Tensor) -> Tensor:
        colors = torch.where(places[..., :1] > 0, torch.tensor(RED), torch.tensor(BLUE)) * 20 - 10
        return torch.cat([logit(places)[..., None], colors], -1)

    return planes, decoder


def ball(radius: float, sharpness: float = 200.0) -> Callable[[Tensor], Tensor]:
    return lambda places: sharpness * (radius - places.norm(dim=-1))


def shell(radius: float, thickness: float, peak: float) -> Callable[[Tensor], Tensor]:
    """A hollow wall that nowhere is denser than `peak`."""
    return lambda places: peak - 400.0 * ((places.norm(dim=-1) - radius).abs() - thickness).clamp_min(0)


def test_light_is_followed_from_the_open_to_every_cell() -> None:
    thickness = torch.zeros(9, 9, 9)
    thickness[2:7, 2:7, 2:7] = 1.0
    depth = least_optical_depth(thickness)
    assert float(depth[0, 4, 4]) == 0.0
    assert float(depth[2, 4, 4]) == pytest.approx(0.5)
    assert float(depth[4, 4, 4]) == pytest.approx(2.5)
    assert torch.equal(depth, depth.flip(0))
    assert torch.equal(depth, depth.transpose(0, 2))


def test_what_only_one_direction_sees_is_open() -> None:
    """A cup is hollow where one looks into it, a closed box is not, and a slanting hole counts too."""
    box = torch.zeros(12, 12, 12)
    box[2:10, 2:10, 2:10] = 1.0
    box[4:8, 4:8, 4:8] = 0.0
    assert float(least_optical_depth(box)[5, 5, 5]) >= 2.0
    cup = box.clone()
    cup[4:8, 8:10, 4:8] = 0.0
    assert float(least_optical_depth(cup)[5, 5, 5]) == 0.0
    drilled = box.clone()
    for step in range(4):
        drilled[7 + step, 7 + step, 7 + step] = 0.0
    assert float(least_optical_depth(drilled)[7, 7, 7]) == 0.0


def test_a_ball_has_a_skin_of_discs_that_look_outwards() -> None:
    gaussians, normals = field_gaussians(*field_of(ball(0.6)))
    radius = gaussians.means.norm(dim=-1)
    assert float((radius - 0.6).abs().max()) < 0.03
    assert float((gaussians.means / radius[:, None] * normals).sum(-1).min()) > 0.95
    assert bool((gaussians.scales[:, 2] < 0.3 * gaussians.scales[:, 0]).all())
    for side, color in ((gaussians.means[:, 0] > 0.05, RED), (gaussians.means[:, 0] < -0.05, BLUE)):
        assert float((gaussians.colors[side] - torch.tensor(color)).abs().max()) < 0.05


def test_a_soft_wall_is_closed_and_has_no_inner_side() -> None:
    """Cut at its own density this wall, which lets a third of the light through, would be two surfaces or none."""
    gaussians, _ = field_gaussians(*field_of(shell(0.6, 0.04, 0.0)))
    radius = gaussians.means.norm(dim=-1)
    assert float(radius.min()) > 0.53
    assert float(radius.max()) < 0.68
    mesh = finish(extract_surface(gaussians, 64))
    vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy()
    assert topology.is_closed(faces)
    assert topology.pieces(faces, len(vertices))[0] == 1
    assert topology.genus(faces, len(vertices)) == 0


def test_a_ring_keeps_its_hole() -> None:
    def ring(places: Tensor) -> Tensor:
        across = (places[..., [0, 2]].norm(dim=-1) - 0.55).square() + places[..., 1].square()
        return 200.0 * (0.2 - across.sqrt())

    gaussians, _ = field_gaussians(*field_of(ring))
    mesh = finish(extract_surface(gaussians, 64))
    assert topology.genus(mesh.faces.numpy(), len(mesh.vertices)) == 1


def test_an_empty_field_is_refused() -> None:
    with pytest.raises(BadInput, match="Nothing solid"):
        field_gaussians(*field_of(lambda places: torch.full(places.shape[:-1], -20.0)))


def test_pictures_paint_what_they_show_and_nothing_else() -> None:
    gaussians, normals = field_gaussians(*field_of(ball(0.6)))
    cameras = orbit([0.0], 0.0, 3.0, 50.0, 64)
    green = torch.zeros(1, 4, 64, 64)
    y, x = np.mgrid[:64, :64] + 0.5 - 32
    green[0, 1], green[0, 3] = 1.0, torch.from_numpy(np.hypot(x, y) < 16.0)
    painted = painted_by(Views(green, cameras), gaussians, normals)
    front, back = normals[:, 2] > 0.6, normals[:, 2] < 0.1
    assert float((painted.colors[front] - torch.tensor([0.0, 1.0, 0.0])).abs().mean()) < 0.1
    assert float((painted.colors[back] - gaussians.colors[back]).abs().max()) < 1e-5
    assert torch.equal(painted.means, gaussians.means)
