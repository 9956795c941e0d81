"""The command line without a window, as scripts use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

bpy = pytest.importorskip("bpy")

ROOT = Path(__file__).parent.parent.parent
BATCH = ROOT / "blender_addon" / "batch.py"


def batch(*arguments: str, **environment: str) -> tuple[int, list[dict], str]:
    """Runs batch.py in a process of its own: exit code, JSON events, everything it said."""
    done = subprocess.run(
        [sys.executable, str(BATCH), "--", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
        timeout=120,
    )
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return done.returncode, events, done.stdout + done.stderr


def test_a_file_of_prompts_becomes_folders_and_a_scene(fake_backend, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "# three things\na red mug\n\nein Fräser 蘑菇\n" + json.dumps({"prompt": "a blue chair", "seed": 5}) + "\n",
        encoding="utf-8",
    )
    scene = tmp_path / "scene.blend"
    code, events, said = batch(
        "--prompts", str(prompts), "--out", str(tmp_path / "out"), "--save", str(scene), "--empty"
    )
    assert code == 0, said
    made = [event for event in events if event["event"] == "made"]
    assert [event["prompt"] for event in made] == ["a red mug", "ein Fräser 蘑菇", "a blue chair"]
    assert made[2]["seed"] == 5
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "001-red-mug",
        "002-ein-fr-ser",
        "003-blue-chair",
    ]
    assert any(event["event"] == "progress" for event in events)
    assert events[-1] == {"event": "finished", "made": 3, "failed": 0}
    bpy.ops.wm.open_mainfile(filepath=str(scene))
    assert sorted(item.name for item in bpy.data.objects) == ["Blue chair", "Ein Fräser 蘑菇", "Red mug"]
    places = sorted(item.location.x for item in bpy.data.objects)
    assert places[1] - places[0] > 1.0, "they do not stand in one another"


def test_one_failure_among_many_fails_the_command_and_spares_the_rest(fake_backend, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("refuse\ncrash\na mug\n", encoding="utf-8")
    code, events, _ = batch("--prompts", str(prompts), "--out", str(tmp_path / "out"))
    assert code == 1
    failed = [event for event in events if event["event"] == "failed"]
    assert [event["code"] for event in failed] == ["bad_input", "backend_stopped"]
    assert all(event["message"] and event["fix"] for event in failed)
    assert [event["prompt"] for event in events if event["event"] == "made"] == ["a mug"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "nothing to make an object from"),
        (("--prompt", "  "), "nothing to make an object from"),
        (("--image", "nowhere.png"), "does not exist"),
        (("--prompts", "nowhere.txt"), "cannot be read (No such file or directory)"),
        (("--prompts", __file__, "--prompt", "a mug"), "stands alone"),
    ],
)
def test_mistakes_are_sentences(fake_backend, arguments, says):
    code, events, said = batch(*arguments)
    assert code == 2
    assert says in events[-1]["message"], said
    assert "Traceback" not in said


def test_no_backend_is_a_sentence_and_a_failure(fake_backend):
    code, events, said = batch("--prompt", "a mug", SPLATSMITH_BACKEND_PYTHON="")
    assert code == 1
    assert "not set up" in events[0]["message"]
    assert "Traceback" not in said


def test_an_output_that_cannot_be_written_is_a_failure(fake_backend, tmp_path):
    (tmp_path / "file").write_text("")
    code, events, said = batch(
        "--prompt", "a mug", "--out", str(tmp_path / "out"), "--save", str(tmp_path / "file" / "scene.blend")
    )
    assert code == 1
    assert [event["code"] for event in events if event["event"] == "failed"] == ["save"]
    assert "Traceback" not in said


def test_nothing_stands_in_the_cube_with_which_blender_starts(fake_backend, tmp_path):
    scene = tmp_path / "scene.blend"
    code, _, said = batch("--prompt", "a mug", "--save", str(scene))
    assert code == 0, said
    bpy.ops.wm.open_mainfile(filepath=str(scene))
    assert sorted(item.name for item in bpy.data.objects) == ["Camera", "Light", "Mug"]


def test_help_names_the_variables_and_succeeds(fake_backend):
    code, _, said = batch("--help")
    assert code == 0
    assert "SPLATSMITH_BACKEND_PYTHON" in said
    assert batch("--no-such-option")[0] == 2


def test_a_picture_of_the_objects_is_rendered(fake_backend, tmp_path):
    path = tmp_path / "picture.png"
    code, events, said = batch("--prompt", "a mug", "--empty", "--render", str(path), "--render-size", "64")
    assert code == 0, said
    assert {"event": "rendered", "path": str(path)} in events
    image = bpy.data.images.load(str(path))
    pixels = list(image.pixels)
    middle = pixels[(40 * 64 + 32) * 4 :][:3]
    assert middle[0] > 2 * middle[2], "the upper half of the stand-in's box is red"


def test_the_registered_command_runs_the_same_code(addon, tmp_path, capsys):
    from blender_addon import command_line

    assert command_line.run(["--prompt", "a mug", "--out", str(tmp_path / "job")]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert said[-1] == {"event": "finished", "made": 1, "failed": 0}
    assert "Mug" in bpy.data.objects
