"""GeoLRM's adapter: frames, preparation of any views, and a whole run with random weights."""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stand_ins import ball_views
from torch import Tensor

from backend.cameras import look_at, orbit
from backend.datatypes import Cameras, Gaussians, Step, Views
from backend.errors import BadInput, MissingWeights
from backend.nets.dinov2 import Dinov2Config
from backend.nets.geolrm import GeoLrm, project, projection, select_anchors
from backend.nets.geolrm_config import GeoLrmConfig, StageConfig
from backend.reconstruct.geolrm import (
    MODEL_SCALE,
    RADIUS,
    SV3D_FOV,
    ZERO123PLUS_FOV,
    GeoLrmReconstructor,
    canonical_gaussians,
    model_cameras,
    prepare,
)
from backend.render.gaussian_reference import rotation_matrices
from backend.weights import save_checkpoint

DINO = Dinov2Config(32, 1, 2, 14, 5)
CONFIG = GeoLrmConfig(
    StageConfig(48, 2, 4, 2, 32, DINO), StageConfig(48, 1, 4, 2, 32, DINO), grid=16, block=4, gaussians=4
)
REFERENCE = Path(__file__).parent / "parity" / "geolrm.npz"


def _network(seed: int = 0) -> GeoLrm:
    torch.manual_seed(seed)
    return GeoLrm(CONFIG)


def _run(steps: Generator[Step, None, Gaussians]) -> tuple[list[Step], Gaussians]:
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as finished:
            return seen, finished.value


def _reconstruct(views: Views, **options: Any) -> Gaussians:
    return _run(GeoLrmReconstructor(_network(), size=84, **options).reconstruct(views))[1]


@pytest.mark.parametrize(
    ("name", "azimuths", "elevations", "fov"),
    [
        ("sv3d", [i * 360 / 21 for i in range(21)], [10.0] * 21, SV3D_FOV),
        ("zero123plus", [30.0, 90.0, 150.0, 210.0, 270.0, 330.0], [20.0, -10.0] * 3, ZERO123PLUS_FOV),
    ],
)
def test_the_released_cameras(name: str, azimuths: list[float], elevations: list[float], fov: float) -> None:
    with np.load(REFERENCE) as file:
        poses, lenses = (torch.from_numpy(file[f"cameras.{name}.{part}"]) for part in ("c2w", "K"))
    actual = model_cameras(orbit(azimuths, torch.tensor(elevations), RADIUS, fov, 320))
    assert torch.allclose(actual[0], poses, atol=1e-5)
    assert torch.allclose(actual[1], lenses, atol=1e-5)


def test_both_frames_see_a_point_at_the_same_pixel() -> None:
    cameras = orbit([10.0, 130.0, 250.0], [15.0, -20.0, 40.0], RADIUS, 40.0, 100)
    point = torch.tensor([0.3, -0.5, 0.7])
    camera_point = torch.linalg.inv(cameras.camera_to_world) @ torch.cat([point, torch.ones(1)])
    focal = cameras.intrinsics[:, 0, 0]
    expected = torch.stack([camera_point[:, 0], -camera_point[:, 1]], -1) / -camera_point[:, 2:3] * focal[:, None] + 50
    in_model = torch.tensor([[0.7, 0.3, -0.5]]) * MODEL_SCALE
    actual = project(in_model, projection(*model_cameras(cameras)))[:, 0] * 100
    assert torch.allclose(actual, expected, atol=1e-3)


def test_gaussians_come_back_turned_and_scaled() -> None:
    torch.manual_seed(0)
    rows = torch.rand(20, 14)
    rows[:, 7:11] = torch.nn.functional.normalize(torch.randn(20, 4), dim=-1)
    gaussians = canonical_gaussians(rows)
    assert torch.allclose(gaussians.means[:, [2, 0, 1]] * MODEL_SCALE, rows[:, :3], atol=1e-6)
    inside, outside = rotation_matrices(rows[:, 7:11]), rotation_matrices(gaussians.quats)
    # The model's x axis is the canonical z, its y the canonical x, its z the canonical y.
    assert torch.allclose(outside[:, [2, 0, 1]], inside, atol=1e-5)
    assert torch.allclose(gaussians.scales, rows[:, 4:7] * 1.8)
    assert torch.equal(gaussians.opacities, rows[:, 3])
    assert torch.equal(gaussians.colors, rows[:, 11:])


@pytest.mark.parametrize(("side", "size"), [(64, 448), (320, 448), (448, 448), (576, 560)])
def test_views_become_as_large_as_the_released_inference_has_them(side: int, size: int) -> None:
    images, cameras = prepare(ball_views(side, views=1))
    assert images.shape == (1, 3, size, size)
    assert (cameras.width, cameras.height) == (size, size)
    assert images[0, :, 0, 0].tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert images[0, :, size // 2, size // 2].tolist() == pytest.approx([0.8, 0.2, 0.1], abs=1e-3)


def test_odd_cameras_are_turned_to_what_the_network_knows() -> None:
    """A wide picture whose camera looks past the ball, with two focal lengths and a principal point off the middle."""
    position = torch.tensor([[0.5, 1.0, 2.5]])
    pose = look_at(position, torch.tensor([[0.4, 0.1, 0.0]]))
    lens = torch.tensor([[[90.0, 0.0, 70.0], [0.0, 110.0, 40.0], [0.0, 0.0, 1.0]]])
    cameras = Cameras(pose, lens, 160, 100)
    x, y = torch.meshgrid(torch.arange(160) + 0.5, torch.arange(100) + 0.5, indexing="xy")
    local = torch.stack([(x - 70) / 90, -(y - 40) / 110, -torch.ones_like(x)], -1)
    rays = torch.nn.functional.normalize(local @ pose[0, :3, :3].T, dim=-1)
    miss = torch.linalg.cross(position[0].expand_as(rays), rays, dim=-1).norm(dim=-1)
    rgba = torch.stack([torch.zeros(100, 160)] * 3 + [(miss < 0.3).float()])[None]
    images, turned = prepare(Views(rgba, cameras), 224)
    dark = (1 - images[0].mean(0)).nonzero().float().mean(0)
    assert dark.tolist() == pytest.approx([111.5, 111.5], abs=1.0)
    assert torch.equal(turned.camera_to_world[:, :3, 3], position)
    lens = turned.intrinsics[0]
    assert float(lens[0, 0]) == float(lens[1, 1])
    # A ball of radius r at distance d spans f r / sqrt(d^2 - r^2) pixels to each side.
    radius = math.sqrt(float((1 - images[0].mean(0)).sum()) / math.pi)
    assert radius == pytest.approx(float(lens[0, 0]) * 0.3 / math.sqrt(7.5 - 0.09), rel=0.02)


@pytest.mark.parametrize("count", [1, 4, 6])
def test_any_number_of_views_becomes_gaussians(count: int) -> None:
    steps, gaussians = _run(GeoLrmReconstructor(_network(), size=84).reconstruct(ball_views(views=count)))
    assert [step.step for step in steps] == list(range(1, 6))
    assert {step.steps for step in steps} == {5}
    assert len(gaussians) > 100
    assert all(bool(torch.isfinite(getattr(gaussians, name)).all()) for name in gaussians.__dataclass_fields__)
    assert float(gaussians.means.min()) >= -0.9 - 1e-5  # offsets are one-sided, up to 0.2 of the model's units
    assert float(gaussians.means.max()) <= 0.9 + 0.2 * 1.8
    assert float(gaussians.scales.max()) <= 0.02 * 1.8
    assert torch.allclose(gaussians.quats.norm(dim=-1), torch.ones(len(gaussians)), atol=1e-5)


def test_what_comes_out_is_what_the_networks_give() -> None:
    views, network = ball_views(), _network().eval()
    images, cameras = prepare(views, 84)
    given = (images, *model_cameras(cameras))
    with torch.no_grad():
        anchors = select_anchors(network.serializer(*given), 8192, 0)
        rows = network.lrm_generator(*given, anchors)
    expected = canonical_gaussians(rows[rows[:, 3] >= 0.005])
    assert torch.allclose(_reconstruct(views).means, expected.means, atol=1e-5)


def test_tokens_are_bounded_drawn_by_the_seed_and_padded_only_on_request() -> None:
    views = ball_views()
    first = _reconstruct(views, max_tokens=20, seed=1)
    assert len(first) == 20 * CONFIG.gaussians
    assert torch.equal(first.means, _reconstruct(views, max_tokens=20, seed=1).means)
    assert not torch.equal(first.means, _reconstruct(views, max_tokens=20, seed=2).means)
    everything, padded = _reconstruct(views, max_tokens=4096), _reconstruct(views, max_tokens=4096, pad=True)
    assert len(everything) < len(padded) == 4096 * CONFIG.gaussians


def test_random_weights_come_from_their_seed_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = (GeoLrmReconstructor.untrained(CONFIG, seed=3).network.state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_checkpoint_is_loaded_with_its_card(tmp_path: Path) -> None:
    path = tmp_path / "geolrm.safetensors"
    save_checkpoint(path, _network().state_dict(), {"config": CONFIG.to_dict()}, torch.float32)
    loaded = GeoLrmReconstructor.load(path)
    loaded.size = 84
    views = ball_views()
    assert torch.equal(_run(loaded.reconstruct(views))[1].means, _reconstruct(views).means)
    other = GeoLrmConfig(CONFIG.proposal, CONFIG.reconstruction, grid=16, block=4, gaussians=5)
    save_checkpoint(path, _network().state_dict(), {"config": other.to_dict()}, torch.float32)
    with pytest.raises(MissingWeights, match="misshape"):
        GeoLrmReconstructor.load(path)


def test_bad_input_is_refused_in_a_sentence() -> None:
    views = ball_views()
    nothing = Views(torch.zeros_like(views.rgba), views.cameras)
    with pytest.raises(BadInput, match="Nothing can be made out"):
        _reconstruct(nothing)
    with pytest.raises(BadInput, match="450 pixels"):
        GeoLrmReconstructor(_network(), size=450)
    with pytest.raises(BadInput, match="0 tokens"):
        GeoLrmReconstructor(_network(), max_tokens=0)
    network = _network()
    _force_logits(network, -1.0)
    with pytest.raises(BadInput, match="Nothing can be made out"):
        _run(GeoLrmReconstructor(network, size=84).reconstruct(views))


def _force_logits(network: GeoLrm, value: float) -> None:
    weight: Tensor = network.serializer.upsample.weight
    torch.nn.init.zeros_(weight)
    torch.nn.init.constant_(network.serializer.upsample.bias, value)
