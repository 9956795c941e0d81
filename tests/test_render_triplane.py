"""The triplane renderer and the lift: numba against torch, and pictures of fields that are known."""

from __future__ import annotations

import torch

from backend.cameras import orbit, rays
from backend.render.lift import lift_features, lift_features_reference
from backend.render.triplane import (
    PLANE_AXES,
    STEP,
    box_interval,
    composite,
    render_rays,
    render_rays_sparse,
    sample_planes,
    sample_planes_reference,
)  # fmt: skip


def test_sampling_agrees_with_the_reference_and_so_do_gradients() -> None:
    torch.manual_seed(0)
    planes = torch.randn(2, 3, 12, 16, 5, requires_grad=True)
    points = torch.rand(2, 300, 3) * 2.4 - 1.2
    ours, reference = sample_planes(planes, points), sample_planes_reference(planes, points)
    assert torch.allclose(ours, reference, atol=2e-5)
    weight = torch.randn_like(ours)
    (gradient,) = torch.autograd.grad((ours * weight).sum(), planes)
    (expected,) = torch.autograd.grad((reference * weight).sum(), planes)
    assert torch.allclose(gradient, expected, atol=2e-4)


def test_each_plane_lies_along_its_own_axes() -> None:
    ramp = (torch.arange(8) + 0.5) / 8 * 2 - 1
    point = torch.tensor([[[0.3, -0.5, 0.1]]])
    for plane, (first, second) in enumerate(PLANE_AXES):
        planes = torch.zeros(1, 3, 8, 8, 2)
        planes[0, plane, :, :, 0] = ramp[None, :]
        planes[0, plane, :, :, 1] = ramp[:, None]
        found = sample_planes(planes, point)[0, 0]
        assert torch.allclose(found, point[0, 0, [first, second]], atol=1e-5)


def test_the_lift_agrees_with_the_reference_and_so_do_gradients() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 4, 6, 7, 3, requires_grad=True)
    where = torch.rand(2, 4, 90, 2) * 1.3 - 0.15
    ours, reference = lift_features(features, where), lift_features_reference(features, where)
    assert torch.allclose(ours, reference, atol=2e-5)
    weight = torch.randn_like(ours)
    (gradient,) = torch.autograd.grad((ours * weight).sum(), features)
    (expected,) = torch.autograd.grad((reference * weight).sum(), features)
    assert torch.allclose(gradient, expected, atol=2e-4)


def test_rays_enter_and_leave_the_cube() -> None:
    origins = torch.tensor([[0.0, 0.0, 3.0], [0.0, 5.0, 3.0], [0.2, 0.1, 0.0]])
    directions = torch.tensor([[0.0, 0.0, -1.0]]).expand(3, 3)
    near, far = box_interval(origins, directions)
    assert torch.allclose(torch.stack([near, far], -1)[0, 0], torch.tensor([2.0, 4.0]))
    assert near[1] == far[1]
    assert torch.allclose(torch.stack([near, far], -1)[2, 0], torch.tensor([0.0, 1.0]))


def test_opacity_does_not_depend_on_the_number_of_samples() -> None:
    coarse, _ = composite(torch.full((1, 10), 0.4), torch.zeros(1, 10, 3), torch.tensor([[STEP]]))
    fine, _ = composite(torch.full((1, 40), 0.4), torch.zeros(1, 40, 3), torch.tensor([[STEP / 4]]))
    assert torch.allclose(coarse, fine, atol=1e-5)
    single, _ = composite(torch.tensor([[0.4]]), torch.zeros(1, 1, 3), torch.tensor([[STEP]]))
    assert torch.allclose(single[0, 3], torch.sigmoid(torch.tensor(0.4)))


def _ball(radius: float) -> tuple[torch.Tensor, object]:
    """Planes and a decoder whose field is a red ball: the xy plane holds x^2 + y^2, the xz plane z^2."""
    ticks = (torch.arange(96) + 0.5) / 96 * 2 - 1
    planes = torch.zeros(1, 3, 96, 96, 1)
    planes[0, 0, :, :, 0] = ticks[None, :] ** 2 + ticks[:, None] ** 2
    planes[0, 1, :, :, 0] = (ticks[:, None] ** 2).expand(96, 96)

    def decoder(features: torch.Tensor) -> torch.Tensor:
        logit = 60.0 * (radius**2 - features)
        return torch.cat([logit, logit * 0 + 8.0, logit * 0 - 8.0, logit * 0 - 8.0], -1)

    return planes, decoder


def test_a_ball_is_rendered_where_it_is_in_its_colour() -> None:
    planes, decoder = _ball(0.5)
    cameras = orbit([40.0], 25.0, 3.0, 50.0, 48)
    origins, directions = (x.reshape(1, -1, 3) for x in rays(cameras))
    dense = render_rays(planes, decoder, origins, directions, 96)[0]
    middle = -(origins[0] * directions[0]).sum(-1, keepdim=True)
    closest = (origins[0] + directions[0] * middle).norm(dim=-1)
    assert dense[closest < 0.4, 3].min() > 0.98
    assert dense[closest > 0.62, 3].max() < 0.02
    assert torch.allclose(
        dense[closest < 0.3, :3], torch.tensor([1.0, -1.0, -1.0]).expand_as(dense[closest < 0.3, :3]), atol=0.03
    )
    sparse = render_rays_sparse(planes, decoder, origins[0], directions[0], 96)
    assert (sparse - dense).abs().max() < 0.03
