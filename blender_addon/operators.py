"""The buttons. Each returns at once; what takes time goes on in the session's timer."""

from __future__ import annotations

import random
from typing import Any

import bpy

from . import importer, session
from .jobs import Job
from .operators_shared import guarded, queued
from .properties import LARGEST_SEED, request_settings, stop_after


class SPLATSMITH_OT_generate(bpy.types.Operator):
    """Make an object from the prompt or the picture and put it at the 3D cursor"""

    bl_idname = "splatsmith.generate"
    bl_label = "Generate"

    def execute(self, context: Any) -> set[str]:
        properties = context.scene.splatsmith
        state = session.get()
        if properties.random_seed:
            properties.seed = random.randint(0, LARGEST_SEED)
        to_stage = stop_after(properties, state.catalogue.recipe(properties.recipe_name))

        def submit() -> Job:
            placement = importer.placement_now(context, properties.size)
            return state.generate(request_settings(properties), placement, to_stage=to_stage)

        return queued(self, submit)


class SPLATSMITH_OT_cancel(bpy.types.Operator):
    """Stop the running job and forget the waiting ones"""

    bl_idname = "splatsmith.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, _context: Any) -> bool:
        return session.current is not None and session.current.runner.busy

    def execute(self, _context: Any) -> set[str]:
        session.get().runner.cancel()
        session.wake()
        return {"FINISHED"}


class SPLATSMITH_OT_set_up(bpy.types.Operator):
    """Make the backend's own Python environment in the data folder, and download what belongs into it"""

    bl_idname = "splatsmith.set_up"
    bl_label = "Set Up"

    @classmethod
    def poll(cls, _context: Any) -> bool:
        if not bpy.app.online_access:
            cls.poll_message_set("Needs Allow Online Access in Preferences > System > Network")
            return False
        return session.current is not None and not (session.current.set_up and session.current.set_up.running)

    def execute(self, _context: Any) -> set[str]:
        return guarded(self, session.get().start_set_up)


class SPLATSMITH_OT_cancel_set_up(bpy.types.Operator):
    """Stop Set Up; it goes on from there the next time"""

    bl_idname = "splatsmith.cancel_set_up"
    bl_label = "Cancel Set Up"

    def execute(self, _context: Any) -> set[str]:
        set_up = session.get().set_up
        if set_up is not None:
            set_up.cancel(wait=0.0)
        return {"FINISHED"}


class SPLATSMITH_OT_check(bpy.types.Operator):
    """Ask the backend's Python what it has and what it lacks"""

    bl_idname = "splatsmith.check"
    bl_label = "Check"

    @classmethod
    def poll(cls, _context: Any) -> bool:
        return session.current is not None and not (session.current.check and session.current.check.running)

    def execute(self, _context: Any) -> set[str]:
        return guarded(self, session.get().start_check)


class SPLATSMITH_OT_preferences(bpy.types.Operator):
    """Open the add-on's preferences"""

    bl_idname = "splatsmith.preferences"
    bl_label = "Open Preferences"

    def execute(self, _context: Any) -> set[str]:
        try:
            bpy.ops.preferences.addon_show(module=__package__)
        except RuntimeError as error:  # run from a checkout, the add-on is not among the installed ones
            self.report({"WARNING"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class SPLATSMITH_OT_open_folder(bpy.types.Operator):
    """Open the folder with the job's views, Gaussians, mesh and report"""

    bl_idname = "splatsmith.open_folder"
    bl_label = "Open Job Folder"

    @classmethod
    def poll(cls, _context: Any) -> bool:
        job = session.current.last if session.current is not None else None
        return job is not None and job.folder.is_dir()

    def execute(self, _context: Any) -> set[str]:
        job = session.get().last
        if job is not None:
            bpy.ops.wm.path_open(filepath=str(job.folder))
        return {"FINISHED"}


CLASSES = (
    SPLATSMITH_OT_generate,
    SPLATSMITH_OT_cancel,
    SPLATSMITH_OT_set_up,
    SPLATSMITH_OT_cancel_set_up,
    SPLATSMITH_OT_check,
    SPLATSMITH_OT_preferences,
    SPLATSMITH_OT_open_folder,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
