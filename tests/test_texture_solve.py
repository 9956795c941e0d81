"""The least-squares texture: it finds what the pixels say, disregards what disagrees, and hides the seams."""

import mesh_shapes as shapes
import numpy as np
import pytest
import torch

from backend.datatypes import Mesh
from backend.errors import BadInput
from backend.texture import solve as solving
from backend.texture.bake import bake_texture, bake_vertex_colors
from backend.texture.mean import splat_mean
from backend.texture.observe import ONE, Observations
from backend.texture.seams import Seams, seam_points
from backend.texture.solve import solve

NO_SEAMS = Seams(np.zeros((0, 8), np.int32), np.zeros((0, 8), np.float32))


def seen(texture: np.ndarray, count: int, seed: int = 0) -> Observations:
    """Pixels anywhere on the texture [3, S, S]."""
    size = texture.shape[1]
    rng = np.random.default_rng(seed)
    texels = rng.integers(0, size - 1, count) * size + rng.integers(0, size - 1, count)
    values = np.full((count, 7), ONE)
    values[:, :2] = np.floor(rng.random((count, 2)) * ONE)
    right, down = values[:, 0] / ONE, values[:, 1] / ONE
    flat = texture.reshape(3, -1)
    for share, step in (
        ((1 - right) * (1 - down), 0),
        (right * (1 - down), 1),
        ((1 - right) * down, size),
        (right * down, size + 1),
    ):
        values[:, 2:5] += ONE * share[:, None] * flat[:, texels + step].T
    values[:, 2:5] -= ONE
    return Observations(texels.astype(np.int32), np.clip(values, 0, ONE).round().astype(np.uint16))


def texture_of(size: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.random((3, size, size)).astype(np.float32)


def trust(size: int) -> np.ndarray:
    return np.ones(size * size, np.float32)


def test_solves_the_same_equations_as_a_dense_solver(monkeypatch):
    size, count = 12, 900
    observations = seen(texture_of(size), count)
    monkeypatch.setattr(solving, "ROUNDS", 1)
    image = np.full((3, size, size), 0.5, np.float32)
    solve(image, observations, trust(size), NO_SEAMS)

    matrix = np.zeros((count, size * size))
    right, down = observations.values[:, 0] / ONE, observations.values[:, 1] / ONE
    rows = np.arange(count)
    matrix[rows, observations.texels] = (1 - right) * (1 - down)
    matrix[rows, observations.texels + 1] = right * (1 - down)
    matrix[rows, observations.texels + size] = (1 - right) * down
    matrix[rows, observations.texels + size + 1] = right * down
    assert ((matrix**2).sum(axis=0) > 0).all()
    number = np.arange(size * size).reshape(size, size)
    pairs = np.concatenate(
        [
            np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], 1),
            np.stack([number[:-1].ravel(), number[1:].ravel()], 1),
        ]
    )
    differences = np.zeros((len(pairs), size * size))
    differences[np.arange(len(pairs)), pairs[:, 0]] = 1
    differences[np.arange(len(pairs)), pairs[:, 1]] = -1
    normal = matrix.T @ matrix + solving.STAY * np.eye(size * size) + solving.SMOOTH * differences.T @ differences
    for channel in range(3):
        wanted = np.linalg.solve(normal, matrix.T @ (observations.values[:, 2 + channel] / ONE - 0.5)) + 0.5
        assert np.abs(image[channel].reshape(-1) - wanted).max() < 5e-3


def test_sharper_than_the_mean():
    size = 64
    wanted = texture_of(size)
    observations = seen(wanted, 12 * size * size)
    mean, covered = np.full((3, size, size), 0.5, np.float32), np.ones((size, size), bool)
    believed = splat_mean(observations, mean, covered, 0.01)
    image = mean.copy()
    solve(image, observations, believed, NO_SEAMS)
    blurred, solved = np.abs(mean - wanted).mean(), np.abs(image - wanted).mean()
    assert blurred > 0.05
    assert solved < 0.01


def test_pixels_that_disagree_count_less():
    size = 32
    wanted = np.full((3, size, size), 0.3, np.float32)
    observations = seen(wanted, 20 * size * size)
    wrong = np.random.default_rng(2).random(len(observations.texels)) < 0.2
    observations.values[wrong, 2:5] = np.uint16(ONE)
    image, covered = wanted * 0, np.ones((size, size), bool)
    believed = splat_mean(observations, image, covered, 0.01)
    mean_error = np.abs(image - wanted).mean()
    solve(image, observations, believed, NO_SEAMS)
    assert mean_error > 0.12
    assert np.abs(image - wanted).mean() < 0.4 * mean_error


def test_texels_that_nothing_is_known_of_stay():
    image = texture_of(16)
    start = image.copy()
    solve(image, Observations(np.zeros(0, np.int32), np.zeros((0, 7), np.uint16)), trust(16), NO_SEAMS)
    assert (image == start).all()


def test_both_sides_of_a_seam_are_tied():
    # Two faces that share an edge on the surface, side by side in the texture with a gap between.
    faces = np.array([[0, 1, 2], [1, 0, 3]])
    uvs = np.array([[[0.1, 0.1], [0.1, 0.9], [0.4, 0.5]], [[0.9, 0.9], [0.9, 0.1], [0.6, 0.5]]], np.float32)
    size = 32
    seams = seam_points(faces, uvs, size)
    assert len(seams.texels) >= 25
    assert np.abs(seams.shares.sum(axis=1)).max() < 1e-5
    image = np.full((3, size, size), 0.2, np.float32)
    image[:, :, size // 2 :] = 0.6
    before = np.abs((image[0].reshape(-1)[seams.texels] * seams.shares).sum(axis=1)).max()
    solve(image, Observations(np.zeros(0, np.int32), np.zeros((0, 7), np.uint16)), trust(size), seams)
    after = np.abs((image[0].reshape(-1)[seams.texels] * seams.shares).sum(axis=1)).max()
    assert before > 0.39
    assert after < 0.02
    # An edge that is one edge in the texture too is no seam.
    whole = np.array([[[0.1, 0.1], [0.1, 0.9], [0.4, 0.5]], [[0.1, 0.9], [0.1, 0.1], [0.0, 0.5]]], np.float32)
    assert len(seam_points(faces, whole, size).texels) == 0


def test_no_seam_shows_on_a_baked_texture():
    shape = shapes.torus()
    mesh = Mesh(torch.from_numpy(shape.vertices).float(), torch.from_numpy(np.asarray(shape.faces)))
    textured, _ = shapes.walk(bake_texture(shapes.discs(shape), mesh, 256))
    seams = seam_points(mesh.faces.numpy(), textured.corner_uvs.numpy(), 256)
    assert len(seams.texels) > 100
    for channel in textured.base_color.numpy():
        across = np.abs((channel.reshape(-1)[seams.texels] * seams.shares).sum(axis=1))
        assert np.quantile(across, 0.99) < 0.03


def test_vertex_colours_are_those_of_the_place():
    shape = shapes.torus()
    mesh = Mesh(torch.from_numpy(shape.vertices).float(), torch.from_numpy(np.asarray(shape.faces)))
    colors = bake_vertex_colors(shapes.discs(shape), mesh)
    assert colors.shape == (len(shape.vertices), 3)
    assert colors.dtype == torch.float32
    error = np.abs(colors.numpy() - shapes.rainbow(np.asarray(shape.vertices))).max(axis=1)
    assert np.median(error) < 0.03
    assert error.max() < 0.2
    with pytest.raises(BadInput):
        bake_vertex_colors(shapes.discs(shape)[:0], mesh)
    with pytest.raises(BadInput):
        bake_vertex_colors(shapes.discs(shape), Mesh(mesh.vertices, mesh.faces[:0]))
