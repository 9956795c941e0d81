"""The buttons for recipes and the weights they need. Nothing is fetched before its licence was shown and agreed to."""

# mypy: disable-error-code="valid-type"
# Blender reads its properties from annotations, so they are calls here, and not postponed.

from typing import Any

import bpy
from bpy.props import BoolProperty, StringProperty

from . import session
from .catalogue import licence_lines
from .drawing import draw_lines
from .jobs import Job
from .operators_shared import guarded, queued
from .places import home

DIALOG_WIDTH = 460


def _facts(name: str) -> dict[str, Any] | None:
    return session.get().catalogue.weights.get(name)


def _get(operator: Any, method: str, **params: Any) -> set[str]:
    return queued(operator, lambda: session.get().submit(Job({}, home().path, method=method, params=params)))


class SPLATSMITH_OT_refresh_recipes(bpy.types.Operator):
    """Ask the backend which recipes it has, and which weights are on this machine"""

    bl_idname = "splatsmith.refresh_recipes"
    bl_label = "Refresh"

    @classmethod
    def poll(cls, _context: Any) -> bool:
        return session.current is not None and session.current.status().ready

    def execute(self, _context: Any) -> set[str]:
        def ask() -> None:
            session.get().refresh()
            if bpy.app.background:  # timers do not fire here
                session.get().wait_for_answers()

        return guarded(self, ask)


class SPLATSMITH_OT_download_weights(bpy.types.Operator):
    """Download weights that others published, after you have read what their licence forbids"""

    bl_idname = "splatsmith.download_weights"
    bl_label = "Download Weights"

    weights: StringProperty(options={"SKIP_SAVE", "HIDDEN"})
    accept: BoolProperty(
        name="I have read this and agree to the licence", default=False, options={"SKIP_SAVE", "HIDDEN"}
    )

    @classmethod
    def poll(cls, _context: Any) -> bool:
        if not bpy.app.online_access:
            cls.poll_message_set("Needs Allow Online Access in Preferences > System > Network")
            return False
        return session.current is not None and session.current.status().ready

    def invoke(self, context: Any, _event: Any) -> set[str]:
        if _facts(self.weights) is None:
            self.report({"ERROR"}, f"Nothing is known of the weights {self.weights}. Press Refresh first.")
            return {"CANCELLED"}
        return context.window_manager.invoke_props_dialog(
            self, width=DIALOG_WIDTH, title=f"Download {self.weights}?", confirm_text="Download"
        )

    def draw(self, _context: Any) -> None:
        draw_lines(self.layout, licence_lines(_facts(self.weights) or {}), 64)
        self.layout.prop(self, "accept")

    def execute(self, _context: Any) -> set[str]:
        if not self.accept:
            self.report({"ERROR"}, "Nothing was fetched: the licence was not agreed to.")
            return {"CANCELLED"}
        return _get(self, "weights.download", name=self.weights, accept=True)


class SPLATSMITH_OT_import_weights(bpy.types.Operator):
    """Take these weights from a folder on this machine, for example one copied from another"""

    bl_idname = "splatsmith.import_weights"
    bl_label = "Import Weights"

    weights: StringProperty(options={"SKIP_SAVE", "HIDDEN"})
    directory: StringProperty(subtype="DIR_PATH", options={"SKIP_SAVE"})
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})

    @classmethod
    def poll(cls, _context: Any) -> bool:
        return session.current is not None and session.current.status().ready

    def invoke(self, context: Any, _event: Any) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def draw(self, _context: Any) -> None:  # beside the file browser
        draw_lines(self.layout, licence_lines(_facts(self.weights) or {"name": self.weights}), 32)

    def execute(self, _context: Any) -> set[str]:
        folder = bpy.path.abspath(self.directory)
        return _get(self, "weights.import", name=self.weights, source=folder, accept=True)


CLASSES = (
    SPLATSMITH_OT_refresh_recipes,
    SPLATSMITH_OT_download_weights,
    SPLATSMITH_OT_import_weights,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
