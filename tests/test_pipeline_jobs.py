"""A job from end to end with tiny models: every entry, every exit, going on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stand_ins
import torch
from pipeline_runs import PROMPT, contents, read, run

import backend.job.pipeline
from backend import recipes
from backend.errors import BadInput
from backend.formats.gaussian_ply import read_gaussian_ply, write_gaussian_ply
from backend.formats.images import read_image, write_png
from backend.formats.transforms_json import read_views, write_transforms
from backend.job.events import STAGES, Done, Preview, Progress, Warned
from backend.job.models import Models
from backend.job.outside import load_job_views


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.RECIPES, "starter", stand_ins.TINY)
    monkeypatch.setattr(backend.job.pipeline, "_surface", stand_ins.quick_surface)
    monkeypatch.setattr(backend.job.pipeline, "_texture", stand_ins.quick_texture)


def scene(folder: Path, views: int = 4, **options: Any) -> Path:
    """A user's own posed pictures in a moved and scaled world."""
    made = stand_ins.ball_views(size=options.get("size", 48), views=views)
    poses = made.cameras.camera_to_world.clone()
    poses[:, :3, 3] = poses[:, :3, 3] * 10 + torch.tensor([1.0, 2.0, 3.0])
    folder.mkdir(parents=True)
    names = [f"{index}.png" for index in range(views)]
    for name, rgba in zip(names, made.rgba, strict=True):
        if options.get("opaque"):
            rgba = torch.cat([rgba[:3] * rgba[3:] + 1 - rgba[3:], torch.ones_like(rgba[3:])])
        write_png(folder / name, rgba)
    cameras = type(made.cameras)(poses, made.cameras.intrinsics, made.cameras.width, made.cameras.height)
    write_transforms(folder / "transforms.json", cameras, names)
    return folder / "transforms.json"


def test_a_prompt_becomes_a_mesh(tmp_path: Path) -> None:
    events = run(tmp_path / "job", prompt=PROMPT, seed=7, steps=4)
    done = events[-1]
    assert isinstance(done, Done)
    assert done.warnings == ["The surface has 8 faces; it holds no detail for 100."]
    assert len(done.files["views"]) == 4
    for path in [*done.files["views"], *(done.files[name] for name in done.files if name != "views")]:
        assert Path(path).stat().st_size > 0
    assert set(done.files) == {"views", "transforms", "gaussians", "mesh_npz", "mesh_glb", "base_color", "report"}
    assert not list((tmp_path / "job").rglob(".*"))
    assert read(tmp_path / "job" / "request.json")["seed"] == 7


def test_progress_goes_forward_through_all_stages(tmp_path: Path) -> None:
    progress = [event for event in run(tmp_path, prompt=PROMPT) if isinstance(event, Progress)]
    assert list(dict.fromkeys(event.stage for event in progress)) == list(STAGES[1:])
    overall = [event.overall for event in progress]
    assert overall == sorted(overall)
    assert overall[0] == 0.0
    assert overall[-1] == pytest.approx(1.0)
    assert all(0 <= event.fraction <= 1 and event.message for event in progress)
    assert progress[-1].eta == 0.0


def test_previews_are_pictures_that_are_there(tmp_path: Path) -> None:
    for event in run(tmp_path, prompt=PROMPT):
        if isinstance(event, Preview):
            assert Path(event.path).is_file()
            if event.kind == "views":
                assert tuple(read_image(event.path).rgba.shape) == (4, 32, 128)


def test_the_report_tells_where_the_result_comes_from(tmp_path: Path) -> None:
    run(tmp_path, prompt=PROMPT + " with florps", seed=7, steps=4, guidance=2.0)
    report = read(tmp_path / "report.json")
    assert report["prompt"] == PROMPT + " with florps"
    assert report["seed"] == 7
    assert report["recipe"] == "starter"
    assert report["sampling"] == {"steps": 4, "guidance": 2.0}
    assert [entry["name"] for entry in report["weights"]] == ["dmv3d", "lgm"]
    assert all("sha256" in entry and entry["licence"] for entry in report["weights"])
    assert report["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in report["versions"]["torch"]
    assert report["device"] in ("cpu", "cuda", "mps")
    assert set(report["seconds"]) == set(STAGES[1:])
    assert report["sizes"]["gaussians"] == 600
    assert report["sizes"]["faces"] == 8
    assert report["sizes"]["bytes"]["mesh.glb"] == (tmp_path / "mesh.glb").stat().st_size
    assert any("florps" in warning for warning in report["warnings"])


def test_the_same_request_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tmp_path / name, prompt=PROMPT, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")["gaussians.ply"] != contents(tmp_path / "c")["gaussians.ply"]


def test_models_are_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(device: str) -> stand_ins.TinyGenerator:
        loaded.append(device)
        return stand_ins.TinyGenerator()

    monkeypatch.setitem(recipes.RECIPES, "starter", stand_ins.tiny_recipe(load))
    models = Models()
    for seed in range(3):
        run(tmp_path / str(seed), models=models, prompt=PROMPT, seed=seed, device="cpu")
    assert loaded == ["cpu"]
    assert {stage for stage, *_ in models.timings._seconds} == set(STAGES[1:])


def test_unknown_words_are_named_and_nothing_known_is_refused(tmp_path: Path) -> None:
    told = [event.message for event in run(tmp_path, prompt="a florpy red mushroom") if isinstance(event, Warned)]
    assert any("'florpy'" in message for message in told)
    told = [event.message for event in run(tmp_path, prompt="red and blue") if isinstance(event, Warned)]
    assert any("mushroom" in message and "ice cream" in message for message in told)  # says what it knows
    with pytest.raises(BadInput, match="know no word"):
        run(tmp_path / "other", prompt="ein kleiner florp")
    assert not (tmp_path / "other" / "transforms.json").exists()


def test_a_picture_becomes_a_mesh(tmp_path: Path) -> None:
    write_png(tmp_path / "ball.png", stand_ins.ball_views(size=64).rgba[0])
    models = Models()
    run(tmp_path / "job", models=models, image=str(tmp_path / "ball.png"))
    call = models.generator(stand_ins.TINY, backend.job.pipeline.pick_device(), pictured=True).calls[0]
    assert call["prompt"] is None
    assert tuple(call["image"].shape) == (4, 32, 32)
    # The larger side takes two thirds of the frame.
    assert int((call["image"][3] > 0.5).any(dim=0).sum()) == pytest.approx(0.66 * 32, abs=1)
    assert "source_sha256" in read(tmp_path / "job" / "report.json")


def test_a_picture_with_words_that_nobody_knows_goes_by_the_picture(tmp_path: Path) -> None:
    write_png(tmp_path / "ball.png", stand_ins.ball_views(size=64).rgba[0])
    events = list(run(tmp_path / "job", image=str(tmp_path / "ball.png"), prompt="ein kleiner florp"))
    assert any("picture alone" in event.message for event in events if isinstance(event, Warned))
    assert (tmp_path / "job" / "mesh.glb").exists()


@pytest.mark.parametrize("opaque", [False, True])
def test_posed_pictures_become_a_mesh(tmp_path: Path, opaque: bool) -> None:
    run(tmp_path / "job", cameras=str(scene(tmp_path / "mine", opaque=opaque)))
    views = read_views(tmp_path / "job" / "transforms.json")
    expected = stand_ins.ball_views(size=32)
    torch.testing.assert_close(views.cameras.camera_to_world, expected.cameras.camera_to_world, atol=0.4, rtol=0)
    assert float((views.rgba[:, 3] - expected.rgba[:, 3]).abs().mean()) < 0.1
    similarity = read(tmp_path / "job" / "report.json")["similarity"]
    assert similarity["scale"] == pytest.approx(0.1, rel=0.12)
    assert similarity["center"] == pytest.approx([1.0, 2.0, 3.0], abs=0.9)
    cloud = read_gaussian_ply(tmp_path / "job" / "gaussians.ply")
    torch.testing.assert_close(cloud.colors[0], torch.tensor([0.8, 0.2, 0.1]), atol=0.05, rtol=0)


def test_of_many_posed_pictures_four_are_chosen(tmp_path: Path) -> None:
    events = run(tmp_path / "job", cameras=str(scene(tmp_path / "mine", views=9)))
    assert len(events[-1].files["views"]) == 4
    assert any("Of 9" in warning for warning in events[-1].warnings)


def test_three_posed_pictures_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="3 posed pictures are too few"):
        run(tmp_path / "job", cameras=str(scene(tmp_path / "mine", views=3)))


def test_only_what_was_imagined_is_known_to_be_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = []

    def surface(gaussians: Any, faces: int, single: bool) -> Any:
        known.append(single)
        return stand_ins.quick_surface(gaussians, faces, single)

    monkeypatch.setattr(backend.job.pipeline, "_surface", surface)
    run(tmp_path / "made", prompt="a red ball")
    run(tmp_path / "given", gaussians=str(tmp_path / "made" / "gaussians.ply"))
    assert known == [True, False]


def test_words_go_only_with_views_that_the_recipes_own_generator_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reconstructor that builds what it imagined itself would make something else of another generator's views."""
    captions: list[str | None] = []

    class Reconstructor(stand_ins.TinyReconstructor):
        def reconstruct(self, views: Any, warnings: list[str] | None = None) -> Any:
            captions.append(views.caption)
            return super().reconstruct(views, warnings)

    starter = replace(stand_ins.TINY, load_reconstructor=lambda device: Reconstructor())
    assert starter.from_text is not None
    monkeypatch.setitem(recipes.RECIPES, "starter", starter)
    other = replace(starter, name="other", from_text=replace(starter.from_text, pack="reader"))
    monkeypatch.setitem(recipes.RECIPES, "other", other)
    run(tmp_path, prompt=PROMPT)
    run(tmp_path, prompt=PROMPT, from_stage="gaussians")
    assert captions == [PROMPT, PROMPT]
    run(tmp_path, prompt=PROMPT, recipe="other", from_stage="gaussians")
    assert captions[2:] == [None]
    run(tmp_path, prompt=PROMPT, recipe="starter", from_stage="gaussians")
    assert captions[3:] == [PROMPT], "they are still its own"


def test_gaussians_keep_their_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def surface(gaussians: Any, faces: int, single: bool) -> Any:
        seen.append(gaussians)
        return stand_ins.quick_surface(gaussians, faces, single)

    monkeypatch.setattr(backend.job.pipeline, "_surface", surface)
    cloud = stand_ins.ball_gaussians()
    moved = type(cloud)(cloud.means * 50 + 7, cloud.scales * 50, cloud.quats, cloud.opacities, cloud.colors)
    write_gaussian_ply(tmp_path / "mine.ply", moved)
    run(tmp_path / "job", gaussians=str(tmp_path / "mine.ply"))
    torch.testing.assert_close(seen[0].means, moved.means, atol=1e-3, rtol=0)
    assert not (tmp_path / "job" / "transforms.json").exists()


def test_a_users_own_files_are_never_touched(tmp_path: Path) -> None:
    write_gaussian_ply(tmp_path / "gaussians.ply", stand_ins.ball_gaussians())
    before = (tmp_path / "gaussians.ply").read_bytes() + b""
    run(tmp_path, gaussians=str(tmp_path / "gaussians.ply"))
    run(tmp_path, gaussians=str(tmp_path / "gaussians.ply"))  # the second time it is a job's folder
    assert (tmp_path / "gaussians.ply").read_bytes() == before
    mine = scene(tmp_path / "mine", views=6)
    before = mine.read_bytes()
    for path in (mine, tmp_path / "mine" / "views" / ".." / mine.name):
        (tmp_path / "mine" / "views").mkdir(exist_ok=True)
        with pytest.raises(BadInput, match="overwritten"):
            run(tmp_path / "mine", cameras=str(path))
    assert mine.read_bytes() == before
    assert not (tmp_path / "mine" / "request.json").exists()


def test_stopping_after_a_stage_and_going_on(tmp_path: Path) -> None:
    done = run(tmp_path, prompt=PROMPT, seed=3, to_stage="views")[-1]
    assert set(done.files) == {"views", "transforms", "report"}
    done = run(tmp_path, prompt=PROMPT, seed=3, from_stage="gaussians", to_stage="gaussians")[-1]
    assert set(done.files) == {"views", "transforms", "gaussians", "report"}
    run(tmp_path, prompt=PROMPT, seed=3, from_stage="mesh")
    run(tmp_path.with_name("whole"), prompt=PROMPT, seed=3)
    assert contents(tmp_path) == contents(tmp_path.with_name("whole"))
    report = read(tmp_path / "report.json")
    assert set(report["seconds"]) == set(STAGES[1:])
    assert [entry["name"] for entry in report["weights"]] == ["dmv3d", "lgm"]


def test_a_mesh_is_remade_at_another_size_and_the_views_stay(tmp_path: Path) -> None:
    run(tmp_path, prompt=PROMPT)
    views = (tmp_path / "views" / "000.png").stat().st_mtime_ns
    run(tmp_path, prompt=PROMPT, texture_size=128, from_stage="mesh")
    assert (tmp_path / "views" / "000.png").stat().st_mtime_ns == views
    assert tuple(read_image(tmp_path / "base_color.png").rgba.shape) == (4, 128, 128)
    assert read(tmp_path / "report.json")["sizes"]["texture"] == 128


def test_a_replaced_view_is_used(tmp_path: Path) -> None:
    run(tmp_path, prompt=PROMPT, to_stage="views")
    for index in range(4):
        picture = read_image(tmp_path / "views" / f"{index:03d}.png").rgba
        picture[:3] = torch.tensor([0.0, 0.0, 1.0])[:, None, None]
        write_png(tmp_path / "views" / f"{index:03d}.png", picture)
    run(tmp_path, prompt=PROMPT, from_stage="gaussians")
    assert read_gaussian_ply(tmp_path / "gaussians.ply").colors[0].tolist() == pytest.approx([0, 0, 1], abs=0.01)


def test_a_view_replaced_by_a_photograph_is_cut_out(tmp_path: Path) -> None:
    run(tmp_path, prompt=PROMPT, to_stage="views")
    before = read_image(tmp_path / "views" / "002.png").rgba
    photograph = torch.cat([before[:3] * before[3:] + 1 - before[3:], torch.ones(1, 32, 32)])
    write_png(tmp_path / "views" / "002.png", photograph)
    loaded = load_job_views(tmp_path / "transforms.json", [])
    assert float((loaded.rgba[2, 3] - before[3]).abs().mean()) < 0.03
    run(tmp_path, prompt=PROMPT, from_stage="gaussians")


def test_posed_pictures_that_show_only_a_part_are_placed_by_their_cameras(tmp_path: Path) -> None:
    """Where the object is cut off by the edge its outline tells nothing."""
    made = stand_ins.ball_views(size=48)
    lens = made.cameras.intrinsics.clone()
    lens[:, 0, 0] *= 2.2
    lens[:, 1, 1] *= 2.2
    (tmp_path / "mine").mkdir()
    names = [f"{index}.png" for index in range(4)]
    for name in names:
        write_png(tmp_path / "mine" / name, torch.cat([torch.full((3, 48, 48), 0.5), made.rgba[0, 3:].clamp_min(0.6)]))
    cameras = type(made.cameras)(made.cameras.camera_to_world, lens, 48, 48)
    write_transforms(tmp_path / "mine" / "transforms.json", cameras, names)
    run(tmp_path / "job", cameras=str(tmp_path / "mine" / "transforms.json"))
    similarity = read(tmp_path / "job" / "report.json")["similarity"]
    assert similarity["center"] == pytest.approx([0, 0, 0], abs=1e-4)
    # A lens 2.2 times as long spans 2.2 times less: the world has to grow for the picture to be filled as usual.
    assert similarity["scale"] == pytest.approx(2.2, rel=0.01)


def test_odd_characters_survive(tmp_path: Path) -> None:
    prompt = "a red mushroom \ud800 ☃ \U0001f344 \x07 \u202e"
    run(tmp_path / "jöb ☃", prompt=prompt)
    assert read(tmp_path / "jöb ☃" / "request.json")["prompt"] == prompt


@pytest.mark.parametrize(
    ("from_stage", "to_stage"), [("gaussians", None), ("mesh", None), ("mesh", "views"), ("soup", None), (None, "soup")]
)
def test_stages_that_cannot_be(tmp_path: Path, from_stage: str | None, to_stage: str | None) -> None:
    with pytest.raises(BadInput):
        run(tmp_path / "job", prompt=PROMPT, from_stage=from_stage, to_stage=to_stage)
    assert not (tmp_path / "job").exists()
