"""The buttons at the views: drop, replace, undo, other views, and on to the mesh. Each returns at once."""

# mypy: disable-error-code="valid-type"
# Blender reads its properties from annotations, so they are calls here, and not postponed.

import random
from collections.abc import Callable
from typing import Any

import bpy
from bpy.props import IntProperty, StringProperty

from . import importer, session
from .desk import Desk
from .jobs import Job
from .operators_shared import queued
from .properties import LARGEST_SEED, request_settings

PICTURES = "*.png;*.jpg;*.jpeg;*.webp;*.tif;*.tiff;*.bmp;*.tga;*.gif;*.avif;*.jp2"


class _AtTheDesk:
    """What these buttons share: they need views, or the picture that they will be made of, and an idle queue, since
    each changes what the next one sees."""

    @classmethod
    def poll(cls, _context: Any) -> bool:
        state = session.current
        if state is None or state.desk is None or state.runner.busy:
            return False
        return bool(state.desk.views) or state.desk.picture is not None

    def submit(self, job_of: Callable[[Desk], Job]) -> set[str]:
        """Queues the job that `job_of` makes of the desk."""
        state = session.get()
        desk: Desk | None = state.desk
        return {"CANCELLED"} if desk is None else queued(self, lambda: state.submit(job_of(desk)))


class SPLATSMITH_OT_edit_views(bpy.types.Operator):
    """Change the views that the object was made from, and make the mesh again"""

    bl_idname = "splatsmith.edit_views"
    bl_label = "Edit Views"

    @classmethod
    def poll(cls, _context: Any) -> bool:
        return session.current is not None and session.current.desk is not None

    def execute(self, _context: Any) -> set[str]:
        desk = session.get().desk
        if desk is not None:
            desk.open = not desk.open
        return {"FINISHED"}


class SPLATSMITH_OT_drop_view(_AtTheDesk, bpy.types.Operator):
    """Leave this view out"""

    bl_idname = "splatsmith.drop_view"
    bl_label = "Drop"

    number: IntProperty(options={"SKIP_SAVE"})

    @classmethod
    def poll(cls, context: Any) -> bool:
        if not super().poll(context):
            return False
        desk = session.get().desk
        if desk is not None and not desk.may_drop:
            cls.poll_message_set(f"This recipe needs {desk.least} views: replace it, or make other views")
            return False
        return True

    def execute(self, _context: Any) -> set[str]:
        return self.submit(lambda desk: desk.drop(self.number))


class SPLATSMITH_OT_replace_view(_AtTheDesk, bpy.types.Operator):
    """Put a picture of yours in the place of this view: one painted over, or a photo from that side"""

    bl_idname = "splatsmith.replace_view"
    bl_label = "Replace View"

    number: IntProperty(options={"SKIP_SAVE", "HIDDEN"})
    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_glob: StringProperty(default=PICTURES, options={"HIDDEN"})

    def invoke(self, context: Any, _event: Any) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, _context: Any) -> set[str]:
        return self.submit(lambda desk: desk.replace(self.number, bpy.path.abspath(self.filepath)))


class SPLATSMITH_OT_undo_views(_AtTheDesk, bpy.types.Operator):
    """Bring back the views as they were before the last change"""

    bl_idname = "splatsmith.undo_views"
    bl_label = "Undo"

    @classmethod
    def poll(cls, context: Any) -> bool:
        desk = session.current.desk if session.current is not None else None
        return super().poll(context) and desk is not None and desk.earlier > 0

    def execute(self, _context: Any) -> set[str]:
        return self.submit(lambda desk: desk.undo())


class SPLATSMITH_OT_reroll_view(_AtTheDesk, bpy.types.Operator):
    """Make this view anew, so that it fits the others"""

    bl_idname = "splatsmith.reroll_view"
    bl_label = "Make Anew"

    number: IntProperty(options={"SKIP_SAVE"})

    def execute(self, _context: Any) -> set[str]:
        return self.submit(lambda desk: desk.reroll(self.number, random.randint(0, LARGEST_SEED)))


class SPLATSMITH_OT_fit_views(_AtTheDesk, bpy.types.Operator):
    """Make the other views anew, so that they fit the pictures that you put there"""

    bl_idname = "splatsmith.fit_views"
    bl_label = "Fit the Others to Mine"

    @classmethod
    def poll(cls, context: Any) -> bool:
        desk = session.current.desk if session.current is not None else None
        return super().poll(context) and desk is not None and desk.may_fit

    def execute(self, _context: Any) -> set[str]:
        return self.submit(lambda desk: desk.fit_others(random.randint(0, LARGEST_SEED)))


class SPLATSMITH_OT_other_views(_AtTheDesk, bpy.types.Operator):
    """Make all views anew, of another seed"""

    bl_idname = "splatsmith.other_views"
    bl_label = "Other Views"

    def execute(self, context: Any) -> set[str]:
        seed = _next_seed(context.scene.splatsmith)
        return self.submit(lambda desk: desk.others(seed))


class SPLATSMITH_OT_other_picture(_AtTheDesk, bpy.types.Operator):
    """Make another picture of the words, of another seed; nothing is made of it before you say so"""

    bl_idname = "splatsmith.other_picture"
    bl_label = "Another Picture"

    def execute(self, context: Any) -> set[str]:
        seed = _next_seed(context.scene.splatsmith)
        return self.submit(lambda desk: desk.other_picture(seed))


class SPLATSMITH_OT_use_picture(_AtTheDesk, bpy.types.Operator):
    """Take a picture of yours instead, and make the views of it"""

    bl_idname = "splatsmith.use_picture"
    bl_label = "Use My Picture"

    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_glob: StringProperty(default=PICTURES, options={"HIDDEN"})

    def invoke(self, context: Any, _event: Any) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, _context: Any) -> set[str]:
        return self.submit(lambda desk: desk.use_picture(bpy.path.abspath(self.filepath)))


class SPLATSMITH_OT_make_views(_AtTheDesk, bpy.types.Operator):
    """Make the views of this picture, and stop there"""

    bl_idname = "splatsmith.make_views"
    bl_label = "Make the Views"

    def execute(self, _context: Any) -> set[str]:
        return self.submit(lambda desk: desk.views_of_picture())


class SPLATSMITH_OT_make_mesh(_AtTheDesk, bpy.types.Operator):
    """Make the object from what is here and put it at the 3D cursor"""

    bl_idname = "splatsmith.make_mesh"
    bl_label = "Make the Mesh"

    def execute(self, context: Any) -> set[str]:
        properties = context.scene.splatsmith
        placement = {"placement": importer.placement_now(context, properties.size)}
        return self.submit(lambda desk: desk.mesh(request_settings(properties), placement))


def _next_seed(properties: Any) -> int:
    """Another seed than the last, put into the panel."""
    if properties.random_seed:
        properties.seed = random.randint(0, LARGEST_SEED)
    else:
        properties.seed = (properties.seed + 1) % LARGEST_SEED
    return int(properties.seed)


CLASSES = (
    SPLATSMITH_OT_edit_views,
    SPLATSMITH_OT_drop_view,
    SPLATSMITH_OT_replace_view,
    SPLATSMITH_OT_undo_views,
    SPLATSMITH_OT_reroll_view,
    SPLATSMITH_OT_fit_views,
    SPLATSMITH_OT_other_views,
    SPLATSMITH_OT_other_picture,
    SPLATSMITH_OT_use_picture,
    SPLATSMITH_OT_make_views,
    SPLATSMITH_OT_make_mesh,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
