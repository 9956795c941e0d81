"""The panel in the 3D viewport's sidebar. It only reads; nothing here starts, waits or looks at the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy

from . import panel_recipe, panel_views, session, thumbnails
from .drawing import characters, draw_failure, draw_lines, duration
from .jobs import Job, Question, State
from .properties import absolute, may_stop_at_picture, stop_after

STAGE_NAMES = {
    "picture": "Imagining a picture",
    "views": "Imagining views",
    "reconstruct": "Reconstructing",
    "surface": "Finding the surface",
    "texture": "Painting the texture",
    "export": "Saving",
    "weights": "Getting weights",
}
BUTTON = {  # by where the next job stops: alone, and with others under way
    "picture": ("Make the Picture", "Make Another Picture"),
    "views": ("Make Views", "Make More Views"),
    None: ("Generate", "Generate Another"),
}
METHOD_NAMES = {"views.edit": "Changing the views", "weights.download": "Asking for the weights"}


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
        properties = context.scene.splatsmith
        _draw_inputs(layout, state, properties, width)
        complete = panel_recipe.draw(layout, state, properties, width)
        recipe = state.catalogue.recipe(properties.recipe_name)
        _draw_settings(layout, properties, may_stop_at_picture(properties, recipe))
        button = layout.row()
        button.scale_y = 1.4
        button.enabled = status.ready and complete
        waiting = len(state.runner.waiting) + (1 if state.runner.current is not None else 0)
        once, again = BUTTON[stop_after(properties, recipe)]
        text = once if waiting == 0 else f"{again} ({waiting} under way)"
        button.operator("splatsmith.generate", text=text, icon="SHADERFX")
        if state.problem is not None:
            draw_failure(layout.box(), state.problem, width)
        if state.last is not None:
            _draw_job(layout, state, state.last, width)


def _draw_inputs(layout: Any, state: session.Session, properties: Any, width: int) -> None:
    inputs = layout.column(align=True)
    inputs.label(text="Prompt")
    inputs.prop(properties, "prompt", text="")
    inputs.separator()
    inputs.label(text="Or a picture")
    inputs.prop(properties, "image", text="")
    if state.picture is not None and state.picture.params["image"] == absolute(properties.image):
        box = layout.box()
        _draw_picture(box, state.picture, width)
        if state.picture.failure is not None or (state.picture.result or {}).get("warnings"):
            panel_recipe.draw_matting(box, state, width)


def _draw_picture(box: Any, question: Question, width: int) -> None:
    """What a generator will see of the picture, before anything is spent on it."""
    if not question.done:
        box.label(text="Cutting the object out", icon="SORTTIME")
    elif question.failure is not None:
        draw_failure(box, question.failure, width)
    else:
        for _, icon in thumbnails.icons([Path(question.params["out"])]):
            box.template_icon(icon_value=icon, scale=5.0)
        warnings = (question.result or {}).get("warnings")
        draw_lines(box, map(str, warnings if isinstance(warnings, list) else []), width, icon="INFO")


def _draw_settings(layout: Any, properties: Any, picture_first: bool) -> None:
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
    if picture_first:
        settings.prop(properties, "picture_first")
    settings.prop(properties, "views_first")


def _draw_job(layout: Any, state: session.Session, job: Job, width: int) -> None:
    box = layout.box()
    if not job.ended:
        _draw_progress(box, job, width)
    elif job in state.arriving:
        draw_lines(box, ["Ready. It is added to the scene as soon as you are back in Object Mode."], width, icon="TIME")
    elif job.state is State.FAILED:
        draw_failure(box, job.failure, width)
    elif job.state is State.CANCELLED:
        box.label(text="Cancelled", icon="CANCEL")
    else:
        row = box.row()
        row.label(text=f"{_done(job)} in {duration(job.seconds)}", icon="CHECKMARK")
        if job.method == "generate":
            row.operator("splatsmith.open_folder", text="", icon="FILE_FOLDER")
    if job.warnings:
        draw_lines(box, job.warnings, width, icon="INFO")
    panel_views.draw(box, state, job)


def _done(job: Job) -> str:
    if job.method.startswith("weights."):
        return "The weights are here"
    if job.method.startswith("views."):
        return "Views changed"
    return "Done" if job.makes_object else "Picture made" if job.to_stage == "picture" else "Views made"


def _draw_progress(box: Any, job: Job, width: int) -> None:
    what = job.message if job.state is not State.RUNNING else _doing(job)
    left = f", {duration(job.eta)} left" if job.eta is not None and job.state is State.RUNNING else ""
    draw_lines(box, [what], width)
    box.progress(factor=job.overall, type="BAR", text=f"{job.overall:.0%}{left}")
    box.operator("splatsmith.cancel", icon="CANCEL")


def _doing(job: Job) -> str:
    if job.stage == "weights":
        return job.message
    return STAGE_NAMES.get(job.stage) or METHOD_NAMES.get(job.method, "Starting")


def register() -> None:
    bpy.utils.register_class(SPLATSMITH_PT_main)


def unregister() -> None:
    bpy.utils.unregister_class(SPLATSMITH_PT_main)
