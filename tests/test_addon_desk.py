"""The artist's desk and the catalogue without Blender: what they ask for, and what they make of answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from backend.frontend import wire
from blender_addon.catalogue import ONLY_STARTER, Catalogue, licence_lines, size_of
from blender_addon.client import Backend, Launch, Problem
from blender_addon.desk import Desk, number_of
from blender_addon.jobs import Job, Runner, State

FAKE = Path(__file__).parent / "fake_backend"


@pytest.fixture
def runner(tmp_path):
    runner = Runner(lambda: Backend(Launch(Path(sys.executable), FAKE, tmp_path / "home")))
    yield runner
    runner.close()


def done(method: str = "generate", result: dict | None = None, **fields: object) -> Job:
    job = Job({"prompt": "a mug", "seed": 1}, Path("/jobs/mug"), method=method, **fields)
    job.state, job.result = State.DONE, result or {}
    return job


def test_every_request_of_the_desk_fits_the_wire(tmp_path):
    (tmp_path / "mine.png").write_text("a picture")
    desk = Desk(tmp_path, {"prompt": "a mug"}, {})
    jobs = [desk.drop(1), desk.replace(2, str(tmp_path / "mine.png")), desk.undo(), desk.others(7)]
    jobs.insert(0, desk.reroll(1, 7))
    jobs.append(desk.mesh({"faces": 300, "prompt": "another"}, {"placement": 1}))
    for job in jobs:
        method, params = job.call()
        assert wire.mismatch(params, wire.METHODS[method].params) == ""
    assert jobs[4].call()[1]["request"] == {"prompt": "a mug", "seed": 7}
    assert jobs[5].call()[1]["request"] == {"prompt": "a mug", "faces": 300}
    assert [job.makes_object for job in jobs] == [False] * 5 + [True]
    for asked in (lambda path: desk.replace(2, path), desk.use_picture):
        with pytest.raises(Problem):
            asked(str(tmp_path / "none.png"))


def test_what_is_done_with_a_picture_of_words_fits_the_wire(tmp_path):
    (tmp_path / "mine.png").write_text("a picture")
    desk = Desk(tmp_path, {"prompt": "a mug", "recipe": "seeing"}, {}, picture=tmp_path / "imagined.png")
    other, views, mine, mesh = (
        desk.other_picture(7), desk.views_of_picture(), desk.use_picture(str(tmp_path / "mine.png")), desk.mesh({}, {})
    )  # fmt: skip
    stages = []
    for job in (other, views, mine, mesh):
        method, params = job.call()
        assert wire.mismatch(params, wire.METHODS[method].params) == ""
        stages.append((params["from_stage"], params.get("to_stage")))
    assert stages == [("picture", "picture"), ("views", "views"), ("views", "views"), ("views", None)]
    assert other.request == {"prompt": "a mug", "recipe": "seeing", "seed": 7}
    assert mine.request == {"recipe": "seeing", "image": str(tmp_path / "mine.png")}
    assert mesh.makes_object
    assert desk.shown_picture == tmp_path / "imagined_preview.png"


def test_pictures_are_rolled_and_counted_and_gone_on_from(runner, tmp_path):
    request = {"prompt": "a mug", "recipe": "seeing"}
    desk = Desk.of(runner.run(Job(request, tmp_path / "job", to_stage="picture")))
    assert desk.open
    assert (desk.views, desk.picture) == ([], tmp_path / "job" / "imagined.png")
    desk.take(runner.run(desk.other_picture(5)))
    assert desk.earlier == 1
    desk.take(runner.run(desk.views_of_picture()))
    assert (len(desk.views), desk.earlier) == (4, 2)
    assert desk.picture is not None
    assert desk.mesh({}, {}).from_stage == "gaussians"


def test_views_are_edited_and_the_mesh_is_made_of_what_is_left(runner, tmp_path):
    views = runner.run(Job({"prompt": "a mug"}, tmp_path / "job", to_stage="views"))
    desk = Desk.of(views)
    assert desk.open
    assert desk.may_drop, "how many are needed is not known yet"
    assert [number_of(view) for view in desk.views] == [0, 1, 2, 3]
    desk.take(runner.run(desk.drop(1)))
    assert [number_of(view) for view in desk.views] == [0, 2, 3]
    assert not desk.may_drop
    assert desk.earlier == 1
    mesh = runner.run(desk.mesh({"faces": 60}, {}))
    desk.take(mesh)
    assert mesh.stage != "views"
    assert not desk.open
    assert desk.earlier == 0


def test_the_others_are_made_to_fit_what_the_artist_put_there(runner, tmp_path):
    desk = Desk.of(runner.run(Job({"prompt": "a mug"}, tmp_path / "job", to_stage="views")), rerolls=True)
    assert not desk.may_fit
    (tmp_path / "mine.png").write_text("a picture")
    desk.take(runner.run(desk.replace(1, str(tmp_path / "mine.png"))))
    assert desk.may_fit
    fit = desk.fit_others(5)
    assert fit.params["anew"] == [0, 2, 3]
    desk.take(runner.run(fit))
    assert desk.may_fit, "the artist's own stays the artist's own"
    desk.take(runner.run(desk.reroll(1, 6)))
    assert not desk.may_fit


def test_what_is_about_another_folder_or_failed_changes_nothing():
    desk = Desk.of(done(to_stage="views", result={"files": {"views": ["/jobs/mug/views/000.png"]}}))
    for job in (done(result={"files": {"views": []}}), done("views.edit", {"views": [], "least": 4, "earlier": 9})):
        elsewhere = Job(job.request, Path("/jobs/cup"), method=job.method, state=State.DONE, result=job.result)
        failed = Job(job.request, desk.folder, method=job.method, state=State.FAILED, result=job.result)
        for other in (elsewhere, failed):
            desk.take(other)
            assert len(desk.views) == 1
            assert desk.earlier == 0


@pytest.mark.parametrize("result", [{}, {"files": None}, {"files": {"views": 5}}, {"files": {"views": [5, None]}}])
def test_odd_answers_leave_an_empty_desk(result):
    assert Desk.of(done(to_stage="views", result=result)).views == []


def test_the_catalogue_survives_whatever_it_is_told(tmp_path):
    catalogue = Catalogue()
    for answer in (
        {},
        {"recipes": None},
        {"recipes": [{"licences": 5, "memory": [], "picture_first": 1}]},
        {"recipes": [5, {}, {"name": 3}]},
        {"published": "x"},
    ):
        assert not catalogue.take(answer)
    assert catalogue.recipes == [ONLY_STARTER]
    for content in ("", "[1]", "{", '{"recipes": {}}', "[" * 100_000):
        (tmp_path / "catalogue.json").write_text(content)
        catalogue.read(tmp_path)
    assert not catalogue.known
    assert catalogue.take({"recipes": [{"name": "lgm", "missing": ["lgm-big"], "from_picture": ["lgm-big", "seer"]}]})
    catalogue.write(tmp_path)
    again = Catalogue()
    again.read(tmp_path)
    assert again.recipes == catalogue.recipes
    assert (again.recipes[0].from_text, again.recipes[0].from_picture) == (None, ("lgm-big", "seer"))
    assert again.recipes[0].lacks(pictured=True) == ["lgm-big"]
    assert again.recipes[0].lacks(pictured=False) == []
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue.json"]
    catalogue.write(tmp_path / "nowhere")  # a full or locked disk is no reason to stumble


def test_the_catalogue_reads_what_the_real_backend_says():
    from backend.frontend.offer import describe
    from backend.packs import PUBLISHED
    from backend.recipes import RECIPES

    catalogue = Catalogue()
    said = json.loads(json.dumps({"recipes": [describe(recipe) for recipe in RECIPES.values()]}))
    assert catalogue.take(said)
    assert {recipe.name for recipe in catalogue.recipes} == set(RECIPES)
    labels = [catalogue.label(recipe) for recipe in catalogue.recipes]
    assert labels[0] == "Starter"
    assert len(set(labels)) == len(labels)
    assert catalogue.recipe("starter").least_views == ONLY_STARTER.least_views
    assert catalogue.recipe("starter").terms(pictured=False) == []
    assert catalogue.recipe("starter").memory_wanted(pictured=False) == []
    seeing = catalogue.recipe("grm")
    assert seeing.picture_first
    assert seeing.uses(pictured=False) == ("sdxl", *seeing.uses(pictured=True))
    assert "sdxl: CreativeML Open RAIL++-M" in seeing.terms(pictured=False)
    assert "zero123plus-v1.2: CC-BY-NC-4.0" in seeing.terms(pictured=True)
    assert "of a graphics card's memory" in seeing.memory_wanted(pictured=True)[0]
    assert catalogue.label(seeing) == "grm: GRM as published"
    for pack in PUBLISHED.values():
        said = " ".join(licence_lines(pack.describe()))
        assert pack.licence in said
        assert pack.forbids in said
        assert pack.page in said


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "not known here"), (0, "not known here"), (830_000_000, "about 830 MB"), (9_370_000_000, "about 9.4 GB")],
)
def test_sizes_as_a_person_says_them(size, text):
    assert size_of({"bytes": size}) == text
