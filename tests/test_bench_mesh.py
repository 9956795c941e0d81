"""The mesh benchmark measures what it says: shapes as stated, exact distances, a row a kind."""

import argparse
import json

import numpy as np
import pytest

from backend import bench
from backend.bench import distance, shapes
from backend.errors import BadInput
from backend.surface import topology


@pytest.mark.parametrize("name", list(shapes.GENERATED))
def test_shapes_are_what_they_say(name):
    shape = shapes.GENERATED[name]()
    assert topology.is_closed(shape.faces)
    assert topology.pieces(shape.faces, len(shape.vertices))[0] == shape.pieces
    assert topology.genus(shape.faces, len(shape.vertices)) == shape.genus
    assert topology.volume(shape.vertices, shape.faces) > 0
    assert np.ptp(shape.vertices, axis=0).max() == pytest.approx(1.8)


def test_distance_is_to_the_nearest_place_of_any_triangle():
    rng = np.random.default_rng(0)
    vertices, faces, points = rng.normal(size=(40, 3)), rng.integers(0, 40, (50, 3)), rng.normal(size=(100, 3))
    found = distance.distances(points, vertices, faces)
    # Many places on each triangle: none is nearer, the best of them little farther.
    places = np.einsum("sk,tkd->tsd", rng.dirichlet([0.6, 0.6, 0.6], 3000), vertices[faces])
    best = np.min([np.linalg.norm(points[:, None] - many, axis=2).min(axis=1) for many in places], axis=0)
    assert (found <= best + 1e-9).all()
    assert (best - found).mean() < 0.01


def test_comparison_sees_a_shift():
    shape = shapes.two_spheres()
    moved = shape.vertices + np.array([0.01, 0.0, 0.0])
    same = distance.compare((shape.vertices, shape.faces), (shape.vertices, shape.faces), [0.002], 2000)
    assert same.chamfer < 1e-6
    assert same.f_scores == [1.0]
    other = distance.compare((shape.vertices, shape.faces), (moved, shape.faces), [0.002, 0.02], 2000)
    assert other.chamfer == pytest.approx(0.005, rel=0.05)  # the mean of |cos| over a ball is one half
    assert other.f_scores[0] == pytest.approx(0.2, abs=0.04)
    assert other.f_scores[1] == 1.0


def test_noisy_gaussians_are_as_noisy_as_they_say():
    shape = shapes.two_spheres()
    few = shapes.noisy_discs(shape, 2000)
    good = len(few) - round(len(few) * shapes.FLOATERS / (1 + shapes.FLOATERS))
    off = distance.distances(few.means[:good].double().numpy(), shape.vertices, shape.faces)
    assert np.sqrt((off**2).mean()) == pytest.approx(shapes.NOISE, rel=0.05)


def test_bench_mesh_prints_a_row_each(capsys, tmp_path):
    parser = argparse.ArgumentParser()
    bench.add_bench_arguments(parser)
    few = ["--shapes", "two_spheres", "--gaussians", "1500", "--resolution", "72", "--faces", "500"]
    arguments = ["mesh", *few, "--kinds", "discs", "--texture-size", "64", "--json", "--out", str(tmp_path)]
    assert bench.run_bench(parser.parse_args(arguments)) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["closed"]
    assert row["wanted"]
    assert row["pieces"] == 2
    assert 0 < row["chamfer"] < 0.01
    assert row["psnr"] > 15
    assert (tmp_path / "two_spheres.jpg").stat().st_size > 1000
    with pytest.raises(BadInput):
        bench.run_bench(parser.parse_args(["mesh", "--kinds", "cubes"]))
    with pytest.raises(BadInput):
        bench.run_bench(parser.parse_args(["mesh", "--shapes", "teapot"]))
