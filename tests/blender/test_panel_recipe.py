"""Recipes in the panel, and weights: shown, agreed to, fetched, imported."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

bpy = pytest.importorskip("bpy")

from panel_drawing import RecordingLayout, draw, tick_until  # noqa: E402
from test_panel_views import Blender, click, window  # noqa: E402, F401


@pytest.fixture
def online(monkeypatch, window):  # noqa: F811
    from blender_addon import operators_weights

    blender = Blender(background=False)
    blender.app.online_access = True
    monkeypatch.setattr(operators_weights, "bpy", blender)
    return blender


def refreshed(window) -> None:  # noqa: F811
    click("refresh_recipes")
    tick_until(lambda: not window.active)


def test_the_starter_is_there_at_once_and_the_backend_tells_of_others(window):  # noqa: F811
    properties = bpy.context.scene.splatsmith
    assert properties.recipe == "starter"
    assert "<Refresh>" in draw()
    refreshed(window)
    assert "<Refresh>" not in draw()
    properties.recipe = "big"
    assert properties.recipe_name == "big"
    with pytest.raises(TypeError):
        properties.recipe = "soup"
    assert properties.recipe == "big"


def test_what_was_learnt_is_there_before_the_backend_runs_again(window, fake_backend):  # noqa: F811
    from blender_addon import session

    refreshed(window)
    kept = json.loads((fake_backend / "catalogue.json").read_text())
    assert [recipe["name"] for recipe in kept["recipes"]] == ["starter", "seeing", "big"]
    again = session.Session()
    again.status()
    assert again.catalogue.recipe("big").missing == ("giant",)
    assert again.runner.backend_pid is None
    (fake_backend / "catalogue.json").write_text('[{"recipes": 5')
    assert session.Session().catalogue.recipe("starter") is not None


def test_the_recipe_goes_into_the_job_and_its_views_tell_how_many_it_needs(window):  # noqa: F811
    refreshed(window)
    bpy.context.scene.splatsmith.prompt = "a mug"
    click("generate")
    assert window.last.request["recipe"] == "starter"
    tick_until(lambda: window.last.ended and not window.arriving)
    assert window.desk.least == 3


def test_a_scene_from_elsewhere_with_an_unknown_recipe_says_so(window):  # noqa: F811
    bpy.context.scene.splatsmith.recipe_name = "theirs"
    assert bpy.context.scene.splatsmith.recipe == "theirs"
    assert "not known here" in draw()
    bpy.context.scene.splatsmith.recipe = "starter"
    assert "not known" not in draw()


def test_missing_weights_are_named_and_fetched_only_after_a_yes(window, online):  # noqa: F811
    refreshed(window)
    bpy.context.scene.splatsmith.recipe = "big"
    said = draw()
    assert "needs weights that" in said
    assert "giant, about 9.4 GB" in said
    assert "<Download Weights>" in said
    with pytest.raises(RuntimeError, match="not agreed"):
        bpy.ops.splatsmith.download_weights("EXEC_DEFAULT", weights="giant")
    assert not window.runner.busy
    click("download_weights", weights="giant", accept=True)
    tick_until(lambda: window.last.stage == "weights")
    assert "giant, 9 GB" in draw()
    assert "<Cancel>" in draw()
    tick_until(lambda: not window.active)
    said = draw()
    assert "The weights are here" in said
    assert "giant" not in said
    assert window.catalogue.recipe("big").missing == ()


def test_a_download_can_be_cancelled_and_waits_its_turn(window, online, place):  # noqa: F811
    refreshed(window)
    job = window.generate({"prompt": "a mug"}, place)
    click("download_weights", weights="giant", accept=True)
    download = window.last
    tick_until(lambda: job.ended)
    assert not download.ended, "one thing at a time"
    tick_until(lambda: download.stage == "weights")
    window.runner.cancel()
    tick_until(lambda: download.ended)
    assert "Cancelled" in draw()
    assert window.catalogue.recipe("big").missing == ("giant",)


def test_the_dialog_says_what_the_licence_forbids(window, online):  # noqa: F811
    from blender_addon.operators_weights import SPLATSMITH_OT_download_weights as operator
    from blender_addon.operators_weights import SPLATSMITH_OT_import_weights as importing

    refreshed(window)
    for kind in (operator, importing):
        layout = RecordingLayout()
        fake = SimpleNamespace(layout=layout, weights="giant", bl_rna=SimpleNamespace(properties={}))
        fake.bl_rna.properties = {"accept": SimpleNamespace(name="agree")}
        kind.draw(fake, None)
        said = " ".join(layout.texts)
        for words in ("about 9.4 GB", "CC-BY-NC-4.0", "It forbids: Commercial use.", "hf auth login", "Not confirmed"):
            assert words in said
    assert "[agree]" in said or kind is importing


def test_without_the_network_nothing_is_offered_but_the_import(window, tmp_path, monkeypatch):  # noqa: F811
    from blender_addon import operators_weights

    offline = Blender(background=False)
    offline.app.online_access = False
    monkeypatch.setattr(operators_weights, "bpy", offline)
    refreshed(window)
    assert not bpy.ops.splatsmith.download_weights.poll()
    click("import_weights", weights="giant", directory=str(tmp_path / "wrong"))
    tick_until(lambda: window.last.ended)
    assert "No file of giant is there." in draw()
    click("import_weights", weights="giant", directory=str(tmp_path))
    tick_until(lambda: not window.active)
    assert window.catalogue.recipe("big").missing == ()


def test_in_background_the_answer_is_there_when_the_operator_returns(state, tmp_path):
    assert bpy.ops.splatsmith.refresh_recipes() == {"FINISHED"}
    assert state.catalogue.recipe("big").missing == ("giant",)
    assert state.catalogue.weights["giant"]["licence"] == "CC-BY-NC-4.0"
    assert bpy.ops.splatsmith.import_weights(weights="giant", directory=str(tmp_path)) == {"FINISHED"}
    assert state.catalogue.recipe("big").missing == ()
    with pytest.raises(RuntimeError, match="No file of giant"):
        bpy.ops.splatsmith.import_weights(weights="giant", directory=str(tmp_path / "wrong"))
