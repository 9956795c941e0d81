"""Depth and normals: unbiased on planes and spheres, the same with and without numba."""

import math

import pytest
import torch

from backend.cameras import orbit, world_to_camera_opencv
from backend.errors import BadInput
from backend.render import geometry
from backend.render.geometry import rasterization_geometry, rasterization_surface
from backend.render.rasterize import rasterization, warm_up

IDENTITY = torch.tensor([1.0, 0.0, 0.0, 0.0])


def quats_towards(normals):
    """wxyz quaternions that turn +z into `normals`: halfway between the two."""
    zero = torch.zeros(normals.shape[0])
    quats = torch.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], zero], dim=-1)
    return torch.nn.functional.normalize(quats, dim=-1)


def plane_of_discs(tilt, spacing=0.06, flat=0.02):
    """Discs on the plane through (0, 0, 2) that is tilted by `tilt` degrees about x; its normal too. Camera at 0."""
    normal = torch.tensor([0.0, math.sin(math.radians(tilt)), -math.cos(math.radians(tilt))])
    along = torch.tensor([0.0, math.cos(math.radians(tilt)), math.sin(math.radians(tilt))])
    grid = torch.arange(-12, 13) * spacing
    u, v = torch.meshgrid(grid, grid, indexing="ij")
    means = u.reshape(-1, 1) * torch.tensor([1.0, 0.0, 0.0]) + v.reshape(-1, 1) * along
    means = means + torch.tensor([0.0, 0.0, 2.0])
    count = means.shape[0]
    scales = torch.tensor([spacing, spacing, spacing * flat]).repeat(count, 1)
    return means, quats_towards(-normal.repeat(count, 1)), scales, torch.full((count,), 0.7), normal


def camera(size=64, focal=100.0):
    K = torch.tensor([[[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]]])
    return torch.eye(4)[None], K, size, size


def plane_depth(normal, size=64, focal=100.0):
    """z at which the rays through the pixel centres meet the plane through (0, 0, 2)."""
    at = (torch.arange(size) + 0.5 - size / 2) / focal
    y, x = torch.meshgrid(at, at, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    return 2.0 * normal[2] / (rays @ normal)


@pytest.mark.parametrize("tilt", [0.0, 35.0, 60.0])
@pytest.mark.parametrize("median", [False, True])
def test_the_depth_of_a_plane_of_discs_is_unbiased(tilt, median):
    means, quats, scales, opacities, normal = plane_of_discs(tilt)
    depth, normals, alphas = rasterization_geometry(means, quats, scales, opacities, *camera(), median=median)
    inside = alphas[0, :, :, 0] > 0.95
    assert inside.double().mean() > 0.3
    error = (depth[0, :, :, 0] - plane_depth(normal))[inside].abs()
    assert error.max() < 2e-3
    assert ((normals[0] @ normal)[inside] > 0.999).all()
    if tilt > 0:  # the depth of the centres, as the colours' rasteriser blends it, is not
        colors = torch.zeros(means.shape[0], 1)
        centres, _, _ = rasterization(means, quats, scales, opacities, colors, *camera(), render_mode="ED")
        assert (centres[0, :, :, 0] - plane_depth(normal))[inside].abs().max() > 5 * error.max()


@pytest.mark.parametrize("median", [False, True])
def test_normals_and_depth_of_a_sphere(median):
    count, radius, distance = 20000, 0.7, 2.7
    k = torch.arange(count) + 0.5
    y, angle = 1 - 2 * k / count, k * math.pi * (3 - math.sqrt(5))
    ring = (1 - y * y).sqrt()
    normals = torch.stack([ring * angle.cos(), y, ring * angle.sin()], dim=-1)
    size = 0.75 * radius * math.sqrt(4 * math.pi / count)  # dense: hardly any light reaches the sphere's far side
    scales = torch.tensor([size, size, size / 20]).repeat(count, 1)
    cameras = orbit([0.0, 90.0, 200.0], [0.0, 30.0, -20.0], distance, 40.0, 96)
    depth, seen, alphas = rasterization_geometry(
        normals * radius, quats_towards(normals), scales, torch.full((count,), 0.9), world_to_camera_opencv(cameras),
        cameras.intrinsics, 96, 96, median=median,
    )  # fmt: skip
    at = (torch.arange(96) + 0.5 - 48) / cameras.intrinsics[0, 0, 0]
    v, u = torch.meshgrid(at, at, indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u)], dim=-1)
    # |z ray - (0, 0, distance)| = radius
    a, b = (rays**2).sum(-1), -2 * distance
    root = b * b - 4 * a * (distance**2 - radius**2)
    z = (-b - root.clamp(min=0).sqrt()) / (2 * a)
    inner = (root > 1.0) & (alphas[0, :, :, 0] > 0.99)  # away from the rim
    assert inner.double().mean() > 0.15
    for view in range(3):
        error = (depth[view, :, :, 0] - z)[inner]
        assert error.mean().abs() < 0.001
        assert error.abs().max() < 0.01
        local = rays * z[..., None] - torch.tensor([0.0, 0.0, distance])
        to_world = world_to_camera_opencv(cameras)[view, :3, :3]
        expected = torch.nn.functional.normalize(local @ to_world, dim=-1)
        cosine = (seen[view] * expected).sum(-1)[inner]
        assert cosine.min() > 0.97
        assert cosine.mean() > 0.998


def test_the_median_depth_does_not_mix_front_and_back():
    front, back = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 3.0])
    means = torch.stack([back, front])
    scales, opacities = torch.tensor([[5.0, 5.0, 0.01]]).repeat(2, 1), torch.tensor([0.99, 0.7])
    arguments = (means, IDENTITY.repeat(2, 1), scales, opacities, *camera())
    assert rasterization_geometry(*arguments, median=True)[0][0, 32, 32] == pytest.approx(1.0, rel=1e-3)
    mixed = rasterization_geometry(*arguments)[0][0, 32, 32]
    assert mixed == pytest.approx(1 / (0.7 + 0.3 / 3), rel=1e-2)


def test_a_round_gaussian_faces_the_camera():
    depth, normals, _ = rasterization_geometry(
        torch.tensor([[0.0, 0.0, 2.0]]), IDENTITY[None], torch.full((1, 3), 0.1), torch.ones(1), *camera()
    )
    assert normals[0, 32, 32].tolist() == pytest.approx([0.0, 0.0, -1.0], abs=1e-3)
    assert depth[0, 32, 32] == pytest.approx(2.0, rel=1e-3)


def heap(count, seed):
    """Gaussians of all sizes and shapes, half of them nearer to `camera` than the others; colours for two views."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=g) * 0.4 + torch.tensor([0.0, 0.0, 2.0])
    quats, scales = torch.randn(count, 4, generator=g), torch.exp(torch.randn(count, 3, generator=g) - 3)
    return means, quats, scales, torch.rand(count, generator=g), torch.rand(2, count, 3, generator=g)


def two_cameras():
    viewmats, Ks, width, height = camera(70)
    shifted = viewmats.clone()
    shifted[:, 0, 3] = 0.3
    return torch.cat([viewmats, shifted]), Ks.repeat(2, 1, 1), width, height - 7


@pytest.mark.parametrize("median", [False, True])
@pytest.mark.parametrize("per_view", [False, True])
def test_numba_agrees_with_plain_torch(median, per_view, monkeypatch):
    *gaussians, colors = heap(300, 3)
    results = []
    for fast in (True, False):
        monkeypatch.setattr(geometry, "numba_present", lambda fast=fast: fast)
        monkeypatch.setattr(geometry, "_AT_ONCE", 50)
        results.append(
            rasterization_surface(*gaussians, colors if per_view else colors[0], *two_cameras(), median=median)
        )
    for ours, reference in zip(*results, strict=True):
        assert ours.shape == reference.shape
        assert ((ours - reference).abs() > 1e-3).double().mean() < 2e-3
        assert ours.abs().max() > 0


def test_one_pass_gives_what_several_would():
    *gaussians, colors = heap(300, 5)
    surface = rasterization_surface(*gaussians, colors, *two_cameras())
    image, alphas, _ = rasterization(*gaussians, colors, *two_cameras())
    depth, normals, _ = rasterization_geometry(*gaussians, *two_cameras())
    for one, other in zip(surface, (image, depth, normals, alphas), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    with pytest.raises(BadInput, match="colors"):
        rasterization_surface(*gaussians, colors[:, :5], *two_cameras())


def test_nothing_and_broken_gaussians():
    nothing = torch.zeros(0, 3)
    depth, normals, alphas = rasterization_geometry(
        nothing, torch.zeros(0, 4), nothing, torch.zeros(0), *camera(20)
    )  # fmt: skip
    assert depth.abs().max() == normals.abs().max() == alphas.abs().max() == 0
    nan = math.nan
    means = torch.tensor([[0.0, 0.0, 2.0], [nan, 0.0, 2.0], [0.0, 0.0, -2.0], [0.0, 0.0, 2.0]])
    quats = torch.stack([IDENTITY, IDENTITY, IDENTITY, torch.zeros(4)])
    scales = torch.tensor([[0.2, 0.2, 0.0]]).repeat(4, 1)
    depth, normals, _ = rasterization_geometry(means, quats, scales, torch.ones(4), *camera(20))
    assert torch.isfinite(depth).all()
    assert torch.isfinite(normals).all()
    assert depth[0, 10, 10] == pytest.approx(2.0, rel=1e-3)
    with pytest.raises(BadInput, match="scales"):
        rasterization_geometry(means, quats, scales[:2], torch.ones(4), *camera(20))


def test_warm_up_runs():
    warm_up()
    warm_up(backward=True)
