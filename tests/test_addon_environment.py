"""Where the backend lives, which Python runs it, and Set Up; nothing here touches the network."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from blender_addon import environment, installer, torch_builds
from blender_addon.check import Check, describe, interpreter_failure
from blender_addon.client import Launch
from blender_addon.environment import Home, Interpreter
from blender_addon.installer import Plan, SetUp

FAKE = Path(__file__).parent / "fake_backend"
ROOT = Path(__file__).parent.parent


def test_the_data_folder_follows_variable_preference_and_platform(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    variable = {"SPLATSMITH_HOME": "/data/splats"}
    assert environment.home_folder("/chosen", variable).path == Path("/data/splats")
    assert environment.home_folder("/chosen", {}).path == Path("/chosen")
    if os.name == "posix":
        assert environment.home_folder("", {}, "linux").path == Path("/home/ada/.local/share/splatsmith")
        assert environment.home_folder("", {"XDG_DATA_HOME": "/xdg"}, "linux").path == Path("/xdg/splatsmith")
        mac = Path("/home/ada/Library/Application Support/Splatsmith")
        assert environment.home_folder("", {}, "darwin").path == mac
    assert environment.home_folder("", {"LOCALAPPDATA": "/local"}, "win32").path == Path("/local/Splatsmith")


def test_the_backend_is_found_in_a_checkout_and_in_a_zip(tmp_path):
    addon = tmp_path / "blender_addon"
    addon.mkdir()
    assert environment.code_folder(addon, {}) is None
    for parent in (tmp_path, addon):
        (parent / "backend").mkdir()
        (parent / "backend" / "__main__.py").write_text("")
        assert environment.code_folder(addon, {}) == parent, "the add-on's own comes first"
    assert environment.code_folder(addon, {"SPLATSMITH_BACKEND_FOLDER": str(FAKE)}) == FAKE


def test_status_tells_every_state_apart(tmp_path):
    home = Home(tmp_path / "home")
    assert environment.status(home, environ={}).failure.code == "not_set_up"
    missing = environment.status(home, str(tmp_path / "none"), environ={})
    assert missing.failure.code == "no_python"
    chosen = environment.status(home, sys.executable, environ={})
    assert chosen.ready
    assert chosen.python == Path(sys.executable)
    assert environment.status(home, environ={"SPLATSMITH_BACKEND_PYTHON": sys.executable}).ready

    home.environment_python.parent.mkdir(parents=True)
    half = environment.status(home, environ={})
    assert "not finished" in half.failure.message
    home.marker.write_text(json.dumps({"base": sys.executable}))
    assert environment.status(home, environ={}).failure.code == "python_vanished"
    home.environment_python.symlink_to(sys.executable)
    assert environment.status(home, environ={}).ready
    home.marker.write_text(json.dumps({"base": str(tmp_path / "uninstalled" / "python3")}))
    assert environment.status(home, environ={}).failure.code == "python_vanished"


def test_a_python_says_what_it_is_and_lacks(tmp_path):
    found = environment.probe(Path(sys.executable), ["json", "no_such_package"])
    assert found.version == sys.version_info[:3]
    assert found.missing == ("no_such_package",)
    assert found.bits == 64
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho hello\n")
    script.chmod(0o755)
    assert environment.probe(script) is None
    assert environment.probe(tmp_path / "none") is None


def interpreter(path: Path, minor: int = 11, **other: object) -> Interpreter:
    return Interpreter(path, (3, minor, 0), path, **{"bits": 64, "can_make_venv": True, **other})


def test_the_search_for_a_base_python_skips_what_will_not_do():
    kinds = {
        "/blender/python": interpreter(Path("/blender/python"), 14),
        "/usr/bin/python3.13": None,
        "/usr/bin/python3.12": interpreter(Path("/usr/bin/python3.12"), 12, can_make_venv=False),
        "/usr/bin/python3.11": interpreter(Path("/usr/bin/python3.11"), 11),
    }

    def which(name: str) -> str | None:
        return f"/usr/bin/{name}" if f"/usr/bin/{name}" in kinds else None

    search = environment.find_bases("", "/blender/python", ask=lambda path: kinds[str(path)], which=which)
    assert [found.path for found in search.found] == [Path("/usr/bin/python3.11")]
    assert len(search.rejected) == 3
    assert "python3-venv" in search.rejected[2]
    only = environment.find_bases("/usr/bin/python3.12", "", ask=lambda path: kinds[str(path)], which=which)
    assert only.found == [], "the user's choice is not passed over in silence"


def test_check_names_what_a_python_lacks(tmp_path):
    assert interpreter_failure(tmp_path / "none").code == "no_python"
    check = Check(Launch(tmp_path / "none", FAKE, tmp_path)).start().wait()
    assert check.failure.code == "no_python"


def test_check_asks_the_doctor(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("json",))
    check = Check(Launch(Path(sys.executable), FAKE, tmp_path)).start().wait()
    assert check.failure is None
    assert check.report["device"] == "cpu"
    assert any("Runs on cpu" in line for line in check.lines)
    assert describe({}) == []


# -- torch builds -----------------------------------------------------------------------------------------------


def test_nobody_without_a_gpu_is_sent_to_cuda():
    index = torch_builds.BUILDS["cpu"].index
    with_index = torch_builds.pip_attempts("torch==2.13.0", "cpu", True, "linux")
    assert with_index[0] == ["torch==2.13.0+cpu", "--extra-index-url", index]
    without = torch_builds.pip_attempts("torch==2.13.0", "cpu", False, "linux")
    assert without == [["torch==2.13.0+cpu"], ["torch==2.13.0"]], (
        "a mirror's own CPU build comes before the plain wheel"
    )
    assert torch_builds.pip_attempts("torch==2.13.0", "mps", True) == [["torch==2.13.0"]]
    windows = torch_builds.pip_attempts("torch==2.13.0", "cu130", True, "win32")
    assert [attempt[0] for attempt in windows] == ["torch==2.13.0+cu130"], "no CPU build in silence for who chose a GPU"
    linux = torch_builds.pip_attempts("torch==2.13.0", "cu130", True, "linux")
    assert linux[1:] == [["torch==2.13.0"]], "where the plain wheel is a CUDA build"


@pytest.mark.parametrize(
    ("smi", "rocm", "build"),
    [
        ("| NVIDIA-SMI 580.10  Driver Version: 580.10  CUDA Version: 13.0 |", "", "cu130"),
        ("| CUDA Version: 12.8 |", "", "cu126"),
        ("| CUDA Version: 11.4 |", "", "cpu"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "", "cpu"),
        ("", "  Name: gfx1100", "rocm"),
        ("", "", "cpu"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="puts shell scripts on PATH")
def test_the_device_is_read_from_its_driver(tmp_path, monkeypatch, smi, rocm, build):
    for name, says in (("nvidia-smi", smi), ("rocminfo", rocm)):
        if says:
            script = tmp_path / name
            script.write_text(f"#!/bin/sh\ncat <<'SAYS'\n{says}\nSAYS\n")
            script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    assert torch_builds.detect("linux") == build


def test_macs_are_told_apart():
    assert torch_builds.detect("darwin") == "mps"
    assert torch_builds.intel_mac("darwin", "x86_64")
    assert not torch_builds.intel_mac("darwin", "arm64")
    assert not torch_builds.intel_mac("linux", "x86_64")


def test_an_index_nobody_answers_at_is_found_out_quickly():
    started = time.monotonic()
    assert not torch_builds.reachable("http://127.0.0.1:9/whl/cpu", 2.0)
    assert time.monotonic() - started < 3.0


def test_the_pins_are_complete_and_exact():
    torch_pin, others = environment.read_requirements(ROOT / "blender_addon" / "requirements.txt")
    assert torch_pin.startswith("torch==")
    assert "+" not in torch_pin, "the build is chosen per machine"
    assert all("==" in pin for pin in others)
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {line.split(">")[0] for line in project["dependencies"]}
    assert wanted <= {pin.split("==")[0] for pin in [torch_pin, *others]}


# -- Set Up -------------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A plan whose packages come from a folder with two tiny wheels, so that no network is asked."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, version in (("torch", "9.9.9+cpu"), ("tinything", "1.0")):
        make_wheel(wheels, name, version)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# pins\ntorch==9.9.9\ntinything==1.0  # small\n")
    monkeypatch.setattr(torch_builds, "reachable", lambda *_: False)
    monkeypatch.setattr(torch_builds, "detect", lambda: "cpu")
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(wheels), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return Plan(Home(tmp_path / "home"), FAKE, requirements, own_python=sys.executable)


def make_wheel(folder: Path, name: str, version: str) -> None:
    import zipfile

    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def test_set_up_makes_an_environment_and_the_second_time_only_warms_up(plan):
    set_up = SetUp(plan).start()
    fractions = []
    while set_up.running:
        set_up.poll()
        fractions.append(set_up.fraction)
        time.sleep(0.02)
    set_up.poll()
    assert set_up.failure is None, set_up.lines
    assert set_up.step == "Done"
    assert set_up.fraction == 1.0
    assert fractions == sorted(fractions)
    assert "warm" in set_up.lines
    status = environment.status(plan.home, environ={})
    assert status.ready
    assert environment.probe(status.python, ["torch", "tinything", "numba"]).missing == ("numba",)

    again = SetUp(plan).start().wait()
    assert again.failure is None
    assert any("up to date" in line for line in again.lines)


def test_set_up_goes_on_after_a_failure(plan):
    wheel = next(plan.requirements.parent.glob("wheels/tinything*"))
    hidden = wheel.rename(wheel.with_suffix(".hidden"))
    failed = SetUp(plan).start().wait()
    assert failed.failure.code == "set_up_failed"
    assert "Set Up" in failed.failure.fix
    assert not environment.status(plan.home, environ={}).ready
    hidden.rename(wheel)
    resumed = SetUp(plan).start().wait()
    assert resumed.failure is None, resumed.lines
    assert any("Going on with the environment" in line for line in resumed.lines)


def test_set_up_clears_away_an_environment_whose_python_vanished(plan, monkeypatch):
    commands: list[list[str]] = []
    monkeypatch.setattr(SetUp, "_run", lambda _self, command, *_, **__: commands.append(command) or True)
    stale = plan.home.environment / "lib" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    plan.home.marker.write_text(json.dumps({"fingerprint": plan.fingerprint, "base": sys.executable}))
    plan.home.environment_python.parent.mkdir()
    plan.home.environment_python.symlink_to("/uninstalled/python3")
    assert environment.status(plan.home, environ={}).failure.code == "python_vanished"
    set_up = SetUp(plan)
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: None)  # the folder is not really made again
    set_up.start().wait()
    assert not stale.exists()
    assert commands[0][1:3] == ["-m", "venv"]


@pytest.mark.skipif(os.name != "posix", reason="uses a shell script as a base that fails")
def test_set_up_passes_over_a_base_that_cannot_make_environments(plan, tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no venvlauncher here\nexit 1\n")
    broken.chmod(0o755)
    search = environment.BaseSearch([interpreter(broken), interpreter(Path(sys.executable))])
    monkeypatch.setattr(environment, "find_bases", lambda *_: search)
    tried = []
    original = SetUp._run

    def run(self, command, *arguments, **options):
        tried.append(command[0])
        return original(self, command, *arguments, **options) if command[0] == str(broken) else True

    monkeypatch.setattr(SetUp, "_run", run)
    plan.home.environment.mkdir(parents=True)  # as the second base would leave it
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    set_up = SetUp(plan).start().wait()
    assert set_up.failure is None
    assert tried[:2] == [str(broken), sys.executable]
    assert "no venvlauncher here" in set_up.lines
    assert plan.home.read_marker()["base"] == sys.executable


def test_set_up_can_be_cancelled(plan):
    set_up = SetUp(plan).start()
    end = time.monotonic() + 20
    while set_up.step != installer.SetUp.STEPS[1] and time.monotonic() < end:
        set_up.poll()
        time.sleep(0.01)
    started = time.monotonic()
    set_up.cancel()
    assert time.monotonic() - started < 5.0
    assert not set_up._thread.is_alive()
    assert set_up.failure is None
    assert not environment.status(plan.home, environ={}).ready


def test_set_up_without_a_python_says_where_to_get_one(plan, monkeypatch):
    monkeypatch.setattr(environment, "find_bases", lambda *_: environment.BaseSearch([], ["/usr/bin/python is 3.8"]))
    failed = SetUp(plan).start().wait()
    assert failed.failure.code == "no_python"
    assert "/usr/bin/python is 3.8" in failed.lines


def test_a_fault_of_our_own_in_set_up_is_not_taken_for_success(plan, monkeypatch):
    monkeypatch.setattr(environment, "find_bases", lambda *_: 1 / 0)
    failed = SetUp(plan).start().wait()
    assert failed.failure.code == "internal"
    assert failed.step != "Done"


def test_set_up_in_an_unwritable_folder_is_a_sentence(plan, tmp_path):
    (tmp_path / "file").write_text("")
    blocked = Plan(Home(tmp_path / "file" / "home"), FAKE, plan.requirements, own_python=sys.executable)
    failed = SetUp(blocked).start().wait()
    assert failed.failure.code == "unwritable"
