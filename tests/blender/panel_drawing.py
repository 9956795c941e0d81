"""Drawing the panel without a window, and ticking as its timer would.

Without a window Blender draws nothing, so a layout that records its calls stands in for Blender's; it knows Blender's
own icons, properties and operators, and refuses what Blender would refuse.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import bpy

ICONS = {item.identifier for item in bpy.types.UILayout.bl_rna.functions["label"].parameters["icon"].enum_items}
CPU_LIMIT = 0.02  # seconds for a tick, a draw or a click
ONCE = 0.1  # seconds that a busy machine may make of one of them


class RecordingLayout:
    """Takes what a UILayout takes; `texts` is what a person would read."""

    def __init__(self, texts: list[str] | None = None) -> None:
        self.texts = [] if texts is None else texts

    def _part(self, **_options: object) -> RecordingLayout:
        return RecordingLayout(self.texts)

    row = column = box = grid_flow = _part

    def separator(self) -> None:
        pass

    def label(self, *, text: str = "", icon: str = "NONE") -> None:
        assert icon in ICONS, icon
        self.texts.append(text)

    def prop(self, data: object, name: str, *, text: str | None = None, icon: str = "NONE") -> None:
        assert name in data.bl_rna.properties, name
        assert icon in ICONS, icon
        self.texts.append(f"[{data.bl_rna.properties[name].name if text is None else text}]")

    def template_icon(self, *, icon_value: int, scale: float) -> None:
        self.texts.append(f"(view {icon_value >= 0})")

    def progress(self, *, factor: float, type: str, text: str) -> None:
        assert 0.0 <= factor <= 1.0
        self.texts.append(text)

    def operator(self, name: str, *, text: str | None = None, icon: str = "NONE") -> SimpleNamespace:
        group, operator = name.split(".")
        assert operator in dir(getattr(bpy.ops, group)), name
        assert icon in ICONS, icon
        kind = getattr(bpy.types, f"{group.upper()}_OT_{operator}")
        self.texts.append(f"<{text or kind.bl_label}>")
        return SimpleNamespace()


def draw() -> str:
    """What the panel says now; drawn again where it took long, since a busy machine makes anything long once."""
    from blender_addon import panel

    context = SimpleNamespace(
        scene=bpy.context.scene, region=SimpleNamespace(width=280), preferences=bpy.context.preferences
    )
    costs: list[float] = []
    while not costs or (costs[-1] > CPU_LIMIT and len(costs) < 5):
        layout = RecordingLayout()
        started = time.thread_time()
        panel.SPLATSMITH_PT_main.draw(SimpleNamespace(layout=layout), context)
        costs.append(time.thread_time() - started)
    assert min(costs) < CPU_LIMIT
    return " ".join(layout.texts)


def draw_preferences() -> str:
    from blender_addon import preferences

    layout = RecordingLayout()
    fields = SimpleNamespace(layout=layout, bl_rna=preferences.SplatsmithPreferences.bl_rna)
    context = SimpleNamespace(region=SimpleNamespace(width=520), preferences=bpy.context.preferences)
    preferences.SplatsmithPreferences.draw(fields, context)
    return " ".join(layout.texts)


def tick_until(condition, seconds: float = 20.0) -> list[float]:
    """Ticks as the timer would; the CPU seconds of every tick."""
    from blender_addon import session

    costs = []
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        started = time.thread_time()
        session.tick()
        costs.append(time.thread_time() - started)
        time.sleep(0.01)
    return costs
