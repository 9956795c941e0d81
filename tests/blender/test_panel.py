"""What the panel and the preferences draw in each state, and what a tick of the timer costs."""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace

import pytest

bpy = pytest.importorskip("bpy")

from panel_drawing import CPU_LIMIT, draw, draw_preferences, tick_until  # noqa: E402


def test_ticks_draws_and_clicks_are_short_while_a_job_runs(state, place):
    from blender_addon import session

    costs, draws = [], 0
    started = time.thread_time()
    job = state.generate({"prompt": "a flurb mug", "faces": 2000}, place)
    costs.append(time.thread_time() - started)
    while not job.ended:
        began = time.thread_time()
        session.tick()
        if not job.ended:  # the last tick imports as well, which may take longer
            costs.append(time.thread_time() - began)
        draw()
        draws += 1
        time.sleep(0.01)
    assert draws > 5
    assert max(costs) < CPU_LIMIT, f"{max(costs) * 1000:.1f} ms of CPU"
    assert "Flurb mug" in bpy.data.objects


def test_the_panel_tells_what_goes_on(state, place):
    assert "<Generate>" in draw()
    job = state.generate({"prompt": "slow flurb"}, place)
    tick_until(lambda: job.overall > 0)
    said = draw()
    assert "%" in said
    assert "left" in said
    assert "Imagining views" in said
    assert "<Cancel>" in said
    assert "<Generate Another (1 under way)>" in said
    bpy.ops.splatsmith.cancel()
    tick_until(lambda: job.ended)
    assert "Cancelled" in draw()
    assert len(bpy.data.objects) == 0


def test_the_panel_shows_unknown_words_and_the_time_it_took(state, place):
    job = state.generate({"prompt": "a flurb mug"}, place)
    tick_until(lambda: job.ended and not state.arriving)
    said = draw()
    assert "Done in" in said
    assert '"flurb" is not in the' in said
    assert "<Open Job Folder>" in said
    assert said.count("(view True)") == 1, "the views that it was made from"
    assert "<Edit Views>" in said


def test_a_killed_backend_is_told_and_the_next_click_works(state, place):
    job = state.generate({"prompt": "slow"}, place)
    tick_until(lambda: job.overall > 0)
    os.kill(state.runner.backend_pid, signal.SIGKILL)
    tick_until(lambda: job.ended)
    said = draw()
    assert "The backend stopped in the" in said
    assert "Press Generate" in said
    again = state.generate({"prompt": "a mug"}, place)
    tick_until(lambda: again.ended and not state.arriving)
    assert "Mug" in bpy.data.objects
    assert "stopped" not in draw()


def test_nothing_is_drawn_again_that_did_not_change(state, place, monkeypatch):
    from blender_addon import session

    drawn = []
    monkeypatch.setattr(session, "redraw", lambda: drawn.append(state.face()))
    job = state.generate({"prompt": "slow"}, place)
    tick_until(lambda: job.overall > 0)
    before = len(drawn)
    for _ in range(5):
        session.tick()
    assert len(drawn) <= before + 1, "half a second passes between two steps of the slow stand-in"
    state.runner.cancel()
    tick_until(lambda: job.ended)
    session.tick()
    assert drawn[-1] == state.face()
    assert len(set(drawn)) == len(drawn)


def test_several_clicks_make_several_objects_and_no_failure_is_lost(state, place):
    jobs = [state.generate({"prompt": prompt}, place) for prompt in ("a mug", "refuse", "a mug")]
    assert len({job.folder for job in jobs}) == 3
    tick_until(lambda: jobs[-1].ended and not state.arriving)
    assert sorted(item.name for item in bpy.data.objects) == ["Mug", "Mug.001"]
    assert "names nothing that can be made" in draw()


def test_without_a_backend_the_panel_points_at_the_preferences(addon, monkeypatch):
    from blender_addon import session

    monkeypatch.setenv("SPLATSMITH_BACKEND_PYTHON", "")
    session.get().settings_changed()
    said = draw()
    assert "not set up" in said
    assert "<Open Preferences>" in said
    bpy.context.scene.splatsmith.prompt = "a mug"
    with pytest.raises(RuntimeError, match="not set up"):
        bpy.ops.splatsmith.generate()
    assert "not set up" in draw_preferences()


@pytest.mark.parametrize(("prompt", "image"), [("", ""), ("   ", ""), ("", "/nowhere/cup.png")])
def test_bad_input_is_a_sentence_and_changes_nothing(addon, prompt, image):
    from blender_addon import session

    bpy.context.scene.splatsmith.prompt = prompt
    bpy.context.scene.splatsmith.image = image
    with pytest.raises(RuntimeError, match=r"nothing to make|does not exist"):
        bpy.ops.splatsmith.generate()
    assert session.get().last is None
    assert session.get().runner.backend_pid is None
    assert len(bpy.data.objects) == 0
    assert "nothing to" in draw() or "not exist" in draw()


def test_the_backends_own_refusal_reaches_the_panel(state, place):
    job = state.generate({"prompt": "refuse"}, place)
    tick_until(lambda: job.ended)
    said = draw()
    assert "names nothing that can be made" in said
    assert "Name an object." in said


def test_an_object_waits_while_the_user_edits(state, place):
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.object.mode_set(mode="EDIT")
    job = state.generate({"prompt": "a mug"}, place)
    tick_until(lambda: job.ended)
    for _ in range(3):
        state.advance()
    assert "Mug" not in bpy.data.objects
    assert "Object Mode" in draw()
    bpy.ops.object.mode_set(mode="OBJECT")
    tick_until(lambda: not state.arriving)
    assert bpy.context.view_layer.objects.active.name == "Mug"
    assert "Done in" in draw()


def test_a_job_survives_the_opening_of_another_file(state, place):
    job = state.generate({"prompt": "slow"}, place)
    tick_until(lambda: job.overall > 0)
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    state.runner.cancel()
    tick_until(lambda: job.ended)
    done = state.generate({"prompt": "a mug"}, place)
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    tick_until(lambda: done.ended and not state.arriving)
    assert "Mug" in bpy.data.objects


def test_check_tells_what_the_backend_has(state):
    state.start_check()
    assert "Checking" in draw_preferences()
    tick_until(lambda: not state.check.running)
    said = draw_preferences()
    # The stand-in's Python is Blender's, which has no torch: exactly what a check is for.
    assert "lacks torch" in said


def test_the_preferences_follow_set_up(state, monkeypatch):
    from blender_addon import session
    from blender_addon.client import Failure

    stand_in = SimpleNamespace(
        running=True, fraction=0.4, step="Installing torch", lines=["Collecting torch"], failure=None, cancelled=False
    )
    stand_in.poll = lambda: True
    stand_in.cancel = lambda **_: setattr(stand_in, "cancelled", True)
    monkeypatch.setattr(session, "SetUp", lambda _plan: SimpleNamespace(start=lambda: stand_in))
    monkeypatch.setattr(session, "plan", lambda: None)
    state.start_set_up()
    said = draw_preferences()
    assert "Installing torch  40%" in said
    assert "Collecting torch" in said
    assert "<Cancel Set Up>" in said
    bpy.ops.splatsmith.cancel_set_up()
    stand_in.running = False
    assert "Set Up was cancelled." in draw_preferences()
    stand_in.cancelled, stand_in.failure = False, Failure("no_python", "No Python was found.", "Install one.")
    assert "No Python was found." in draw_preferences()
    stand_in.failure = None
    assert "Set Up is done." in draw_preferences()


def test_the_timer_ends_when_there_is_nothing_to_do(state, place):
    from blender_addon import session

    assert session.tick() is None
    job = state.generate({"prompt": "a mug"}, place)
    assert session.tick() == session.BUSY_PAUSE
    tick_until(lambda: job.ended and not state.arriving)
    assert session.tick() == session.IDLE_PAUSE, "it still looks after the warm backend"
    state.runner.close()
    assert session.tick() is None
