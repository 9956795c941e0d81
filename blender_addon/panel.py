"""The panel in the 3D viewport's sidebar. It only reads; nothing here starts, waits or looks at the network."""

from __future__ import annotations

from typing import Any

import bpy

from . import session, thumbnails
from .drawing import characters, draw_failure, draw_lines, duration
from .jobs import Job, State

STAGE_NAMES = {
    "views": "Imagining views",
    "reconstruct": "Reconstructing",
    "surface": "Finding the surface",
    "texture": "Painting the texture",
    "export": "Saving",
}
VIEW_NAMES = [f"{index:03d}.png" for index in range(4)]


class SPLATSMITH_PT_main(bpy.types.Panel):
    """Prompt or picture in, textured object out"""

    bl_label = "Splatsmith"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Splatsmith"

    def draw(self, context: Any) -> None:
        state = session.current
        if state is None:
            return
        layout = self.layout
        width = characters(context.region.width, context.preferences.system.ui_scale)
        status = state.status()
        if not status.ready:
            box = layout.box()
            draw_failure(box, status.failure, width)
            box.operator("splatsmith.preferences", icon="PREFERENCES")
        _draw_request(layout, context.scene.splatsmith)
        button = layout.row()
        button.scale_y = 1.4
        button.enabled = status.ready
        waiting = len(state.runner.waiting) + (1 if state.runner.current is not None else 0)
        text = "Generate" if waiting == 0 else f"Generate Another ({waiting} under way)"
        button.operator("splatsmith.generate", text=text, icon="SHADERFX")
        if state.problem is not None:
            draw_failure(layout.box(), state.problem, width)
        if state.last is not None:
            _draw_job(layout, state, state.last, width)


def _draw_request(layout: Any, properties: Any) -> None:
    inputs = layout.column(align=True)
    inputs.label(text="Prompt")
    inputs.prop(properties, "prompt", text="")
    inputs.separator()
    inputs.label(text="Or a picture")
    inputs.prop(properties, "image", text="")
    settings = layout.column(align=True)
    settings.use_property_split = True
    settings.use_property_decorate = False
    seed = settings.row(align=True)
    number = seed.row(align=True)
    number.enabled = not properties.random_seed
    number.prop(properties, "seed")
    seed.prop(properties, "random_seed", text="", icon="FILE_REFRESH")
    settings.prop(properties, "faces")
    settings.prop(properties, "texture_size")
    settings.prop(properties, "size")


def _draw_job(layout: Any, state: session.Session, job: Job, width: int) -> None:
    box = layout.box()
    if not job.ended:
        _draw_progress(box, job)
    elif job in state.arriving:
        draw_lines(box, ["Ready. It is added to the scene as soon as you are back in Object Mode."], width, icon="TIME")
    elif job.state is State.FAILED:
        draw_failure(box, job.failure, width)
    elif job.state is State.CANCELLED:
        box.label(text="Cancelled", icon="CANCEL")
    else:
        row = box.row()
        row.label(text=f"Done in {duration(job.seconds)}", icon="CHECKMARK")
        row.operator("splatsmith.open_folder", text="", icon="FILE_FOLDER")
    if job.warnings:
        draw_lines(box, job.warnings, width, icon="INFO")
    _draw_views(box, job)


def _draw_views(box: Any, job: Job) -> None:
    """The views that the object is made from, as soon as they are finished."""
    if job.stage in ("", "views"):
        return
    row = box.row(align=True)
    for icon in thumbnails.icons(job.folder / "views", VIEW_NAMES):
        row.template_icon(icon_value=icon, scale=3.4)


def _draw_progress(box: Any, job: Job) -> None:
    what = job.message if job.state is not State.RUNNING else STAGE_NAMES.get(job.stage, "Starting")
    left = f", {duration(job.eta)} left" if job.eta is not None and job.state is State.RUNNING else ""
    box.label(text=what)
    box.progress(factor=job.overall, type="BAR", text=f"{job.overall:.0%}{left}")
    box.operator("splatsmith.cancel", icon="CANCEL")


def register() -> None:
    bpy.utils.register_class(SPLATSMITH_PT_main)


def unregister() -> None:
    bpy.utils.unregister_class(SPLATSMITH_PT_main)
