"""The zip in a Blender that has never seen it: validates, installs, generates, goes away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

bpy = pytest.importorskip("bpy")

ROOT = Path(__file__).parent.parent.parent

INSTALL = """
import bpy, json, os, sys, threading
zip_path, prompt = sys.argv[1:3]
bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
types_before = set(dir(bpy.types))
result = bpy.ops.extensions.package_install_files(filepath=zip_path, repo="user_default", enable_on_install=True)
name = "bl_ext.user_default.splatsmith"
module = sys.modules[name]
preferences = bpy.context.preferences.addons[name].preferences
told = {"installed": result == {"FINISHED"}, "folder": os.path.dirname(module.__file__)}
told["preferences"] = sorted(p.identifier for p in preferences.bl_rna.properties if p.identifier in
                             ("python", "base_python", "data_folder", "build"))
preferences.python = sys.argv[3]
bpy.context.scene.splatsmith.prompt = prompt
bpy.context.scene.splatsmith.texture_size = "256"
bpy.context.scene.splatsmith.faces = 3000
told["generated"] = bpy.ops.splatsmith.generate() == {"FINISHED"}
made = bpy.context.view_layer.objects.active
told["object"], told["faces"], told["size"] = made.name, len(made.data.polygons), max(made.dimensions)
told["job_folder"] = made["splatsmith_job_folder"]
told["weights"] = made.get("splatsmith_weights", "")
told["bytecode"] = [f for root, _, files in os.walk(told["folder"] + "/backend") for f in files if f.endswith(".pyc")]
pid = sys.modules[name + ".session"].current.runner.backend_pid
bpy.ops.preferences.addon_disable(module=name)
told["left"] = sorted(set(dir(bpy.types)) - types_before) + [t.name for t in threading.enumerate() if "splat" in t.name]
told["left"] += ["scene property"] if hasattr(bpy.types.Scene, "splatsmith") else []
told["left"] += ["operators"] if dir(bpy.ops.splatsmith) else []
try:
    os.kill(pid, 0)
    told["left"].append("process")
except ProcessLookupError:
    pass
print("TOLD" + json.dumps(told))
"""


@pytest.fixture(scope="module")
def zip_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("zip") / "splatsmith.zip"
    subprocess.run([sys.executable, str(ROOT / "build_addon.py"), "zip", "--out", str(path)], check=True)
    return path


def install_and_generate(zip_path: Path, folder: Path, prompt: str, python: str, **environment: str) -> dict:
    script = folder / "install.py"
    script.write_text(textwrap.dedent(INSTALL), encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SPLATSMITH_")}
    done = subprocess.run(
        [sys.executable, str(script), str(zip_path), prompt, python],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=folder,
        env={
            **kept,
            "BLENDER_USER_RESOURCES": str(folder / "profile"),
            "SPLATSMITH_HOME": str(folder / "home"),
            **environment,
        },
    )
    told = [line[4:] for line in done.stdout.splitlines() if line.startswith("TOLD")]
    assert told, done.stdout + done.stderr
    return json.loads(told[0])


def test_blenders_own_validator_passes_the_zip(zip_path):
    command = next(Path(bpy.utils.system_resource("SCRIPTS")).rglob("blender_ext.py"))
    done = subprocess.run(
        [sys.executable, "-I", str(command), "validate", str(zip_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_installs_in_a_fresh_profile_generates_and_leaves_nothing(zip_path, tmp_path):
    fake = Path(__file__).parent.parent / "fake_backend"
    told = install_and_generate(zip_path, tmp_path, "a red mug", sys.executable, SPLATSMITH_BACKEND_FOLDER=str(fake))
    assert told["installed"]
    assert told["preferences"] == ["base_python", "build", "data_folder", "python"]
    assert told["object"] == "Red mug"
    assert abs(told["size"] - 1.0) < 1e-4
    assert told["job_folder"].startswith(str(tmp_path / "home" / "jobs"))
    assert told["left"] == []
    assert (Path(told["folder"]) / "LICENSE").is_file()


def test_it_generates_with_the_backend_that_lies_inside_it(zip_path, tmp_path):
    python = os.environ.get("SPLATSMITH_BACKEND_PYTHON", "")
    if not python:
        pytest.skip("SPLATSMITH_BACKEND_PYTHON names no Python with torch; build_addon.py test sets it")
    told = install_and_generate(zip_path, tmp_path, "a red mushroom", python)
    assert told["object"] == "Red mushroom"
    assert abs(told["faces"] - 3000) <= 150
    assert abs(told["size"] - 1.0) < 1e-4
    assert told["weights"], "the object knows which weights made it"
    assert told["bytecode"] == [], "the backend writes nothing into the add-on's folder"
    assert told["left"] == []
