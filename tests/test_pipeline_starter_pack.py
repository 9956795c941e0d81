"""With the weights that ship: what the first click does. Runs wherever the starter pack is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from backend.cameras import orbit
from backend.formats.gaussian_ply import read_gaussian_ply
from backend.formats.images import write_png
from backend.formats.transforms_json import read_views, write_transforms
from backend.job.events import Done, Warned
from backend.job.models import Models
from backend.job.pipeline import run_job
from backend.job.request import Request
from backend.packs import PACKS
from backend.recipes import RECIPES

pytestmark = pytest.mark.skipif(
    not all(pack.present for pack in PACKS.values()), reason="the starter pack has not been trained yet"
)
STARTER = RECIPES["starter"]
FEW = {"steps": 6, "faces": 2000, "texture_size": 256}


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


@pytest.fixture(scope="module")
def job(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    done = list(run_job(Request(prompt="a red mushroom", seed=1, **FEW), folder, models=models))[-1]
    assert isinstance(done, Done)
    return folder


def packs(folder: Path) -> set[str]:
    """Whose weights a job took, as its report says."""
    return {entry["name"] for entry in json.loads((folder / "report.json").read_text())["weights"]}


def test_the_recipe_says_what_the_models_want() -> None:
    """The recipe's figures are used before any model is loaded, so they must be the models' own."""
    from backend.reconstruct.lgm import LgmReconstructor
    from backend.views import dmv3d

    assert (STARTER.radius, STARTER.fov_degrees) == (dmv3d.RADIUS, dmv3d.FOV_DEGREES)
    assert STARTER.view_size >= LgmReconstructor.load().size


def test_a_prompt_becomes_an_object_of_its_colour(job: Path) -> None:
    views = read_views(job / "transforms.json")
    assert len(views) == STARTER.view_count
    alpha = views.rgba[:, 3:]
    assert 0.03 < float(alpha.mean()) < 0.7
    red, green, blue = ((views.rgba[:, :3] * alpha).sum((0, 2, 3)) / alpha.sum()).tolist()
    assert red > green
    assert red > blue
    assert (job / "mesh.glb").stat().st_size > 10_000
    cloud = read_gaussian_ply(job / "gaussians.ply")
    assert float(cloud.means.abs().max()) < 1.5
    assert packs(job) == {"dmv3d", "reader"}, "its own views are rebuilt by the model that made them"


def test_the_same_seed_gives_the_same_views(models: Models, job: Path, tmp_path: Path) -> None:
    list(run_job(Request(prompt="a red mushroom", seed=1, **FEW), tmp_path, to_stage="views", models=models))
    assert (tmp_path / "views" / "000.png").read_bytes() == (job / "views" / "000.png").read_bytes()
    list(run_job(Request(prompt="a red mushroom", seed=2, **FEW), tmp_path, to_stage="views", models=models))
    assert (tmp_path / "views" / "000.png").read_bytes() != (job / "views" / "000.png").read_bytes()


def test_a_picture_becomes_an_object(models: Models, job: Path, tmp_path: Path) -> None:
    request = Request(image=str(job / "views" / "000.png"), **FEW)
    done = list(run_job(request, tmp_path / "job", models=models))[-1]
    assert isinstance(done, Done)
    assert "mesh_glb" in done.files


def test_posed_pictures_from_the_world_reconstruct(models: Models, tmp_path: Path) -> None:
    """Four pictures of an object that training never saw, in a moved and scaled world."""
    from backend.training.world.scene import sample_object
    from backend.training.world.tracer import render_batch

    cameras = orbit([10.0, 95.0, 190.0, 265.0], [20.0, 15.0, 25.0, 18.0], 3.3, 50.0, 192)
    truth, _ = render_batch([sample_object(99, 3).placed(0.0)], [cameras])
    poses = cameras.camera_to_world.clone()
    poses[:, :3, 3] = poses[:, :3, 3] * 12 + torch.tensor([3.0, 1.0, -2.0])
    names = [f"{index}.png" for index in range(4)]
    for name, rgba in zip(names, truth[0], strict=True):
        write_png(tmp_path / name, rgba)
    write_transforms(
        tmp_path / "transforms.json", type(cameras)(poses, cameras.intrinsics, cameras.width, cameras.height), names
    )
    request = Request(cameras=str(tmp_path / "transforms.json"), **{**FEW, "steps": None})
    events = list(run_job(request, tmp_path / "job", models=models))
    assert not [event for event in events if isinstance(event, Warned) and "background" in event.message]
    cloud = read_gaussian_ply(tmp_path / "job" / "gaussians.ply")
    assert packs(tmp_path / "job") == {"lgm"}
    assert len(cloud) > 300
    assert float(cloud.means.abs().quantile(0.98)) < 1.2
