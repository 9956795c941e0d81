"""Jobs that are cancelled, fail, or were never possible: a sentence each, and nothing lost."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stand_ins
import torch
from pipeline_runs import PROMPT, contents, read, run

import backend.job.pipeline
from backend import recipes
from backend.datatypes import Step
from backend.errors import BadInput, Cancelled, MissingWeights, OutOfMemory, UnsupportedDevice
from backend.job.events import STAGES, Progress
from backend.job.request import Request


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.RECIPES, "starter", stand_ins.TINY)
    monkeypatch.setattr(backend.job.pipeline, "_surface", stand_ins.quick_surface)
    monkeypatch.setattr(backend.job.pipeline, "_texture", stand_ins.quick_texture)


@pytest.mark.parametrize("source", ["image", "cameras", "gaussians"])
def test_missing_sources_change_nothing(tmp_path: Path, source: str) -> None:
    run(tmp_path / "job", prompt=PROMPT)
    before = contents(tmp_path / "job")
    with pytest.raises(BadInput, match="There is no"):
        run(tmp_path / "job", **{source: str(tmp_path / "none.json")})
    assert contents(tmp_path / "job") == before


def test_what_comes_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_text("no picture")
    for folder in ("new", "empty"):
        with pytest.raises(BadInput):
            run(tmp_path / folder, prompt="ein kleiner florp")
        with pytest.raises(BadInput):
            run(tmp_path / folder, image=str(tmp_path / "bad.png"))
        with pytest.raises(Cancelled):
            run(tmp_path / folder, prompt=PROMPT, stop=lambda: True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad.png", "empty"]
    (tmp_path / "empty" / "views").mkdir()  # somebody's own
    with pytest.raises(Cancelled):
        run(tmp_path / "empty", prompt=PROMPT, stop=lambda: True)
    with pytest.raises(BadInput):
        run(tmp_path / "empty", prompt=PROMPT, from_stage="mesh")
    assert (tmp_path / "empty" / "views").is_dir()


def test_a_failed_request_does_not_rewrite_what_made_the_results(tmp_path: Path) -> None:
    run(tmp_path, prompt=PROMPT, seed=3)
    with pytest.raises(BadInput):
        run(tmp_path, prompt="ein kleiner florp", seed=4)
    with pytest.raises(Cancelled):
        run(tmp_path, prompt="a mug", stop=lambda: True)
    assert (read(tmp_path / "request.json")["prompt"], read(tmp_path / "request.json")["seed"]) == (PROMPT, 3)


def test_a_failed_reroll_leaves_the_old_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, prompt=PROMPT)
    before = contents(tmp_path)
    monkeypatch.setattr(stand_ins.TinyGenerator, "fail", RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        run(tmp_path, prompt=PROMPT, seed=5)
    assert contents(tmp_path) == before


def test_a_new_view_takes_what_was_made_of_the_old_one_away(tmp_path: Path) -> None:
    run(tmp_path, prompt=PROMPT)
    done = run(tmp_path, prompt=PROMPT, seed=5, to_stage="views")[-1]
    assert set(done.files) == {"views", "transforms", "report"}


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, prompt=PROMPT)
    before = contents(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr("backend.formats.glb.write_glb", full)
        with pytest.raises(BadInput, match="disk is full"):
            run(tmp_path, prompt=PROMPT, from_stage="mesh", texture_size=256)
    assert contents(tmp_path) == before
    run(tmp_path, prompt=PROMPT, from_stage="mesh")


def test_cancel_is_obeyed_at_the_next_step(tmp_path: Path) -> None:
    asked = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 3

    with pytest.raises(Cancelled):
        run(tmp_path, prompt=PROMPT, stop=stop, steps=100)
    assert len(asked) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", STAGES[1:])
def test_cancel_in_every_stage_leaves_whole_results(tmp_path: Path, stage: str) -> None:
    running: list[str] = []
    request = Request(prompt=PROMPT, texture_size=64)
    job = backend.job.pipeline.run_job(request, tmp_path, stop=lambda: bool(running) and running[-1] == stage)

    def walk() -> None:
        for event in job:
            if isinstance(event, Progress):
                running.append(event.stage)

    with pytest.raises(Cancelled):
        walk()
    there = {path.name for path in tmp_path.iterdir()}
    assert ("gaussians.ply" in there) == (STAGES.index(stage) > 2)
    assert "mesh.npz" not in there
    done = run(tmp_path, prompt=PROMPT)[-1]
    assert "mesh_glb" in done.files


def test_a_job_that_was_stopped_and_gone_on_with_knows_where_its_results_come_from(tmp_path: Path) -> None:
    run(tmp_path / "whole", prompt=PROMPT + " with florps", steps=4)
    stopped = tmp_path / "stopped"
    for result in ("transforms.json", "gaussians.ply"):
        with pytest.raises(Cancelled):
            run(stopped, prompt=PROMPT + " with florps", steps=4, stop=(stopped / result).is_file)
    assert read(stopped / "report.json")["made"] == ["views", "gaussians"]
    run(stopped, prompt=PROMPT + " with florps", steps=4, from_stage="mesh")
    whole, gone_on = (read(folder / "report.json") for folder in (tmp_path / "whole", stopped))
    for key in ("weights", "licences", "sampling", "made", "warnings"):
        assert gone_on[key] == whole[key] != []
    assert set(gone_on["seconds"]) == set(whole["seconds"])


def test_the_report_forgets_weights_of_what_was_made_anew_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or their licences would be said to hold for an object in which they have no part."""
    monkeypatch.setitem(recipes.RECIPES, "other", replace(stand_ins.TINY, name="other", pack="reader"))
    run(tmp_path, prompt=PROMPT)
    for recipe, pack in (("starter", "lgm"), ("other", "reader"), ("starter", "lgm")):
        run(tmp_path, prompt=PROMPT, recipe=recipe, from_stage="gaussians")
        weights = [(entry["name"], entry["for"]) for entry in read(tmp_path / "report.json")["weights"]]
        assert weights == [("dmv3d", ["views"]), (pack, ["gaussians"])]
    run(tmp_path, prompt=PROMPT, from_stage="mesh")
    assert [entry["name"] for entry in read(tmp_path / "report.json")["weights"]] == ["dmv3d", "lgm"]


def test_a_report_that_somebody_edited_stops_nothing(tmp_path: Path) -> None:
    run(tmp_path, prompt=PROMPT)
    for weights in (None, 5, ["dmv3d"], [{}]):
        (tmp_path / "report.json").write_text(json.dumps({"weights": weights, "seconds": [], "warnings": 3}))
        run(tmp_path, prompt=PROMPT, from_stage="mesh")


def test_walking_away_closes_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    def surface(gaussians: Any, faces: int, single: bool) -> Any:
        try:
            yield Step(1, 2)
            yield Step(2, 2)
        finally:
            closed.append(True)

    monkeypatch.setattr(backend.job.pipeline, "_surface", surface)
    job = backend.job.pipeline.run_job(Request(prompt=PROMPT), tmp_path)
    for event in job:
        if isinstance(event, Progress) and event.stage == "surface" and event.step == 1:
            break
    job.close()
    assert closed == [True]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_too_little_memory_has_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(stand_ins.TinyGenerator, "fail", error)
    with pytest.raises(OutOfMemory):
        run(tmp_path, prompt=PROMPT)


def test_missing_weights_and_devices_are_told_before_anything_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, prompt=PROMPT)
    before = contents(tmp_path)
    with pytest.raises(UnsupportedDevice):
        run(tmp_path, prompt=PROMPT, device="abacus")

    def missing(device: str) -> Any:
        raise MissingWeights("The weights are missing.")

    monkeypatch.setitem(recipes.RECIPES, "starter", stand_ins.tiny_recipe(missing))
    with pytest.raises(MissingWeights):
        run(tmp_path, prompt=PROMPT)
    assert contents(tmp_path) == before
