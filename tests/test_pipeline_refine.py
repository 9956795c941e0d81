"""Refining: posed pictures in, Gaussians fitted to all of them, and what the report says of it. Further mesh files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import stand_ins
import torch
from pipeline_runs import read, run

import backend.job.pipeline
from backend import recipes
from backend.datatypes import Gaussians
from backend.errors import BadInput
from backend.formats.gaussian_ply import read_gaussian_ply, write_gaussian_ply
from backend.formats.images import write_png
from backend.formats.transforms_json import write_transforms
from backend.job.jobfolder import MESH_FORMATS
from backend.job.refining import turned_y_up
from backend.job.request import Request

COLOR = (0.2, 0.4, 0.8)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.RECIPES, "starter", stand_ins.TINY)
    monkeypatch.setattr(backend.job.pipeline, "_surface", stand_ins.quick_surface)
    monkeypatch.setattr(backend.job.pipeline, "_texture", stand_ins.quick_texture)


def pictures(folder: Path, count: int, opaque: bool = False) -> str:
    views = stand_ins.ball_views(color=COLOR, views=count)
    names = [f"{at}.png" for at in range(count)]
    folder.mkdir()
    for name, rgba in zip(names, views.over(1.0) if opaque else views.rgba, strict=True):
        write_png(folder / name, rgba)
    write_transforms(folder / "transforms.json", views.cameras, names)
    return str(folder / "transforms.json")


def test_from_scratch_with_held_out_views(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, cameras=pictures(tmp_path / "in", 9), refine_steps=40)
    report = read(out / "report.json")
    facts = report["refinement"]
    assert (facts["steps"], facts["start"], facts["views"], facts["held_out_views"]) == (40, "scratch", 8, [4])
    for before, after in (facts["psnr_given"], facts["psnr_held_out"]):
        assert after > before + 1
    assert report["weights"] == []  # no network took part
    assert len(list((out / "views").glob("*.png"))) == 9
    assert (out / "mesh.glb").is_file()
    gaussians = read_gaussian_ply(out / "gaussians.ply")
    assert float(gaussians.means.norm(dim=-1).median()) == pytest.approx(0.9, abs=0.15)
    assert torch.allclose(gaussians.colors.median(0).values, torch.tensor(COLOR), atol=0.05)
    # The mesh may be made anew; what is said of the Gaussians stays.
    run(out, from_stage="mesh", cameras=pictures(tmp_path / "again", 9), refine_steps=40)
    assert read(out / "report.json")["refinement"] == facts


def test_few_pictures_begin_with_the_network(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, cameras=pictures(tmp_path / "in", 4), refine_steps=15)
    report = read(out / "report.json")
    assert report["refinement"]["start"] == "network"
    assert "psnr_held_out" not in report["refinement"]
    assert [entry["name"] for entry in report["weights"]] == ["lgm"]
    before, after = report["refinement"]["psnr_given"]
    assert after > before


def test_too_few_for_the_network_begin_from_scratch(tmp_path: Path) -> None:
    run(tmp_path / "out", cameras=pictures(tmp_path / "in", 3), refine_steps=10)
    assert read(tmp_path / "out" / "report.json")["refinement"]["start"] == "scratch"
    with pytest.raises(BadInput):
        run(tmp_path / "none", cameras=pictures(tmp_path / "in2", 3), refine_steps=10, start="network")


@pytest.mark.parametrize("frame", ["the file's", "y up", "elsewhere"])
def test_a_file_of_gaussians_is_found_in_its_frame(frame: str, tmp_path: Path) -> None:
    cameras = pictures(tmp_path / "in", 4)
    ball = stand_ins.ball_gaussians(color=COLOR)
    # Half a ball: turned wrongly it would not fit.
    half = ball[ball.means[:, 1] > -0.1]
    if frame == "the file's":
        means = torch.stack([half.means[:, 0], -half.means[:, 2], half.means[:, 1]], dim=-1)
        half = Gaussians(means, half.scales, half.quats, half.opacities, half.colors)
    elif frame == "elsewhere":
        half = Gaussians(half.means + 50.0, half.scales, half.quats, half.opacities, half.colors)
    write_gaussian_ply(tmp_path / "start.ply", half)
    events = run(tmp_path / "out", cameras=cameras, refine_steps=1, start=str(tmp_path / "start.ply"))
    facts = read(tmp_path / "out" / "report.json")["refinement"]
    made = read_gaussian_ply(tmp_path / "out" / "gaussians.ply")
    if frame == "elsewhere":
        assert facts["start"] == "scratch"
        assert any("do not lie where" in warning for warning in events[-1].warnings)
    else:
        assert facts["start"] == str(tmp_path / "start.ply")
        assert float(made.means[:, 1].min()) > -0.25
        assert float(made.means[:, 1].max()) == pytest.approx(0.9, abs=0.1)


def test_pictures_without_alpha_are_cut_out(tmp_path: Path) -> None:
    run(tmp_path / "out", cameras=pictures(tmp_path / "in", 8, opaque=True), refine_steps=20)
    gaussians = read_gaussian_ply(tmp_path / "out" / "gaussians.ply")
    assert float(gaussians.means.norm(dim=-1).quantile(0.95)) < 1.2  # a wall behind it would be farther out


def test_a_turned_gaussian_covers_what_it_did() -> None:
    turn = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    generator = torch.Generator().manual_seed(0)
    quats = torch.nn.functional.normalize(torch.randn(5, 4, generator=generator), dim=-1)
    some = Gaussians(
        torch.randn(5, 3, generator=generator),
        torch.rand(5, 3, generator=generator),
        quats,
        torch.ones(5),
        torch.ones(5, 3),
    )
    from backend.render.gaussian_reference import rotation_matrices

    turned = turned_y_up(some)
    assert torch.allclose(turned.means, some.means @ turn.T)
    for before, after in zip(rotation_matrices(some.quats), rotation_matrices(turned.quats), strict=True):
        assert torch.allclose(after, turn @ before, atol=1e-5)
    assert math.isclose(float(turned.quats[0].norm()), 1.0, rel_tol=1e-5)


def test_further_files_of_the_mesh(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(out, prompt="a mug", formats="STL, obj,glb,ply,glb-colors")[-1]
    for name, files in MESH_FORMATS.items():
        assert all((out / file).is_file() for file in files)
        assert done.files[f"mesh_{name.replace('-', '_')}"] == str(out / files[0])
    assert read(out / "request.json")["formats"] == "obj,stl,ply,glb-colors"
    assert read(out / "report.json")["sizes"]["bytes"]["mesh.stl"] == 84 + 8 * 50
    # None of them outlives the mesh that it is of.
    run(out, from_stage="mesh", formats="stl", prompt="a mug")
    left = {path.name for path in out.iterdir()}
    assert left & {file for files in MESH_FORMATS.values() for file in files} == {"mesh.stl"}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a mug", "formats": "fbx"},
        {"prompt": "a mug", "start": "scratch"},
        {"gaussians": "a.ply", "refine_steps": 10},
        {"cameras": "transforms.json", "refine_steps": 0},
        {"cameras": "transforms.json", "refine_steps": 2.5},
        {"cameras": "transforms.json", "refine_steps": 10, "start": " "},
    ],
)
def test_requests_that_make_no_sense(fields: dict) -> None:
    with pytest.raises(BadInput):
        Request.from_json(fields)


def test_a_start_that_is_not_there(tmp_path: Path) -> None:
    request = {"cameras": pictures(tmp_path / "in", 4), "refine_steps": 10, "start": str(tmp_path / "none.ply")}
    with pytest.raises(BadInput):
        run(tmp_path / "out", **request)
    assert not (tmp_path / "out").exists()
