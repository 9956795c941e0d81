"""What the Gaussians' neighbourhoods say: noise, normals, floaters; and vertices settled on them."""

import mesh_shapes as shapes
import numpy as np
import pytest
import torch

from backend.surface.cover import cover
from backend.surface.neighbours import Neighbours, scatter
from backend.surface.points import Cloud, Points, _belonging, turning_z_to
from backend.surface.settle import FARTHEST, settle


def ball(count: int = 4000, radius: float = 1.0, noise: float = 0.0) -> np.ndarray:
    """[n, 3]: evenly spread over a sphere."""
    height = 1 - 2 * (np.arange(count) + 0.5) / count
    turn = np.arange(count) * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - height**2)
    points = radius * np.stack([ring * np.cos(turn), height, ring * np.sin(turn)], axis=1)
    return (points + np.random.default_rng(0).normal(size=points.shape) * noise).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_scatter_is_the_noise_and_not_the_curvature(noise):
    clean, rough = ball(), ball(noise=noise)
    flipped = unit(clean) * np.where(np.arange(len(clean)) % 2, 1, -1)[:, None].astype(np.float32)
    assert scatter(Neighbours.of(clean, 1.0).index, clean, flipped).max() < 5e-4
    found = scatter(Neighbours.of(rough, 1.0).index, rough, flipped)
    assert np.median(found) == pytest.approx(noise, rel=0.2)


def test_neighbours_know_spacing_and_plane():
    points = ball()
    near = Neighbours.of(points, 1.0)
    assert np.median(near.spacing) == pytest.approx(np.sqrt(4 * np.pi / len(points)), rel=0.1)
    assert (np.abs((near.planes * unit(points)).sum(axis=1)) > 0.99).all()
    assert near.flatness.min() > 0.9
    heap = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
    assert np.median(Neighbours.of(heap, 1.0).flatness) < 0.1


def test_means_keep_the_two_sides_of_a_sheet_apart():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (2000, 3)).astype(np.float32) * np.float32([1, 1, 0.001])
    normals = np.zeros_like(points)
    normals[:, 2] = np.where(np.arange(2000) % 2, 1.0, -1.0)
    near = Neighbours.of(points, 1.0)
    assert np.abs(near.mean(normals)[:, 2]).mean() < 0.5
    assert np.allclose(near.mean(normals, normals=normals), normals)


def cloud_of(points: np.ndarray, scale: float) -> Cloud:
    count = len(points)
    return Cloud.of(
        cover(shapes.gaussians(points, np.full((count, 3), scale), np.full((count, 3), 0.5), np.ones(count)))
    )


def test_balls_on_a_clean_sheet_are_pressed_into_discs():
    points = ball()
    pressed = cloud_of(points, 0.06).pressed()
    assert pressed.scales.amin(dim=1).max() < 0.02
    axes = torch.nn.functional.one_hot(pressed.scales.argmin(dim=1), 3)
    assert (axes[:, 2] == 1).all()
    assert pressed.scales[:, 0].min() > 0.04
    heap = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32) * 0.3
    assert (cloud_of(heap, 0.06).pressed().scales.amin(dim=1) > 0.03).float().mean() > 0.9


def test_quats_turn_z_to_the_normal():
    from backend.render.gaussian_reference import rotation_matrices

    normals = torch.from_numpy(ball(50))
    axes = rotation_matrices(turning_z_to(normals))[:, :, 2]
    assert ((axes * normals).sum(dim=1).abs() > 0.9999).all()


def test_a_floater_near_the_surface_does_not_belong():
    points = np.concatenate([ball(), [[0.0, 1.15, 0.0]]]).astype(np.float32)
    belonging = _belonging(cloud_of(points, 0.03))
    assert belonging[-1] == 0
    assert belonging[:-1].mean() > 0.97


def settled(points: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    ones = np.ones(len(points), np.float32)
    near = Neighbours.of(points, 1.0)
    normals = unit(points)
    noise = scatter(near.index, points, normals)
    oriented = Points(points, normals, ones, near.spacing**2, near.spacing, 0 * ones, ones, near.spacing, noise, near)
    return settle(vertices.astype(np.float64), unit(vertices).astype(np.float64), oriented)


def test_vertices_settle_on_a_curved_surface_without_shrinking_it():
    rng = np.random.default_rng(1)
    vertices = unit(rng.normal(size=(500, 3))) * (10 + rng.uniform(-1, 1, (500, 1)))
    radii = np.linalg.norm(settled(ball(radius=10.0), vertices), axis=1)
    assert np.abs(radii - 10).max() < 0.01
    noisy = np.linalg.norm(settled(ball(radius=10.0, noise=0.2), vertices), axis=1)
    assert np.abs(noisy - 10).mean() < 0.07  # a third of the points' own


def test_vertices_stay_where_no_point_is_and_never_go_far():
    points = ball(radius=10.0)
    vertices = unit(np.random.default_rng(1).normal(size=(500, 3))) * 10.5
    moved = settled(points[points[:, 1] < 0], vertices)
    above = vertices[:, 1] > 3
    assert np.allclose(moved[above], vertices[above], atol=1e-5)
    assert np.linalg.norm(settled(points, vertices * 1.3) - vertices * 1.3, axis=1).max() <= FARTHEST + 1e-3
