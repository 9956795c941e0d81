"""The views in the panel: a strip to look at, or the artist's desk with a button for all that can be done to a view.

Before there are views: the picture that words became, of which they will be made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import session, thumbnails
from .desk import Desk, number_of
from .jobs import Job

STRIP = [f"{index:03d}.png" for index in range(4)]  # of a job whose views are still all there is to know
MOST_IN_STRIP = 6


def draw(box: Any, state: session.Session, job: Job) -> None:
    """The views of the panel's job. Those of a job that has just begun are shown as soon as they are finished."""
    desk = state.desk
    if not job.ended and job.stage in ("picture", "views") and "picture" in job.previews:
        _draw_picture(box, Path(job.previews["picture"]))
        return
    if desk is None or desk.folder != job.folder:
        if job.stage not in ("", "picture", "views", "weights"):
            _draw_strip(box, [job.folder / "views" / name for name in STRIP])
        if desk is None or not desk.open:
            return
    if desk.open and not desk.views and desk.shown_picture is not None:
        _draw_picture(box, desk.shown_picture)
        _draw_picture_buttons(box)
    elif desk.open:
        _draw_desk(box, desk)
    elif desk.views:
        _draw_strip(box, desk.views[:MOST_IN_STRIP])
        if not state.runner.busy:
            box.operator("splatsmith.edit_views", icon="GREASEPENCIL")


def _draw_strip(box: Any, views: list[Path]) -> None:
    row = box.row(align=True)
    for _, icon in thumbnails.icons(views):
        row.template_icon(icon_value=icon, scale=3.4)


def _draw_picture(box: Any, picture: Path) -> None:
    """Large enough to be judged by."""
    for _, icon in thumbnails.icons([picture]):
        box.template_icon(icon_value=icon, scale=8.0)


def _draw_picture_buttons(box: Any) -> None:
    more = box.row(align=True)
    more.operator("splatsmith.other_picture", icon="FILE_REFRESH")
    more.operator("splatsmith.use_picture", text="", icon="FILE_IMAGE")
    more.operator("splatsmith.undo_views", text="", icon="LOOP_BACK")
    go_on = box.column(align=True)
    go_on.scale_y = 1.4
    go_on.operator("splatsmith.make_views", icon="IMAGE_DATA")
    go_on.operator("splatsmith.make_mesh", icon="MESH_ICOSPHERE")


def _draw_desk(box: Any, desk: Desk) -> None:
    grid = box.grid_flow(row_major=True, columns=2 if len(desk.views) <= 4 else 3, even_columns=True)
    for view, icon in thumbnails.icons(desk.views):
        cell = grid.column(align=True)
        cell.template_icon(icon_value=icon, scale=5.0)
        buttons = cell.row(align=True)
        buttons.alignment = "CENTER"
        if desk.rerolls:
            buttons.operator("splatsmith.reroll_view", text="", icon="FILE_REFRESH").number = number_of(view)
        buttons.operator("splatsmith.replace_view", text="", icon="FILE_IMAGE").number = number_of(view)
        buttons.operator("splatsmith.drop_view", text="", icon="X").number = number_of(view)
    if desk.may_fit:
        box.operator("splatsmith.fit_views", icon="SNAP_ON")
    more = box.row(align=True)
    more.operator("splatsmith.other_views", icon="FILE_REFRESH")
    if desk.picture is not None:
        more.operator("splatsmith.other_picture", text="", icon="IMAGE_DATA")
    more.operator("splatsmith.undo_views", text="", icon="LOOP_BACK")
    go_on = box.row()
    go_on.scale_y = 1.4
    go_on.operator("splatsmith.make_mesh", icon="MESH_ICOSPHERE")
