"""build_addon.py: the zip is the same every time, wrong Pythons and wrong Blenders get a sentence."""

from __future__ import annotations

import ast
import os
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import build_addon

ROOT = Path(__file__).parent.parent


def test_two_zips_of_the_same_files_are_the_same_bytes(tmp_path):
    build_addon.build_zip(tmp_path / "a.zip")
    build_addon.build_zip(tmp_path / "sub" / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "sub" / "b.zip").read_bytes()
    assert not list(tmp_path.glob("**/*.part"))


def test_the_zip_holds_the_backend_and_nothing_that_lies_about(tmp_path):
    build_addon.build_zip(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        assert all(entry.date_time == (2026, 1, 1, 0, 0, 0) for entry in archive.infolist())
        manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
    assert names == sorted(names)
    assert {"__init__.py", "LICENSE", "requirements.txt", "backend/__main__.py", "backend/frontend/server.py"} <= set(
        names
    )
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests/", "backend/training/"))]
    assert manifest["id"] == "splatsmith"
    assert manifest["license"] == ["SPDX:GPL-3.0-or-later"]
    assert len(manifest["tagline"]) <= 64
    assert manifest["tagline"][-1].isalnum()
    assert all(len(reason) <= 64 and reason[-1].isalnum() for reason in manifest["permissions"].values())


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    backend = (ROOT / "backend" / "__init__.py").read_text(encoding="utf-8")
    assert build_addon._version() == project["version"]
    assert f'__version__ = "{project["version"]}"' in backend


def test_the_demo_does_without_what_only_published_models_need():
    starter, published = build_addon.pins()
    named = {pin.split("==")[0] for pin in published}
    assert starter[0].startswith("torch==")
    assert {"diffusers", "transformers", "accelerate", "huggingface_hub"} <= named
    assert not named & {pin.split("==")[0] for pin in starter}
    assert all("==" in pin and " " not in pin for pin in starter + published)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = {wanted.split(">=")[0] for wanted in project["optional-dependencies"]["published"]}
    assert extra <= named


def test_without_git_the_folder_is_walked(monkeypatch):
    tracked = set(build_addon._files(build_addon.ADDON))
    monkeypatch.setenv("PATH", "")
    walked = set(build_addon._files(build_addon.ADDON))
    assert tracked <= walked


def test_it_parses_on_python_3_8_and_a_wrong_python_gets_one_sentence(monkeypatch, capsys):
    ast.parse((ROOT / "build_addon.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    assert build_addon.main() == 2
    said = capsys.readouterr().out
    assert "3.11" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="puts shell scripts on PATH")
def test_blender_is_taken_from_the_variable_or_the_path_if_it_is_new_enough(tmp_path, monkeypatch, capsys):
    def blender(folder: str, version: str) -> Path:
        program = tmp_path / folder / "blender"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho 'Blender {version} LTS'\n")
        program.chmod(0o755)
        return program

    old, new = blender("old", "3.6.12"), blender("new", "4.5.1")
    monkeypatch.delenv("BLENDER", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert build_addon._find_blender() is None
    monkeypatch.setenv("PATH", f"{old.parent}{os.pathsep}/bin")
    assert build_addon._find_blender() is None
    assert "too old" in capsys.readouterr().out
    monkeypatch.setenv("BLENDER", str(new))
    assert build_addon._find_blender() == str(new)
    for wrong in (old, tmp_path / "none"):
        monkeypatch.setenv("BLENDER", str(wrong))
        with pytest.raises(build_addon.Stop, match=r"4\.2 or newer"):
            build_addon._find_blender()


@pytest.mark.skipif(os.name != "posix", reason="uses a shell script as the base interpreter")
def test_an_environment_is_made_once_and_again_when_its_pins_change(tmp_path, monkeypatch):
    monkeypatch.setattr(build_addon, "ENVIRONMENTS", tmp_path)
    base = tmp_path / "base"
    base.write_text(f'#!/bin/sh\nmkdir -p "$3/bin" && ln -s {sys.executable} "$3/bin/python"\n')  # as -m venv does
    base.chmod(0o755)
    installed: list[Path] = []
    for pins in (["a==1"], ["a==1"], ["a==2"]):
        python = build_addon._environment("some", base, pins, installed.append)
    assert installed == [python, python]
    assert python.exists()

    def fail(_python: Path) -> None:
        raise build_addon.Stop("no network")

    with pytest.raises(build_addon.Stop):
        build_addon._environment("some", base, ["a==3"], fail)
    build_addon._environment("some", base, ["a==3"], installed.append)
    assert len(installed) == 3, "what was left half made is not taken for whole"
    base.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(build_addon.Stop, match="python3-venv"):
        build_addon._environment("other", base, [], installed.append)


def test_the_tests_command_fails_when_a_step_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build_addon, "environments", lambda **_: (Path("false"), Path("true")))
    monkeypatch.setattr(sys, "argv", ["build_addon.py", "test", "-k", "nothing"])
    assert build_addon.main() == 1
    said = capsys.readouterr().out
    assert "FAILED  mypy" in said
    assert "passed  tests in Blender" in said
