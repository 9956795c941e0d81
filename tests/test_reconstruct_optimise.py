"""Fitting Gaussians to pictures: at small sizes pictures that were never shown get better too."""

from __future__ import annotations

import math

import mesh_shapes as shapes
import numpy as np
import pytest
import stand_ins
import torch
from torch.nn import functional as F

from backend.cameras import orbit, rays, world_to_camera_opencv
from backend.datatypes import Gaussians, Views
from backend.errors import BadInput
from backend.reconstruct.optimise import compare, optimise
from backend.reconstruct.optimise_agree import where_views_agree
from backend.reconstruct.optimise_density import Density
from backend.reconstruct.optimise_geometry import geometry_channels, normal_disagreement
from backend.reconstruct.optimise_loss import photometric_loss, psnr, ssim
from backend.reconstruct.optimise_splats import NAMES, Splats
from backend.reconstruct.optimise_start import find_region, start_from_views
from backend.render.rasterize import rasterization
from backend.render.views import render_gaussians

CENTER = torch.tensor([0.3, -0.2, 0.1])


def painted_ball(views: int, size: int = 48, turn: float = 0.0, opaque: bool = False) -> Views:
    """Pictures of a ball of radius 0.5 that stands off the origin and whose colour changes from place to place."""
    azimuths = [turn + 360.0 * at / views for at in range(views)]
    cameras = orbit(azimuths, [30.0 * math.sin(1.7 * at) for at in range(views)], 2.0, 45.0, size)
    cameras.camera_to_world[:, :3, 3] += CENTER
    origins, directions = rays(cameras)
    along = -((origins - CENTER) * directions).sum(-1)
    miss = (origins + along[..., None] * directions - CENTER).norm(dim=-1)
    alpha = ((0.5 - miss) / 0.03 + 0.5).clamp(0, 1)
    hit = origins - CENTER + (along - (0.25 - miss**2).clamp_min(0).sqrt())[..., None] * directions
    rgb = torch.from_numpy(shapes.rainbow(2.0 * hit.numpy())) * (alpha > 0)[..., None]
    rgba = torch.cat([rgb, alpha[..., None]], dim=-1).permute(0, 3, 1, 2)
    if opaque:
        rgba = torch.cat([rgba[:, :3] * rgba[:, 3:] + 0.9 * (1 - rgba[:, 3:]), torch.ones_like(rgba[:, 3:])], dim=1)
    return Views(rgba, cameras)


def test_from_scratch_pictures_that_were_not_given_get_better() -> None:
    views, held_out = painted_ball(8), painted_ball(8, turn=22.0)
    early, _ = shapes.walk(optimise(views, steps=1))
    late, fractions = shapes.walk(optimise(views, steps=80))
    assert compare(late, views) > compare(early, views) + 6
    assert compare(late, held_out) > compare(early, held_out) + 5
    assert compare(late, held_out) > 23
    assert fractions[-1] == 1.0
    assert len(fractions) == 80
    # The ball is where it was, not where the optimisation had moved it to.
    assert torch.allclose(late.means.mean(0), CENTER, atol=0.03)
    assert float((late.means - CENTER).norm(dim=-1).median()) == pytest.approx(0.5, abs=0.05)


def test_pictures_without_alpha() -> None:
    views, held_out = painted_ball(8, opaque=True), painted_ball(8, turn=22.0, opaque=True)
    early, _ = shapes.walk(optimise(views, steps=1))
    late, _ = shapes.walk(optimise(views, steps=80))
    assert compare(late, held_out) > compare(early, held_out) + 4


def test_given_gaussians_get_better_in_their_own_frame() -> None:
    views, held_out = painted_ball(8), painted_ball(8, turn=22.0)
    ball = stand_ins.ball_gaussians(900)
    wrong = Gaussians(ball.means / 1.8 + CENTER, ball.scales / 1.8, ball.quats, ball.opacities, ball.colors)
    right, _ = shapes.walk(optimise(views, wrong, steps=50))
    assert compare(right, views) > compare(wrong, views) + 4
    assert compare(right, held_out) > compare(wrong, held_out) + 4
    with torch.inference_mode():  # as a network's adapter leaves them, and as a caller may be in
        frozen = Gaussians(*(getattr(wrong, name).clone() for name in wrong.__dataclass_fields__))
        again, _ = shapes.walk(optimise(views, frozen, steps=50))
    assert torch.equal(again.means, right.means)


def test_the_seed_decides() -> None:
    views = painted_ball(4, size=24)
    one, same, other = (shapes.walk(optimise(views, steps=20, seed=seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one.means, same.means)
    assert not (len(one) == len(other) and torch.equal(one.means, other.means))


def test_giving_up_halfway_leaves_nothing_behind() -> None:
    with torch.no_grad():
        walk = optimise(painted_ball(4, size=24), steps=20)
        next(walk)
        assert not torch.is_grad_enabled()
        walk.close()


@pytest.mark.parametrize("broken", ["transparent", "nan", "none", "no start", "no steps"])
def test_nothing_to_see_is_bad_input(broken: str) -> None:
    views, start, steps = painted_ball(4, size=24), None, 5
    if broken == "transparent":
        views = Views(views.rgba * torch.tensor([1.0, 1, 1, 0])[:, None, None], views.cameras)
    elif broken == "nan":
        views = Views(views.rgba * float("nan"), views.cameras)
    elif broken == "none":
        views = Views(views.rgba[:0], views.cameras[:0])
    elif broken == "no start":
        start = stand_ins.ball_gaussians()[:0]
    else:
        steps = 0
    with pytest.raises(BadInput):
        shapes.walk(optimise(views, start, steps))


def test_bad_gaussians_and_few_pictures_are_no_accident() -> None:
    views = painted_ball(8, size=24)
    ball = stand_ins.ball_gaussians(60)
    ball.means[:20] = float("nan")
    ball.scales[20:30] = float("inf")
    ball.means[30] = 1e20
    for name in Gaussians.__dataclass_fields__:
        fitted, _ = shapes.walk(optimise(views, ball, steps=12))
        assert bool(getattr(fitted, name).isfinite().all())
    for count in (1, 2):
        shapes.walk(optimise(Views(views.rgba[:count], views.cameras[:count]), steps=5))


def test_the_region_is_the_object() -> None:
    region = find_region(painted_ball(8))
    assert torch.allclose((region.low + region.high) / 2, CENTER, atol=0.05)
    assert torch.allclose(region.high - region.low, torch.ones(3), atol=0.2)


def test_the_start_lies_on_the_object() -> None:
    views = painted_ball(8)
    views = Views(views.rgba, find_region(views).similarity.cameras(views.cameras))
    start = start_from_views(views, 800, torch.Generator().manual_seed(0))
    assert 600 < len(start) < 1000
    distance = start.means.norm(dim=-1)
    assert float((distance - 0.9).abs().median()) < 0.1
    wanted = torch.from_numpy(shapes.rainbow(2.0 * start.means.numpy() / 1.8))
    assert float((start.colors - wanted).abs().median()) < 0.1


def test_points_before_the_object_move_onto_it() -> None:
    views = painted_ball(12)
    views = Views(views.rgba, find_region(views).similarity.cameras(views.cameras))
    start = start_from_views(views, 600, torch.Generator().manual_seed(0))
    positions = views.cameras.camera_to_world[:, :3, 3]
    sources = torch.cdist(start.means, positions).argmin(1)
    ways = F.normalize(start.means - positions[sources], dim=-1)
    before = start.means - 0.3 * ways
    moved = where_views_agree(before, ways, start.colors, sources, views)
    errors = [float((points.norm(dim=-1) - 0.9).abs().median()) for points in (before, moved)]
    assert errors[1] < 0.4 * errors[0]
    assert torch.allclose(torch.linalg.cross(moved - before, ways, dim=-1), torch.zeros(()), atol=1e-5)


def test_ssim_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 15, 17, generator=generator, dtype=torch.float64)
    b = (a + 0.2 * torch.rand(2, 3, 15, 17, generator=generator, dtype=torch.float64)).clamp(0, 1)
    assert float(ssim(a, a)) == pytest.approx(1.0)
    # By the definition, at one window.
    offsets = torch.arange(11, dtype=torch.float64) - 5
    weights = torch.exp(-0.5 * (offsets / 1.5) ** 2)
    window = torch.outer(weights, weights) / weights.sum() ** 2
    x, y = a[0, 0, :11, :11], b[0, 0, :11, :11]
    mean_x, mean_y = (window * x).sum(), (window * y).sum()
    spread_x, spread_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
    both = (window * (x - mean_x) * (y - mean_y)).sum()
    wanted = (2 * mean_x * mean_y + 1e-4) * (2 * both + 9e-4)
    wanted = wanted / ((mean_x**2 + mean_y**2 + 1e-4) * (spread_x + spread_y + 9e-4))
    assert float(ssim(x[None, None], y[None, None])) == pytest.approx(float(wanted), rel=1e-5)
    assert torch.autograd.gradcheck(
        lambda value: ssim(value, b[:1, :1, :13, :13]), a[:1, :1, :13, :13].requires_grad_()
    )
    assert float(ssim(a[..., :8], b[..., :8])) == 1.0
    assert float(photometric_loss(b, b)) == pytest.approx(0.0, abs=1e-6)
    assert psnr(b, b) == 100.0
    assert psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1)) == pytest.approx(20.0, abs=1e-4)


def test_doubled_gaussians_look_like_the_old_ones() -> None:
    """Clones cover what one did; splits lie within it."""
    ball = stand_ins.ball_gaussians(50)
    small = Gaussians(ball.means, 0.001 * torch.ones(50, 3), ball.quats, 0.8 * ball.opacities, ball.colors)
    splats = Splats(small)
    density = Density(splats, torch.Generator().manual_seed(0))
    density.gather(small.means, torch.ones(50, 3), orbit([0.0], 0.0, 3.0, 50.0, 32))
    density.control(splats, 70, math.inf)
    assert len(splats) == 70
    after = splats.gaussians()
    clones = after.opacities[-40:]
    assert torch.allclose(1 - (1 - clones[:20]) * (1 - clones[20:]), small.opacities[:20], atol=1e-4)
    assert float((after.means[-40:-20] + after.means[-20:]).div(2).norm(dim=-1).sub(0.9).abs().max()) < 0.01
    large = Splats(Gaussians(ball.means, 0.1 * torch.ones(50, 3), ball.quats, ball.opacities, ball.colors))
    density = Density(large, torch.Generator().manual_seed(0))
    density.gather(ball.means, torch.ones(50, 3), orbit([0.0], 0.0, 3.0, 50.0, 32))
    density.control(large, 1000, math.inf)
    assert len(large) == 100
    assert float(large.gaussians().scales.max()) == pytest.approx(0.1 / 1.6, rel=1e-4)
    density.control(large, 1000, 0.01)  # all of them are wider: then none is dropped
    assert len(large) == 100


def test_faint_gaussians_are_dropped_with_their_momentum() -> None:
    ball = stand_ins.ball_gaussians(30)
    ball.opacities[:10] = 0.001
    splats = Splats(ball)
    splats.step({name: torch.ones_like(value) for name, value in splats.values.items()}, dict.fromkeys(NAMES, 1e-3))
    Density(splats, torch.Generator().manual_seed(0)).control(splats, 30, math.inf)
    assert len(splats) == 20
    assert torch.allclose(splats.values["means"], ball.means[10:] - 1e-3, atol=1e-5)
    splats.limit_opacity(0.3)
    assert float(splats.gaussians().opacities.max()) == pytest.approx(0.3, abs=1e-4)


def test_adam_is_adam() -> None:
    ball = stand_ins.ball_gaussians(5)
    splats, wanted = Splats(ball), ball.means.clone().requires_grad_()
    adam = torch.optim.Adam([wanted], lr=0.01, eps=1e-15)
    for at in range(4):
        gradient = torch.sin(ball.means * (at + 1))
        zeros = {name: torch.zeros_like(value) for name, value in splats.values.items()}
        splats.step({**zeros, "means": gradient}, dict.fromkeys(NAMES, 0.01))
        wanted.grad = gradient
        adam.step()
    assert np.allclose(splats.values["means"], wanted.detach(), atol=1e-6)
    assert torch.allclose(F.normalize(splats.values["quats"], dim=-1), ball.quats)


def test_a_larger_picture_shows_the_object_as_large() -> None:
    """A fit through the rasteriser's usual blur would make up for it by a smaller object."""
    fitted, _ = shapes.walk(optimise(painted_ball(8), steps=80))
    larger = painted_ball(4, size=144, turn=10.0)
    shown = render_gaussians(fitted, larger.cameras)[:, 3]
    assert float(shown.sum() / larger.rgba[:, 3].sum()) == pytest.approx(1.0, abs=0.04)


def test_normals_that_agree_with_depths() -> None:
    """A wall of discs: as they lie in it they agree, each turned by 30 degrees they do not, and know how to turn."""
    cameras = orbit([0.0], 0.0, 2.0, 45.0, 32)
    ticks = torch.linspace(-0.9, 0.9, 40)
    means = torch.cartesian_prod(ticks, ticks)
    means = torch.cat([means, 0.3 * means[:, :1]], dim=-1)  # leaning
    count, lean = len(means), math.atan(0.3)
    found = []
    for turn in (0.0, 30.0):
        half = 0.5 * (math.radians(turn) - lean)
        quats = torch.tensor([math.cos(half), 0.0, math.sin(half), 0.0]).repeat(count, 1).requires_grad_()
        scales = torch.tensor([0.03, 0.03, 0.001]).repeat(count, 1)
        wall = Gaussians(means, scales, quats, torch.full((count,), 0.9), torch.ones(count, 3))
        viewmats = world_to_camera_opencv(cameras)
        channels, middle = geometry_channels(wall, viewmats[0])
        image, alpha, _ = rasterization(
            wall.means, wall.quats, wall.scales, wall.opacities, channels, viewmats, cameras.intrinsics, 32, 32
        )
        solid = torch.ones(32, 32, dtype=torch.bool)
        loss = normal_disagreement(image[0].permute(2, 0, 1), alpha[0, ..., 0], middle, cameras, solid)
        loss.backward()
        assert quats.grad is not None
        found.append((float(loss.detach()), float(quats.grad.norm())))
    assert found[0][0] < 0.01
    assert found[1][0] == pytest.approx(1 - math.cos(math.radians(30)), abs=0.03)
    assert found[1][1] > 3 * found[0][1]
