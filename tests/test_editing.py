"""Views of a job folder dropped, replaced and brought back; what is made afterwards, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import stand_ins
import torch
from pipeline_runs import PROMPT, contents, read, run
from torch import Tensor

import backend.__main__
import backend.job.pipeline
from backend import recipes
from backend.errors import BadInput
from backend.formats.gaussian_ply import read_gaussian_ply
from backend.formats.images import read_image, write_png
from backend.formats.transforms_json import read_views
from backend.job import earlier
from backend.job.editing import edit_views, shown_picture, undo
from backend.job.jobfolder import REPORT, TRANSFORMS
from backend.views.picture import _BY_NETWORK, Picture, object_bounds

BLUE = torch.tensor([0.1, 0.2, 0.9])


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The starter recipe, but content with two views."""
    monkeypatch.setitem(recipes.RECIPES, "starter", replace(stand_ins.TINY, view_count=2))
    monkeypatch.setattr(backend.job.pipeline, "_surface", stand_ins.quick_surface)
    monkeypatch.setattr(backend.job.pipeline, "_texture", stand_ins.quick_texture)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    run(tmp_path / "job", prompt=PROMPT, to_stage="views")
    return tmp_path / "job"


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ball(size: int = 32, color: Tensor = BLUE) -> Tensor:
    picture = stand_ins.ball_views(size).rgba[0].clone()
    picture[:3] = color[:, None, None]
    return picture


def on_white(rgba: Tensor) -> Tensor:
    return torch.cat([rgba[:3] * rgba[3:] + 1 - rgba[3:], torch.ones_like(rgba[3:])])


def test_a_dropped_view_is_gone_from_pictures_and_cameras_and_the_mesh_goes_on(job: Path) -> None:
    cameras = read_views(job / TRANSFORMS).cameras
    edited = edit_views(job, drop=[1])
    assert [Path(view).name for view in edited.views] == ["000.png", "002.png", "003.png"]
    assert (edited.least, edited.earlier) == (2, 1)
    left = read_views(job / TRANSFORMS)
    torch.testing.assert_close(left.cameras.camera_to_world, cameras.camera_to_world[[0, 2, 3]])
    run(job, prompt=PROMPT, from_stage="gaussians")
    report = read(job / REPORT)
    assert report["edited_views"] == [{"view": 1, "dropped": True}]
    assert [entry["name"] for entry in report["weights"]] == ["dmv3d", "lgm"]
    assert "views" in report["seconds"]
    assert not (job / earlier.FOLDER).exists(), "with the mesh there is nothing to undo"
    assert len(list((job / "views").iterdir())) == 3


def test_weights_that_cut_a_picture_out_for_a_view_are_on_record(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_by_network(picture: Picture, warnings: list[str], name: str) -> Tensor:
        warnings.append(f"{name} {_BY_NETWORK}")
        return ball()

    monkeypatch.setattr("backend.job.editing.cut_out", cut_by_network)
    write_png(tmp_path / "photo.png", torch.rand(3, 90, 160))
    assert "by the network" in edit_views(job, replace={2: tmp_path / "photo.png"}).warnings[0]
    run(job, prompt=PROMPT, from_stage="gaussians")
    assert "matting" in [entry["name"] for entry in read(job / REPORT)["weights"]]


def test_too_few_left_is_refused_and_nothing_changes(job: Path) -> None:
    before = everything(job)
    with pytest.raises(BadInput, match="needs 2 views, and 1 would be left"):
        edit_views(job, drop=[0, 1, 2])
    assert everything(job) == before


def test_a_replaced_view_is_what_the_mesh_is_made_from(job: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "blue.png", ball())
    edit_views(job, replace=dict.fromkeys(range(4), tmp_path / "blue.png"))
    run(job, prompt=PROMPT, from_stage="gaussians")
    assert read_gaussian_ply(job / "gaussians.ply").colors[0].tolist() == pytest.approx(BLUE.tolist(), abs=0.01)
    assert [sorted(change) for change in read(job / REPORT)["edited_views"]] == [["replaced_by_sha256", "view"]] * 4


@pytest.mark.parametrize("opaque", [False, True])
def test_a_picture_of_the_views_size_keeps_its_framing(job: Path, tmp_path: Path, opaque: bool) -> None:
    moved = torch.roll(ball(), (3, -4), dims=(1, 2))
    write_png(tmp_path / "mine.png", on_white(moved) if opaque else moved)
    assert edit_views(job, replace={2: tmp_path / "mine.png"}).warnings == []
    now = read_image(job / "views" / "002.png").rgba
    assert float((now[3] - moved[3]).abs().mean()) < 0.02
    torch.testing.assert_close(now[:3, 16 + 3, 16 - 4], BLUE, atol=0.02, rtol=0)


def test_a_larger_picture_of_the_same_framing_is_only_scaled(job: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "fine.png", ball(128))
    assert edit_views(job, replace={0: tmp_path / "fine.png"}).warnings == []
    now = read_image(job / "views" / "000.png").rgba
    assert tuple(now.shape) == (4, 32, 32)
    assert float((now[3] - ball()[3]).abs().mean()) < 0.02


def test_a_photograph_is_cut_out_and_put_where_the_view_had_the_object(job: Path, tmp_path: Path) -> None:
    photograph = torch.ones(3, 90, 160)
    photograph[:, 20:50, 100:120] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    write_png(tmp_path / "photo.png", photograph)
    old = read_image(job / "views" / "003.png").rgba
    edited = edit_views(job, replace={3: tmp_path / "photo.png"})
    assert "moved and scaled" in edited.warnings[0]
    now = read_image(job / "views" / "003.png").rgba
    top, bottom, left, right = object_bounds(now[3])
    was = object_bounds(old[3])
    assert (top, bottom) == pytest.approx(was[:2], abs=1)
    assert (left + right) / 2 == pytest.approx((was[2] + was[3]) / 2, abs=1)
    assert (right - left) / (bottom - top) == pytest.approx(20 / 30, abs=0.1)


def test_undo_brings_back_every_byte_step_by_step(job: Path, tmp_path: Path) -> None:
    run(job, prompt=PROMPT, from_stage="gaussians")
    states = [everything(job)]
    write_png(tmp_path / "blue.png", ball())
    assert edit_views(job, replace={0: tmp_path / "blue.png"}).earlier == 1
    assert not (job / "mesh.glb").exists(), "a mesh of other views would be a mixture"
    assert edit_views(job, drop=[2]).earlier == 2
    run(job, prompt=PROMPT, from_stage="views", to_stage="views", seed=5)
    assert (job / "views_preview.png").read_bytes() != states[0]["views_preview.png"]
    for left in (2, 1, 0):
        assert undo(job).earlier == left
    assert contents(job) == {name: data for name, data in states[0].items() if name in contents(job)}
    assert set(everything(job)) == set(states[0])
    assert (job / REPORT).read_bytes() == states[0][REPORT]
    with pytest.raises(BadInput, match="no earlier version"):
        undo(job)


def test_an_undo_that_was_cut_short_is_done_by_the_next(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(job)
    edit_views(job, drop=[0])
    real, calls = os.replace, []

    def once(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise OSError(5, "cut short")
        real(source, target)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(BadInput, match="cut short"):
        undo(job)
    assert not (job / TRANSFORMS).exists(), "half a set of views is none"
    undo(job)
    assert contents(job) == before


@pytest.mark.parametrize("content", [b"", b"not a picture", None])
def test_a_picture_that_cannot_be_used_changes_nothing(job: Path, tmp_path: Path, content: bytes | None) -> None:
    before = everything(job)
    if content is not None:
        (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(BadInput):
        edit_views(job, drop=[0], replace={1: tmp_path / "bad.png"})
    assert everything(job) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drop": [7]}, "no view 7"),
        ({"drop": [1], "replace": {1: "x.png"}}, "at once"),
        ({}, "Nothing is to be changed"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(job: Path, options: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        edit_views(job, **options)


def test_folders_that_are_no_jobs_are_refused(tmp_path: Path, job: Path) -> None:
    for call in (lambda: edit_views(tmp_path, drop=[0]), lambda: undo(tmp_path)):
        with pytest.raises(BadInput):
            call()
    document = json.loads((job / TRANSFORMS).read_text())
    document["frames"][0]["file_path"] = "../../elsewhere.png"
    (job / TRANSFORMS).write_text(json.dumps(document))
    with pytest.raises(BadInput, match="no job made"):
        edit_views(job, drop=[1])


def test_the_command_line_edits_and_undoes(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_png(tmp_path / "blue.png", ball())
    command = ["edit-views", str(job), "--drop", "2", "--replace", f"1={tmp_path / 'blue.png'}"]
    assert backend.__main__.main(command) == 0
    assert capsys.readouterr().out.split() == [str(job / "views" / f"00{number}.png") for number in (0, 1, 3)]
    assert backend.__main__.main(["edit-views", str(job), "--undo", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["views"]) == 4
    for wrong in (
        ["--replace", "x"],
        ["--replace", "1="],
        ["--undo", "--drop", "1"],
        [],
        ["--drop", "9"],
        ["--reroll", "1", "--drop", "1"],
    ):
        assert backend.__main__.main(["edit-views", str(job), *wrong]) == 1
        assert capsys.readouterr().err.strip().endswith((".", "png."))


def test_what_is_shown_of_a_picture_is_cut_out_and_centred(tmp_path: Path) -> None:
    photograph = torch.ones(3, 90, 160)
    photograph[:, 20:60, 100:120] = 0.2
    write_png(tmp_path / "photo.png", photograph)
    (note,) = shown_picture(tmp_path / "photo.png", tmp_path / "out.png")
    assert "plain background was cut away" in note
    now = read_image(tmp_path / "out.png").rgba
    top, bottom, left, right = object_bounds(now[3])
    assert bottom - top == pytest.approx(0.9 * 256, abs=2)
    assert (top + bottom) / 2 == pytest.approx(128, abs=1)
    assert (left + right) / 2 == pytest.approx(128, abs=1)
