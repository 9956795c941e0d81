"""Register and unregister leave Blender as they found it."""

from __future__ import annotations

import os
import threading
import time

import pytest

bpy = pytest.importorskip("bpy")

HANDLERS = [name for name in dir(bpy.app.handlers) if isinstance(getattr(bpy.app.handlers, name), list)]


def traces() -> dict[str, object]:
    """Everything in Blender that could bear a trace of the add-on."""
    return {
        "types": sorted(name for name in dir(bpy.types) if "splatsmith" in name.lower()),
        "operators": "splatsmith" in dir(bpy.ops) and sorted(dir(bpy.ops.splatsmith)),
        "scene": "splatsmith" in bpy.types.Scene.bl_rna.properties or hasattr(bpy.types.Scene, "splatsmith"),
        "handlers": {name: len(getattr(bpy.app.handlers, name)) for name in HANDLERS},
        "threads": sorted(thread.name for thread in threading.enumerate() if "splatsmith" in thread.name),
    }


def test_what_register_adds_unregister_takes_away(fake_backend):
    import blender_addon
    from blender_addon import session

    before = traces()
    blender_addon.register()
    during = traces()
    assert "SPLATSMITH_PT_main" in during["types"]
    assert "generate" in during["operators"]
    assert bpy.context.scene.splatsmith.faces == 20_000
    bpy.context.scene.splatsmith.prompt = "a red mug"
    assert bpy.ops.splatsmith.generate() == {"FINISHED"}
    pid = session.get().runner.backend_pid
    assert pid is not None
    bpy.app.timers.register(session.tick)
    blender_addon.unregister()
    assert traces() == before
    assert not bpy.app.timers.is_registered(session.tick)
    assert session.current is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_register_again_after_unregister(fake_backend):
    import blender_addon

    for _ in range(3):
        blender_addon.register()
        blender_addon.unregister()
    assert not hasattr(bpy.types.Scene, "splatsmith")


def test_a_part_that_fails_takes_the_others_back(fake_backend, monkeypatch):
    import blender_addon
    from blender_addon import panel

    before = traces()

    def fail() -> None:
        raise RuntimeError("no panel today")

    monkeypatch.setattr(panel, "register", fail)
    with pytest.raises(RuntimeError, match="no panel today"):
        blender_addon.register()
    assert traces() == before


def test_unregister_in_mid_job_ends_the_job_and_its_process(fake_backend):
    import blender_addon
    from blender_addon import session
    from blender_addon.importer import Placement

    blender_addon.register()
    state = session.get()
    job = state.generate({"prompt": "slow"}, Placement())
    end = time.monotonic() + 20
    while job.overall == 0 and time.monotonic() < end:
        session.tick()
        time.sleep(0.02)
    pid = state.runner.backend_pid
    assert pid is not None
    blender_addon.unregister()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert len(bpy.data.objects) == 0
