"""Words for generators that see pictures alone: the picture they become, kept, looked at, rolled again and replaced."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stand_ins
import test_pipeline_pictured
import torch
from pipeline_runs import read, run
from text_to_image_cases import SMALL, write_folder

import backend.__main__
from backend import recipes
from backend.errors import BadInput, Cancelled
from backend.formats.gaussian_ply import read_gaussian_ply
from backend.formats.images import read_image, write_png
from backend.job.editing import undo
from backend.job.events import Done, Preview, Progress, Warned
from backend.job.models import Models
from backend.recipes import RECIPES
from backend.views import text_to_image_untrained

small, tiny, published = (getattr(test_pipeline_pictured, name) for name in ("small", "tiny", "published"))  # fixtures


@pytest.fixture
def words(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All networks of the recipe `grm` small, the one that makes pictures too."""
    monkeypatch.setattr(text_to_image_untrained, "FULL", SMALL)


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch, small: None) -> stand_ins.TinyPainter:
    """A recipe `seeing` with tiny models, whose generator sees pictures alone."""
    made, generator = stand_ins.TinyPainter(), stand_ins.TinyGenerator()
    made.generator = generator
    seeing = stand_ins.seeing_recipe(lambda device: generator, lambda device: made)
    monkeypatch.setitem(recipes.RECIPES, "seeing", seeing)
    return made


def job(folder: Path, **fields: Any) -> list[Any]:
    return run(folder, **({"prompt": "a mug", "recipe": "seeing"} | fields))


def resumed(folder: Path, *options: str) -> int:
    return backend.__main__.main(["generate", "--out", str(folder), *options])


# -- with the real networks, small -----------------------------------------------------------------------------------


def test_from_words_to_a_mesh_with_random_weights(
    words: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = [
        "generate",
        "--recipe",
        "grm",
        "--prompt",
        "a red ball",
        "--random-weights",
        "--steps",
        "2",
        "--seed",
        "3",
    ]
    assert backend.__main__.main([*command, "--out", str(out), "--texture-size", "64", "--json"]) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    stages = [event["stage"] for event in events if event["event"] == "progress"]
    assert list(dict.fromkeys(stages)) == ["picture", "views", "reconstruct", "surface", "texture", "export"]
    told = [event["message"] for event in events if event["event"] == "warning"]
    assert any("random weights" in message for message in told)
    assert not any("words are ignored" in message for message in told), "they are in the picture"
    shown = [event["kind"] for event in events if event["event"] == "preview"]
    assert shown.index("picture") < shown.index("views") < shown.index("mesh")
    assert tuple(read_image(out / "imagined.png").rgba.shape) == (4, 64, 64)
    test_pipeline_pictured.check_views("grm", out)
    assert len(read_gaussian_ply(out / "gaussians.ply", [])) > 0
    assert (out / "mesh.glb").is_file()
    report = read(out / "report.json")
    assert report["made"] == ["picture", "views", "gaussians", "mesh"]
    assert report["picture"]["model"] == "sdxl"
    assert report["picture"]["wording"].startswith("a red ball, one single whole object")
    assert (report["picture"]["seed"], report["sampling"]["steps"]) == (3, 2)
    assert report["weights"] == []


@pytest.fixture
def imported(words: None, published: Path, tmp_path: Path) -> Path:
    """The data folder with tiny weights of both networks, as imported."""
    write_folder(tmp_path / "stick" / "sdxl")
    assert backend.__main__.main(["weights", "import", "zero123plus-v1.2", str(published)]) == 0
    assert backend.__main__.main(["weights", "import", "sdxl", str(tmp_path / "stick")]) == 0
    return tmp_path / "home" / "weights"


def test_imported_weights_are_used_and_named_with_their_licences(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["views", "--prompt", "a red ball", "--recipe", "grm", "--steps", "2", "--out", str(out)]
    assert backend.__main__.main(command) == 0
    report = read(out / "report.json")
    assert [entry["name"] for entry in report["weights"]] == ["sdxl", "zero123plus-v1.2"]
    assert report["licences"] == ["CC-BY-NC-4.0", "CreativeML Open RAIL++-M"]
    unet = imported / "sdxl" / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    os.truncate(unet, unet.stat().st_size - 1000)
    assert backend.__main__.main(command) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "unet/diffusion_pytorch_model.fp16.safetensors is damaged or cut off" in said
    assert "weights download sdxl" in said


def test_weights_are_asked_for_only_where_they_are_needed(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(tmp_path / "ball.png", stand_ins.ball_views(96).rgba[0])
    cases = (
        (["--prompt", "a mug", "--to-stage", "picture"], {"sdxl"}),
        (["--prompt", "a mug"], {"sdxl", "zero123plus-v1.2", "grm-r"}),
        (["--prompt", "a mug", "--image", str(tmp_path / "ball.png")], {"zero123plus-v1.2", "grm-r"}),
    )
    for options, wanted in cases:
        assert resumed(tmp_path / "out", "--recipe", "grm", *options) == 1
        said = capsys.readouterr().err.splitlines()[-1]
        names = {"sdxl", "zero123plus-v1.2", "grm-r", "mvdream"}
        assert {name for name in names if f"weights download {name}'" in said} == wanted
        assert not (tmp_path / "out").exists()


def test_the_picture_maker_is_one_for_all_recipes_and_loaded_once(words: None) -> None:
    models, making = Models(), RECIPES["grm"].picture_making
    assert making is not None
    assert making is RECIPES["geolrm"].picture_making
    first, again = (models.picture_maker(making, "cpu", untrained=True) for _ in range(2))
    assert first is again


def test_every_published_generator_for_pictures_takes_words_too() -> None:
    for recipe in RECIPES.values():
        if recipe.from_picture is not None:
            assert recipe.from_text is not None
            assert recipe.pack in recipe.packs(pictured=False)
    assert RECIPES["starter"].picture_making is RECIPES["lgm"].picture_making is None
    assert RECIPES["grm"].packs(pictured=False) == ["sdxl", "zero123plus-v1.2", "grm-r"]
    assert RECIPES["grm"].packs(pictured=True) == ["zero123plus-v1.2", "grm-r"]


# -- the picture as a result of its own ------------------------------------------------------------------------------


def test_a_job_stops_at_the_picture_and_goes_on_from_it(painter: stand_ins.TinyPainter, tmp_path: Path) -> None:
    events = job(tmp_path / "job", to_stage="picture", seed=7)
    done = events[-1]
    assert isinstance(done, Done)
    assert done.files["picture"] == str(tmp_path / "job" / "imagined.png")
    assert done.files["views"] == []
    assert {event.stage for event in events if isinstance(event, Progress)} == {"picture"}
    assert done.warnings == [], "that its plain background was cut away is no news"
    picture = (tmp_path / "job" / "imagined.png").read_bytes()
    assert resumed(tmp_path / "job", "--from-stage", "views", "--seed", "8", "--to-stage", "views") == 0
    assert (tmp_path / "job" / "imagined.png").read_bytes() == picture
    report = read(tmp_path / "job" / "report.json")
    assert (report["picture"]["seed"], report["seed"]) == (7, 8), "the picture's seed is not the views'"
    assert report["made"] == ["picture", "views"]
    assert set(report["seconds"]) == {"picture", "views"}
    assert resumed(tmp_path / "job", "--from-stage", "gaussians", "--texture-size", "64", "--faces", "100") == 0
    report = read(tmp_path / "job" / "report.json")
    assert report["picture"]["seed"] == 7
    assert report["made"] == ["picture", "views", "gaussians", "mesh"]
    assert len(painter.calls) == 1


def test_the_picture_is_shown_as_the_generator_will_see_it(painter: stand_ins.TinyPainter, tmp_path: Path) -> None:
    events = job(tmp_path / "job", to_stage="views")
    path = str(tmp_path / "job" / "imagined_preview.png")
    assert next(event.path for event in events if isinstance(event, Preview)) == path
    seen = read_image(path).rgba
    assert seen.shape == (4, 512, 512)
    assert float(seen[3, 0].max()) == 0, "cut out"
    assert float(seen[3, 40:472, 256].min()) > 0.9, "and enlarged to fill its frame"
    call = painter.generator.calls[0]
    assert call["prompt"] is None
    assert call["image"].shape == (4, 32, 32)


def test_another_picture_is_rolled_and_the_old_one_brought_back(painter: stand_ins.TinyPainter, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    job(folder, to_stage="views", seed=1)
    before = {path.name: path.read_bytes() for path in folder.rglob("*.png")}
    assert resumed(folder, "--from-stage", "picture", "--to-stage", "picture", "--seed", "2") == 0
    assert (folder / "imagined.png").read_bytes() != before["imagined.png"]
    assert not (folder / "transforms.json").exists()
    assert list((folder / "views").iterdir()) == [], "the views were of another picture"
    assert resumed(folder, "--from-stage", "picture", "--to-stage", "picture", "--seed", "3") == 0
    second = undo(folder)
    assert (second.views, second.earlier) == ([], 1)
    assert read(folder / "report.json")["picture"]["seed"] == 2
    first = undo(folder)
    assert (len(first.views), first.earlier) == (4, 0)
    assert {path.name: path.read_bytes() for path in folder.rglob("*.png")} == before


def test_views_of_a_picture_can_be_taken_back_to_it(painter: stand_ins.TinyPainter, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    job(folder, to_stage="picture")
    assert resumed(folder, "--from-stage", "views", "--to-stage", "views") == 0
    assert undo(folder).views == []
    assert (folder / "imagined.png").is_file()
    assert not (folder / "transforms.json").exists()


def test_a_picture_painted_over_is_what_the_views_are_made_of(painter: stand_ins.TinyPainter, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    job(folder, to_stage="picture")
    mine = stand_ins.ball_views(80, (0.0, 0.0, 1.0)).rgba[0]
    write_png(folder / "imagined.png", mine)
    assert resumed(folder, "--from-stage", "views", "--to-stage", "views") == 0
    image = painter.generator.calls[0]["image"]
    assert float(image[2, 16, 16]) == pytest.approx(1.0, abs=0.01)
    assert float(image[0, 16, 16]) == pytest.approx(0.0, abs=0.01)
    assert set(read(folder / "report.json")["picture"]) == {"replaced_by_sha256"}


def test_a_file_can_take_the_pictures_place(painter: stand_ins.TinyPainter, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    job(folder, to_stage="picture")
    write_png(tmp_path / "mine.png", stand_ins.ball_views(80).rgba[0])
    assert resumed(folder, "--from-stage", "views", "--to-stage", "views", "--image", str(tmp_path / "mine.png")) == 0
    request = read(folder / "request.json")
    assert request["image"] == str(tmp_path / "mine.png")
    assert "prompt" not in request
    assert not (folder / "imagined.png").exists(), "nothing was made of it"
    assert "picture" not in read(folder / "report.json")


def test_another_recipe_goes_on_with_the_same_picture(painter: stand_ins.TinyPainter, tmp_path: Path) -> None:
    job(tmp_path / "job", to_stage="picture")
    RECIPES["other"] = replace(RECIPES["seeing"], name="other")
    try:
        assert resumed(tmp_path / "job", "--from-stage", "views", "--recipe", "other", "--to-stage", "views") == 0
    finally:
        del RECIPES["other"]
    assert read(tmp_path / "job" / "report.json")["recipe"] == "other"
    assert len(painter.calls) == 1


def test_a_picture_of_nothing_is_a_warning_where_it_is_asked_for_and_an_error_where_views_are(
    painter: stand_ins.TinyPainter, tmp_path: Path
) -> None:
    events = job(tmp_path / "one", prompt="nothing", to_stage="picture")
    told = [event.message for event in events if isinstance(event, Warned)]
    assert len(told) == 1
    assert "The picture that the words became shows nothing" in told[0]
    assert "Try another seed" in told[0]
    with pytest.raises(BadInput, match="that the words became") as caught:
        job(tmp_path / "two", prompt="nothing")
    assert "Try another seed" in caught.value.fix
    assert (tmp_path / "two" / "imagined.png").is_file(), "what is finished stays, to be looked at"


def test_a_cancel_leaves_no_half_picture(painter: stand_ins.TinyPainter, tmp_path: Path) -> None:
    looks = iter([False, False, False, True])
    with pytest.raises(Cancelled):
        job(tmp_path / "job", stop=lambda: next(looks))
    assert not (tmp_path / "job").exists()


def test_recipes_without_a_picture_say_so(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, words in (
        (["--to-stage", "picture"], "cannot begin with the views and end with the picture. Let it end later"),
        (["--from-stage", "picture"], "begins with views has no picture"),
    ):
        assert resumed(tmp_path / "out", "--prompt", "a mug", *options) == 1
        assert words in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_a_picture_of_the_users_own_is_not_overwritten(painter: stand_ins.TinyPainter, tmp_path: Path) -> None:
    write_png(tmp_path / "imagined.png", torch.rand(3, 8, 8))
    with pytest.raises(BadInput, match=r"imagined\.png, which no job made"):
        job(tmp_path)
