"""Single views made anew: which one they go by, what stays, what is refused; and the starter's own walk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import stand_ins
import torch
from pipeline_runs import PROMPT, contents, read, run

import backend.__main__
import backend.job.pipeline
from backend import recipes
from backend.datatypes import Views
from backend.errors import BadInput
from backend.formats.images import read_image, write_png
from backend.job.editing import EditedViews, edit_views, undo
from backend.job.jobfolder import REPORT, REQUEST
from backend.job.models import Models
from backend.job.rerolling import reroll_views
from backend.views.dmv3d import Dmv3dGenerator
from backend.views.reroll import reroll


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.RECIPES, "starter", stand_ins.TINY)
    monkeypatch.setattr(backend.job.pipeline, "_surface", stand_ins.quick_surface)
    monkeypatch.setattr(backend.job.pipeline, "_texture", stand_ins.quick_texture)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    run(tmp_path / "job", prompt=PROMPT, to_stage="views", steps=3)
    return tmp_path / "job"


def rerolled(job: Path, anew: list[int], models: Models | None = None, seed: int = 4) -> EditedViews:
    walk = reroll_views(job, anew, seed, models or Models(), "cpu")
    while True:
        try:
            next(walk)
        except StopIteration as end:
            return end.value


def blue(job: Path, path: Path, number: int) -> None:
    """Puts a blue ball in the place of a view."""
    picture = read_image(job / "views" / f"{number:03d}.png").rgba
    picture[:3] = torch.tensor([0.0, 0.0, 1.0])[:, None, None]
    write_png(path, picture)
    edit_views(job, replace={number: path})


def is_blue(job: Path, number: int) -> bool:
    return read_image(job / "views" / f"{number:03d}.png").rgba[2, 16, 16] > 0.95


def test_a_view_is_made_anew_and_the_others_stay(job: Path) -> None:
    before, models = contents(job), Models()
    done = rerolled(job, [2], models)
    call = models.generator(stand_ins.TINY, "cpu", pictured=False).calls[0]
    assert call == {"anew": [2], "given": 0, "prompt": PROMPT, "seed": 4, "steps": 3}
    assert (len(done.views), done.earlier) == (4, 1)
    now = contents(job)
    assert [name for name in before if before[name] != now[name]] in ([], ["views/002.png"])
    assert read(job / REPORT)["edited_views"] == [{"view": 2, "made_anew_with_seed": 4}]
    undo(job)
    assert contents(job) == before
    run(job, prompt=PROMPT, from_stage="gaussians")


def test_what_the_user_put_there_is_what_the_others_are_made_to_fit(job: Path, tmp_path: Path) -> None:
    blue(job, tmp_path / "blue.png", 3)
    assert [is_blue(job, number) for number in range(4)] == [False, False, False, True]
    rerolled(job, [0, 1, 2])
    assert all(is_blue(job, number) for number in range(4))


def test_giving_up_half_way_changes_nothing(job: Path) -> None:
    before = contents(job)
    walk = reroll_views(job, [1], 1, Models(), "cpu")
    next(walk)
    walk.close()
    assert contents(job) == before
    assert not (job / "earlier").exists()


@pytest.mark.parametrize(("anew", "words"), [([], "No view"), ([9], "no view 9"), ([0, 1, 2, 3], "one view has to")])
def test_what_makes_no_sense_is_a_sentence(job: Path, anew: list[int], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        rerolled(job, anew)


@pytest.mark.parametrize("seed", [-1, 2**70])
def test_a_seed_out_of_range_is_refused_as_in_a_job(job: Path, seed: int) -> None:
    with pytest.raises(BadInput, match="seed must lie between"):
        rerolled(job, [1], seed=seed)


def test_what_random_weights_made_is_made_anew_by_them(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = {"load": lambda device: pytest.fail("these weights were not asked for")}
    loads["load_untrained"] = lambda device: stand_ins.TinyGenerator()
    assert stand_ins.TINY.from_text is not None
    from_text = replace(stand_ins.TINY.from_text, **loads)
    untrained = replace(stand_ins.TINY, from_text=from_text, load_untrained=stand_ins.TINY.load_reconstructor)
    monkeypatch.setitem(recipes.RECIPES, "starter", untrained)
    (job / REQUEST).write_text(json.dumps({**read(job / REQUEST), "random_weights": True}))
    assert len(rerolled(job, [1]).views) == 4


def test_recipes_that_cannot_say_so(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stand_ins.TINY.from_text is not None
    only_all = replace(stand_ins.TINY, from_text=replace(stand_ins.TINY.from_text, rerolls=False))
    monkeypatch.setitem(recipes.RECIPES, "starter", only_all)
    with pytest.raises(BadInput, match="only by DMV3D"):
        rerolled(job, [1])


def test_the_command_line_does_it(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert backend.__main__.main(["edit-views", str(job), "--reroll", "1", "--seed", "5"]) == 0
    said = capsys.readouterr()
    assert len(said.out.split()) == 4
    assert "\r" not in said.err, "no terminal is there: a line is enough"
    assert "--from-stage gaussians" in said.err


def test_the_starter_keeps_what_is_kept_and_another_seed_gives_another_view() -> None:
    """Three steps of the real network: enough to see what goes where."""
    generator = Dmv3dGenerator.load()
    views = stand_ins.ball_views(size=generator.image_size)
    gone = Views(views.rgba.clone(), views.cameras)
    gone.rgba[1] = 0.0

    def walk(seed: int, given: int = 0) -> Views:
        steps = reroll(generator, gone, [1], given, "a red pumpkin", seed=seed, steps=3, guidance=1.0)
        while True:
            try:
                step = next(steps)
                assert tuple(step.preview.shape[:2]) == (4, 4)
            except StopIteration as end:
                return end.value

    made, other = walk(1), walk(2)
    assert torch.equal(made.rgba[[0, 2, 3]], views.rgba[[0, 2, 3]])
    assert not torch.equal(made.rgba[1], other.rgba[1])
    assert torch.equal(made.rgba[1], walk(1).rgba[1])
    # Three views of a red ball say what the fourth shows.
    share, was = made.rgba[1, 3:], views.rgba[1, 3:]
    assert float((share - was).abs().mean()) < 0.1
    color = (made.rgba[1, :3] * share).sum((1, 2)) / share.sum()
    assert float(color[0]) > 0.15 + float(color[1:].max())
    with pytest.raises(BadInput):
        walk(1, given=1)
