"""The artist's way in the panel: the picture shown first, the views edited, the mesh made from them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

bpy = pytest.importorskip("bpy")

from panel_drawing import CPU_LIMIT, ONCE, draw, tick_until  # noqa: E402


@pytest.fixture
def window(monkeypatch, state):
    """Clicks as in a window: they return at once, and ticks do the rest."""
    from blender_addon import operators, operators_shared, operators_views, operators_weights, session

    seen = Blender(background=False)
    for module in (operators, operators_shared, operators_views, operators_weights):
        monkeypatch.setattr(module, "bpy", seen)
    monkeypatch.setattr(session, "wake", lambda: None)
    return state


class Blender:
    """bpy, but with another `app.background`."""

    def __init__(self, background: bool) -> None:
        self.app = type("App", (), {"background": background, "online_access": bpy.app.online_access})()

    def __getattr__(self, name: str) -> object:
        return getattr(bpy, name)


def views_first(window, **settings: object):
    properties = bpy.context.scene.splatsmith
    properties.prompt, properties.views_first = "a mug", True
    for name, value in settings.items():
        setattr(properties, name, value)
    assert "<Make Views>" in draw()
    click("generate")
    tick_until(lambda: window.last.ended)
    return window.desk


def click(name: str, **options: object) -> None:
    """One press of a button; it must be short."""
    started = time.thread_time()
    assert getattr(bpy.ops.splatsmith, name)("EXEC_DEFAULT", **options) == {"FINISHED"}
    assert time.thread_time() - started < ONCE


def a_picture(folder: Path, name: str = "mine.png") -> str:
    image = bpy.data.images.new("mine", 16, 16)
    image.filepath_raw, image.file_format = str(folder / name), "PNG"
    image.save()
    bpy.data.images.remove(image)
    return str(folder / name)


def test_views_first_stops_before_the_mesh_and_shows_every_view(window):
    desk = views_first(window)
    said = draw()
    assert len(bpy.data.objects) == 0, "no object before the mesh is made"
    assert "Views made in" in said
    assert said.count("(view True)") == 4
    assert said.count("<Make Anew>") == said.count("<Replace View>") == said.count("<Drop>") == 4
    assert all(button in said for button in ("<Other Views>", "<Undo>", "<Make the Mesh>"))
    assert desk.least == 3


def test_drop_replace_undo_and_on_to_the_mesh(window, tmp_path):
    desk = views_first(window, faces=1200)
    assert not bpy.ops.splatsmith.undo_views.poll()
    click("drop_view", number=1)
    assert not bpy.ops.splatsmith.make_mesh.poll(), "one thing after the other"
    costs = sorted(tick_until(lambda: window.last.ended))
    assert costs[len(costs) // 2] < CPU_LIMIT
    assert costs[-1] < ONCE
    assert [view.name for view in desk.views] == ["000.png", "002.png", "003.png"]
    assert draw().count("(view True)") == 3
    assert not bpy.ops.splatsmith.drop_view.poll(), "the recipe needs three"
    click("replace_view", number=2, filepath=a_picture(tmp_path))
    tick_until(lambda: window.last.ended)
    assert (desk.folder / "views" / "002.png").read_bytes() == (tmp_path / "mine.png").read_bytes()
    assert "It was moved." in draw()
    assert desk.earlier == 2
    click("undo_views")
    tick_until(lambda: window.last.ended)
    assert desk.earlier == 1
    bpy.context.scene.cursor.location = (1.0, 2.0, 3.0)
    click("make_mesh")
    tick_until(lambda: window.last.ended and not window.arriving)
    assert tuple(bpy.data.objects["Mug"].location) == (1.0, 2.0, 3.0), "where the cursor is now"
    assert window.last.folder == desk.folder
    said = draw()
    assert "Done in" in said
    assert "<Edit Views>" in said
    assert "<Make the Mesh>" not in said
    click("edit_views")
    assert "<Make the Mesh>" in draw()


def test_a_view_is_made_anew_and_others_are_fitted(window, tmp_path):
    desk = views_first(window)
    before = [view.read_bytes() for view in desk.views]
    assert "<Fit the Others to Mine>" not in draw()
    click("reroll_view", number=2)
    tick_until(lambda: window.last.ended)
    assert [view.read_bytes() == was for view, was in zip(desk.views, before, strict=True)] == [True, True, False, True]
    click("replace_view", number=0, filepath=a_picture(tmp_path))
    tick_until(lambda: window.last.ended)
    assert "<Fit the Others to Mine>" in draw()
    click("fit_views")
    tick_until(lambda: window.last.ended)
    assert len({view.read_bytes() for view in desk.views}) == 1
    desk.rerolls = False
    said = draw()
    assert "<Make Anew>" not in said
    assert "<Fit the Others to Mine>" not in said


def test_other_views_are_of_another_seed_in_the_same_folder(window):
    desk = views_first(window, seed=5, random_seed=False)
    before = [view.read_bytes() for view in desk.views]
    click("other_views")
    tick_until(lambda: window.last.ended)
    assert window.desk is desk
    assert window.last.request["seed"] == 6
    assert [view.read_bytes() for view in desk.views] != before
    assert desk.earlier == 1
    assert desk.open


def test_the_mesh_takes_the_panels_mesh_settings_but_the_views_own_words(window):
    views_first(window)
    properties = bpy.context.scene.splatsmith
    properties.prompt, properties.faces, properties.size = "something else", 300, 2.0
    click("make_mesh")
    tick_until(lambda: window.last.ended and not window.arriving)
    made = bpy.data.objects["Mug"]
    assert max(made.dimensions) == pytest.approx(2.0, rel=1e-3)
    assert made["splatsmith_prompt"] == "a mug"
    assert len(made.data.polygons) < 400


def test_a_picture_that_cannot_be_used_is_a_sentence_and_the_views_stay(window, tmp_path):
    desk = views_first(window)
    with pytest.raises(RuntimeError, match="does not exist"):
        bpy.ops.splatsmith.replace_view("EXEC_DEFAULT", number=1, filepath=str(tmp_path / "none.png"))
    click("replace_view", number=1, filepath=a_picture(tmp_path, "refuse.png"))
    tick_until(lambda: window.last.ended)
    said = draw()
    assert "That picture shows" in said
    assert said.count("(view True)") == 4
    assert desk.earlier == 0
    assert bpy.ops.splatsmith.make_mesh.poll()


def test_in_background_the_buttons_do_their_work_before_they_return(state, tmp_path):
    properties = bpy.context.scene.splatsmith
    properties.prompt, properties.views_first = "a mug", True
    assert bpy.ops.splatsmith.generate() == {"FINISHED"}
    assert len(state.desk.views) == 4
    assert bpy.ops.splatsmith.drop_view(number=0) == {"FINISHED"}
    assert len(state.desk.views) == 3
    with pytest.raises(RuntimeError, match="shows nothing"):
        bpy.ops.splatsmith.replace_view(number=1, filepath=a_picture(tmp_path, "refuse.png"))
    assert bpy.ops.splatsmith.make_mesh() == {"FINISHED"}
    assert "Mug" in bpy.data.objects


def test_a_picked_picture_is_shown_before_anything_is_made(window, tmp_path, monkeypatch):
    from blender_addon import properties as module

    monkeypatch.setattr(module, "bpy", Blender(background=False))
    properties = bpy.context.scene.splatsmith
    started = time.thread_time()
    properties.image = a_picture(tmp_path)
    assert time.thread_time() - started < ONCE
    assert "Cutting the object out" in draw()
    tick_until(lambda: window.picture.done)
    said = draw()
    assert "(view True)" in said
    assert "It is vague." in said
    out = Path(window.picture.params["out"])
    assert out.is_file()
    assert window.last is None, "nothing was queued"
    properties.image = a_picture(tmp_path, "refuse.png")
    assert not out.exists(), "what is not shown any more is not kept"
    tick_until(lambda: window.picture.done)
    assert "That is no picture." in draw()
    properties.image = ""
    assert window.picture is None
    assert "(view" not in draw()


def test_a_picture_is_shown_while_a_job_runs(window, tmp_path, place):
    job = window.generate({"prompt": "slow"}, place)
    tick_until(lambda: job.overall > 0)
    window.show_picture(a_picture(tmp_path))
    tick_until(lambda: window.picture.done, seconds=5.0)
    assert not job.ended
    window.runner.cancel()
    tick_until(lambda: job.ended)
