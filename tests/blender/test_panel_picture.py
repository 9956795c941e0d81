"""Words for recipes that see pictures alone, in the panel: the picture shown first, rolled again, and gone on from."""

from __future__ import annotations

from pathlib import Path

import pytest

bpy = pytest.importorskip("bpy")

from panel_drawing import draw, tick_until  # noqa: E402
from test_panel_recipe import online, refreshed  # noqa: E402, F401
from test_panel_views import Blender, a_picture, click, window  # noqa: E402, F401


@pytest.fixture
def seeing(window, online):  # noqa: F811
    """The recipe that sees pictures alone, with its weights, and words."""
    refreshed(window)
    click("download_weights", weights="painter", accept=True)
    tick_until(lambda: not window.active)
    properties = bpy.context.scene.splatsmith
    properties.recipe, properties.prompt = "seeing", "a mug"
    properties.random_seed, properties.seed = False, 5
    return window


def a_picture_first(window):  # noqa: F811
    bpy.context.scene.splatsmith.picture_first = True
    click("generate")
    tick_until(lambda: window.last.ended)
    return window.desk


def test_words_are_said_to_become_a_picture_and_its_weights_are_asked_for_with_words_alone(window, tmp_path):  # noqa: F811
    refreshed(window)
    properties = bpy.context.scene.splatsmith
    properties.recipe, properties.prompt = "seeing", "a mug"
    said = draw()
    assert "The words become a picture" in said
    assert "painter, about 9.4 GB" in said
    assert "[Picture First]" in said
    properties.image = a_picture(tmp_path)
    said = draw()
    for words in ("become a picture", "painter", "[Picture First]", "needs weights"):
        assert words not in said
    properties.picture_first = True
    assert "<Generate>" in said, "a picture is there already"
    properties.image, properties.recipe = "", "starter"
    assert "[Picture First]" not in draw()


def test_licences_and_memory_are_shown_before_anything_is_fetched(window, tmp_path):  # noqa: F811
    refreshed(window)
    properties = bpy.context.scene.splatsmith
    properties.recipe = "seeing"
    said = draw()
    assert "painter: Open RAIL++-M" in said
    assert "About 10 GB of a graphics" in said
    assert "12 GB of the machine's" in said
    properties.image = a_picture(tmp_path)
    assert "RAIL" not in draw()
    properties.recipe = "starter"
    assert "GPL" not in draw(), "the starter's are the project's own"


def test_the_job_stops_at_the_picture_which_is_shown_with_its_buttons(seeing):
    desk = a_picture_first(seeing)
    said = draw()
    assert "Picture made in" in said
    assert said.count("(view True)") == 1
    for button in ("<Another Picture>", "<Use My Picture>", "<Undo>", "<Make the Views>", "<Make the Mesh>"):
        assert button in said
    assert "<Make the Picture>" in said, "the big button says what it would do"
    assert "<Drop>" not in said
    assert desk.views == []
    assert desk.shown_picture.name == "imagined_preview.png"
    assert len(bpy.data.objects) == 0


def test_another_picture_costs_no_views_and_can_be_taken_back(seeing):
    desk = a_picture_first(seeing)
    before = desk.picture.read_bytes()
    assert not bpy.ops.splatsmith.undo_views.poll()
    click("other_picture")
    assert not bpy.ops.splatsmith.make_views.poll(), "one thing after the other"
    tick_until(lambda: seeing.last.ended)
    assert seeing.last.to_stage == "picture"
    assert seeing.last.request["seed"] == 6
    assert desk.picture.read_bytes() != before
    assert desk.earlier == 1
    click("undo_views")
    tick_until(lambda: seeing.last.ended)
    assert "<Another Picture>" in draw()


def test_from_the_picture_to_views_and_on_to_the_mesh(seeing):
    desk = a_picture_first(seeing)
    click("make_views")
    tick_until(lambda: seeing.last.ended)
    assert (seeing.last.from_stage, seeing.last.to_stage) == ("views", "views")
    assert len(desk.views) == 4
    said = draw()
    assert said.count("(view True)") == 4
    assert "<Another Picture>" in said
    click("make_mesh")
    tick_until(lambda: seeing.last.ended and not seeing.arriving)
    assert "Mug" in bpy.data.objects


def test_from_the_picture_straight_to_the_mesh(seeing):
    a_picture_first(seeing)
    click("make_mesh")
    tick_until(lambda: seeing.last.ended and not seeing.arriving)
    assert seeing.last.from_stage == "views"
    assert "Mug" in bpy.data.objects


def test_a_picture_of_the_artists_takes_its_place(seeing, tmp_path):
    desk = a_picture_first(seeing)
    with pytest.raises(RuntimeError, match="does not exist"):
        bpy.ops.splatsmith.use_picture("EXEC_DEFAULT", filepath=str(tmp_path / "none.png"))
    click("use_picture", filepath=a_picture(tmp_path))
    tick_until(lambda: seeing.last.ended)
    assert "prompt" not in seeing.last.request
    assert len(desk.views) == 4
    assert desk.picture is None
    assert "<Another Picture>" not in draw()


def test_the_picture_is_shown_while_the_views_are_being_made(seeing):
    bpy.context.scene.splatsmith.prompt = "a slow mug"
    click("generate")
    tick_until(lambda: "picture" in seeing.last.previews)
    tick_until(lambda: seeing.last.stage == "views")
    said = draw()
    assert "Imagining views" in said
    assert said.count("(view True)") == 1
    assert Path(seeing.last.previews["picture"]).name == "imagined_preview.png"
    seeing.runner.cancel()
    tick_until(lambda: seeing.last.ended)


def test_a_doubtful_picture_offers_the_network_that_cuts_better(window, online, tmp_path, monkeypatch):  # noqa: F811
    from blender_addon import properties as module

    monkeypatch.setattr(module, "bpy", Blender(background=False))
    refreshed(window)
    properties = bpy.context.scene.splatsmith
    assert "busy pictures" not in draw(), "nothing was picked yet"
    properties.image = a_picture(tmp_path)
    tick_until(lambda: window.picture.done)
    said = draw()
    assert "It is vague." in said
    assert "busy pictures" in said
    assert "matting, about 224 MB" in said
    click("download_weights", weights="matting", accept=True)
    tick_until(lambda: not window.active)
    tick_until(lambda: window.picture.done)
    said = draw()
    assert "It is vague." not in said, "it was cut out again"
    assert "busy pictures" not in said
