"""The add-on's preferences: which Python runs the backend, where its data goes, Set Up and Check."""

# mypy: disable-error-code="valid-type"
# Blender reads its properties from annotations, so they are calls here, and not postponed.

import sys
from typing import Any

import bpy
from bpy.props import EnumProperty, StringProperty

from . import places, session, torch_builds
from .drawing import characters, draw_failure, draw_lines

LOG_LINES = 8
FRAME = 60  # pixels that Blender draws around an add-on's preferences


def _changed(_preferences: Any, _context: Any) -> None:
    if session.current is not None:
        session.current.settings_changed()


class SplatsmithPreferences(bpy.types.AddonPreferences):
    """Shown in Edit > Preferences > Add-ons."""

    bl_idname = __package__

    python: StringProperty(
        name="Own Python",
        description="A Python that has torch and the other packages already; leave empty to use what Set Up makes",
        subtype="FILE_PATH",
        update=_changed,
    )
    base_python: StringProperty(
        name="Base Python",
        description="The Python that Set Up builds on; leave empty to let it look for one, Blender's own first",
        subtype="FILE_PATH",
    )
    data_folder: StringProperty(
        name="Data Folder",
        description="Where the backend's environment, caches and finished jobs go; leave empty for the usual place",
        subtype="DIR_PATH",
        update=_changed,
    )
    build: EnumProperty(
        name="Compute On",
        description="Which build of torch Set Up installs",
        items=[(key, build.label, "") for key, build in torch_builds.BUILDS.items() if key != "mps"],
        default="cpu",
    )

    def draw(self, context: Any) -> None:
        if session.current is None:
            return
        state = session.current
        layout = self.layout
        layout.use_property_split = True
        width = characters(context.region.width - FRAME, context.preferences.system.ui_scale)
        _draw_state(layout, state, width)
        buttons = layout.row(align=True)
        if state.set_up is not None and state.set_up.running:
            buttons.operator("splatsmith.cancel_set_up", icon="CANCEL")
        else:
            buttons.operator("splatsmith.set_up", icon="IMPORT")
        buttons.operator("splatsmith.check", icon="CHECKMARK")
        if not bpy.app.online_access:
            draw_lines(
                layout,
                ["Set Up downloads packages and needs Allow Online Access in Preferences > System > Network."],
                width,
                icon="INTERNET_OFFLINE",
            )
        _draw_set_up(layout, state, width)
        _draw_check(layout, state, width)
        fields = layout.column()
        if sys.platform != "darwin":
            fields.prop(self, "build")
        fields.prop(self, "python")
        fields.prop(self, "base_python")
        fields.prop(self, "data_folder")
        draw_lines(layout, [f"Data: {places.home().path}"], width, icon="FILE_FOLDER")


def _draw_state(layout: Any, state: Any, width: int) -> None:
    status = state.status()
    if status.ready:
        draw_lines(layout, [f"The backend runs on {status.python}"], width, icon="CHECKMARK")
    else:
        draw_failure(layout, status.failure, width)


def _draw_set_up(layout: Any, state: Any, width: int) -> None:
    set_up = state.set_up
    if set_up is None:
        return
    box = layout.box()
    if set_up.running:
        box.progress(factor=set_up.fraction, type="BAR", text=f"{set_up.step}  {set_up.fraction:.0%}")
    elif set_up.failure is not None:
        draw_failure(box, set_up.failure, width)
    else:
        box.label(text="Set Up was cancelled." if set_up.cancelled else "Set Up is done.", icon="INFO")
    draw_lines(box, set_up.lines[-LOG_LINES:], width)


def _draw_check(layout: Any, state: Any, width: int) -> None:
    check = state.check
    if check is None:
        return
    box = layout.box()
    if check.running:
        box.label(text="Checking", icon="SORTTIME")
        return
    if check.failure is not None:
        draw_failure(box, check.failure, width)
    else:
        box.label(text="All is well.", icon="CHECKMARK")
    draw_lines(box, check.lines, width)


def register() -> None:
    bpy.utils.register_class(SplatsmithPreferences)


def unregister() -> None:
    bpy.utils.unregister_class(SplatsmithPreferences)
