"""What the tests in real Blender share: a clean scene, the stand-in backend, and the add-on registered."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

bpy = pytest.importorskip("bpy")

TESTS = Path(__file__).parent.parent
FAKE = TESTS / "fake_backend"


@pytest.fixture(autouse=True)
def _empty_blender():
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    yield
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)


@pytest.fixture
def fake_backend(monkeypatch, tmp_path):
    """The environment in which the add-on starts the stand-in; its data folder."""
    home = tmp_path / "home"
    monkeypatch.setenv("SPLATSMITH_HOME", str(home))
    monkeypatch.setenv("SPLATSMITH_BACKEND_PYTHON", sys.executable)
    monkeypatch.setenv("SPLATSMITH_BACKEND_FOLDER", str(FAKE))
    return home


@pytest.fixture
def addon(fake_backend):
    """The add-on of this checkout, registered as Blender would, with the stand-in behind it."""
    import blender_addon

    blender_addon.register()
    yield blender_addon
    blender_addon.unregister()


@pytest.fixture
def state(addon):
    from blender_addon import session

    return session.get()


@pytest.fixture
def place():
    from blender_addon.importer import Placement

    return Placement()


def real_backend_python() -> str:
    """The Python of the backend's environment, for the tests of the whole way; empty where there is none."""
    return os.environ.get("SPLATSMITH_BACKEND_PYTHON", "")
