"""The visual hull of known shapes: rays enter it where geometry says."""

from __future__ import annotations

import torch

from backend.cameras import orbit, rays
from backend.render import visual_hull
from backend.render.visual_hull import hull_distances
from backend.training.world.scene import sample_object
from backend.training.world.tracer import render_batch

SIDES = [0.0, 90.0, 180.0, 270.0]


def _ball(cameras, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Silhouettes [V, H, W] of a ball at the origin, and the distance of each ray from the origin."""
    origins, directions = rays(cameras)
    nearest = -(origins * directions).sum(-1, keepdim=True)
    away = (origins + nearest * directions).norm(dim=-1)
    return (away < radius).float(), away


def test_a_ball_seen_from_many_sides_is_its_own_hull() -> None:
    cameras = orbit([i * 30.0 for i in range(12)] * 3, [-50.0] * 12 + [0.0] * 12 + [50.0] * 12, 3.0, 50.0, 64)
    alpha, away = _ball(cameras, 0.6)
    found = hull_distances(alpha, cameras, 64)
    origins, directions = rays(cameras)
    expected = -(origins * directions).sum(-1) - (0.36 - away**2).clamp_min(0).sqrt()
    error = (found - expected).abs()[away < 0.5]
    assert error.mean() < 0.04


def test_the_hull_holds_the_object() -> None:
    example = sample_object(3, 1, "chair")
    cameras = orbit(SIDES, 20.0, 3.0, 50.0, 64)
    rgba, distance = render_batch([example.rows], [cameras])
    found = hull_distances(rgba[0, :, 3], cameras, 64)
    hit = rgba[0, :, 3] > 0.99
    assert (found - distance[0])[hit].quantile(0.98) < 0.06


def test_views_that_disagree_give_the_origin_or_the_best_guess() -> None:
    cameras = orbit(SIDES, 20.0, 3.0, 50.0, 16)
    alpha = torch.zeros(4, 16, 16)
    alpha[0] = 1.0
    found = hull_distances(alpha, cameras, 16)
    origins, directions = rays(cameras)
    assert torch.allclose(found[0], -(origins[0] * directions[0]).sum(-1), atol=1e-4)
    assert torch.isfinite(found).all()


def test_plain_torch_finds_the_same(monkeypatch) -> None:
    cameras = orbit(SIDES, 20.0, 3.0, 50.0, 32)
    alpha, _ = _ball(cameras, 0.6)
    alpha[3, :10] *= 0.4  # views that disagree
    ours = hull_distances(alpha, cameras, 32)
    monkeypatch.setattr(visual_hull, "numba_present", lambda: False)
    assert ((hull_distances(alpha, cameras, 32) - ours).abs() > 1e-3).float().mean() < 0.005
