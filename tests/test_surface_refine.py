"""Refinement: a mesh comes to where the pictures show it, keeps its faces, and is never made worse."""

import math
from dataclasses import replace

import mesh_shapes as shapes
import numpy as np
import pytest
import torch
import trimesh

from backend.datatypes import Gaussians, Mesh, Step
from backend.errors import BadInput
from backend.surface import refine as refine_module
from backend.surface import topology
from backend.surface.refine import conjugate_gradients, pays, refine, refined
from backend.surface.refine_targets import Targets


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few and small pictures: the tests ask where things go, not how exactly."""
    monkeypatch.setattr(refine_module, "SIZE", 96)
    monkeypatch.setattr(refine_module, "CAMERAS", 12)
    monkeypatch.setattr(refine_module, "STIFFNESS", 4.0)  # fewer pixels are noisier


def fitted(shape: trimesh.Trimesh, count: int = 4000, depth: float = 1.2) -> Gaussians:
    """As an optimiser leaves them: of all sizes, neither flat nor round, their centres within, their outline right."""
    rng = np.random.default_rng(0)
    flat = shapes.discs(shape, count)
    points, of_face = trimesh.sample.sample_surface_even(shape, count, seed=0)
    size = flat.scales[:, :1] * torch.from_numpy(np.exp(0.4 * rng.normal(size=(len(points), 1)))).float()
    scales = size * torch.tensor([1.2, 1.0, 0.4])
    normals = torch.from_numpy(shape.face_normals[of_face]).float()
    return replace(flat, scales=scales, means=flat.means - depth * scales[:, 2:] * normals)


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(torch.from_numpy(np.asarray(shape.vertices, np.float32)), torch.from_numpy(np.asarray(shape.faces)))


def shown_radius(gaussians: Gaussians) -> float:
    """The radius of the ball that has the outline of these Gaussians (it is some of a Gaussian's width larger)."""
    targets = Targets.of(gaussians, 6, refine_module.SIZE, 0.9)
    pixels = ((targets.alphas > 0.5).sum(dim=(1, 2)).double().mean() / math.pi).sqrt()
    focal, distance = targets.cameras.intrinsics[0, 0, 0], targets.cameras.camera_to_world[0, :3, 3].norm()
    return float(distance * torch.sin(torch.atan(pixels / focal)))


def errors(mesh: Mesh, radius: float) -> torch.Tensor:
    """[n]: how far the vertices are from a sphere."""
    return (mesh.vertices.norm(dim=1) - radius).abs()


def turned(before: Mesh, after: Mesh) -> float:
    """The share of faces that look the other way than before."""
    first, second = (topology.face_normals(m.vertices.numpy(), m.faces.numpy()) for m in (before, after))
    return float(((first * second).sum(axis=1) <= 0).mean())


def test_a_mesh_that_is_too_small_grows_to_the_outline():
    gaussians, start = fitted(shapes.sphere()), mesh_of(trimesh.creation.icosphere(4, radius=0.84))
    refined, fractions = shapes.walk(refine(start, gaussians))
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    radius = shown_radius(gaussians)
    assert errors(refined, radius).mean() < 0.15 * errors(start, radius).mean()
    assert torch.equal(refined.faces, start.faces)
    assert turned(start, refined) == 0


def test_a_dent_is_mended():
    gaussians = fitted(shapes.sphere())
    round_one = mesh_of(trimesh.creation.icosphere(4, radius=shown_radius(gaussians)))
    offset = (round_one.vertices - torch.tensor([0.0, 0.0, 0.9])).square().sum(dim=1)
    dented = Mesh(round_one.vertices * (1 - 0.08 * torch.exp(-20 * offset))[:, None], round_one.faces)
    refined, _ = shapes.walk(refine(dented, gaussians))
    radius = shown_radius(gaussians)
    assert errors(refined, radius).max() < 0.6 * errors(dented, radius).max()


def test_what_agrees_already_stays():
    gaussians = fitted(shapes.sphere())
    refined, _ = shapes.walk(refine(mesh_of(trimesh.creation.icosphere(4, radius=0.86)), gaussians))
    again, _ = shapes.walk(refine(refined, gaussians))
    assert (again.vertices - refined.vertices).norm(dim=1).mean() < 0.005


def test_a_mesh_of_another_object_stays_whole():
    start = mesh_of(shapes.torus())
    refined, _ = shapes.walk(refine(start, fitted(shapes.chair(), 3000)))
    assert refined.vertices.isfinite().all()
    assert turned(start, refined) == 0


def test_without_enough_to_gain_the_mesh_comes_back_as_it_was(monkeypatch):
    monkeypatch.setattr(refine_module, "LEAST_GAIN", 1.0)
    start = mesh_of(trimesh.creation.icosphere(3, radius=0.84))
    assert shapes.walk(refine(start, fitted(shapes.sphere(), 2000)))[0] is start


def test_any_frame_and_scale():
    gaussians, start = fitted(shapes.sphere()), mesh_of(trimesh.creation.icosphere(3, radius=0.84))
    shift, scale = torch.tensor([100.0, -50.0, 3.0]), 25.0
    moved = replace(gaussians, means=gaussians.means * scale + shift, scales=gaussians.scales * scale)
    refined, _ = shapes.walk(refine(Mesh(start.vertices * scale + shift, start.faces), moved))
    here, _ = shapes.walk(refine(start, gaussians))
    assert ((refined.vertices - shift) / scale - here.vertices).abs().max() < 2e-3


def test_it_pays_for_fitted_gaussians_only():
    shape = shapes.torus()
    assert pays(fitted(shape))
    discs = shapes.discs(shape, 3000)
    assert not pays(discs)
    assert not pays(replace(discs, scales=discs.scales[:, :1].expand(-1, 3)))
    assert not pays(fitted(shape)[:10])
    broken = fitted(shape)
    broken.scales[::3] = torch.nan
    assert pays(broken)


def test_refined_where_it_pays_as_one_stage():
    start = mesh_of(trimesh.creation.icosphere(3, radius=0.84))

    def stage():
        yield Step(1, 2, "Making")
        yield Step(2, 2, "Making")
        return start

    better, fractions = shapes.walk(refined(stage(), fitted(shapes.sphere())))
    assert errors(better, 0.9).mean() < errors(start, 0.9).mean()
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    same, fractions = shapes.walk(refined(stage(), shapes.discs(shapes.sphere(), 2000)))
    assert same is start
    assert fractions == [0.5, 1.0]


def test_what_cannot_be_refined():
    start = mesh_of(trimesh.creation.icosphere(1))
    empty = Mesh(start.vertices, start.faces[:0])
    assert shapes.walk(refine(empty, fitted(shapes.sphere(), 500)))[0] is empty
    with pytest.raises(BadInput):
        shapes.walk(refine(start, fitted(shapes.sphere(), 500)[:0]))
    with pytest.raises(BadInput):
        shapes.walk(refine(start, fitted(shapes.sphere(), 500), steps=0))


def test_conjugate_gradients_solve():
    faces = trimesh.creation.icosphere(2).faces
    neighbours = topology.adjacency(np.asarray(faces), 162).astype(np.float64)
    from scipy import sparse

    matrix = (sparse.diags(np.asarray(neighbours.sum(axis=1)).reshape(-1) + 0.5) - neighbours).tocsr()
    wanted = np.random.default_rng(0).normal(size=162)
    assert np.abs(conjugate_gradients(matrix, matrix @ wanted) - wanted).max() < 0.05
    assert np.abs(conjugate_gradients(matrix, np.zeros(162))).max() == 0
