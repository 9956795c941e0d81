"""Adds the add-on's parts to Blender and takes them away again, all or none."""

from __future__ import annotations

from . import (
    command_line,
    operators,
    operators_views,
    operators_weights,
    panel,
    preferences,
    properties,
    session,
    thumbnails,
)

PARTS = (
    session,
    thumbnails,
    properties,
    preferences,
    operators,
    operators_views,
    operators_weights,
    panel,
    command_line,
)


def register() -> None:
    done = []
    try:
        for part in PARTS:
            part.register()
            done.append(part)
    except BaseException:
        for part in reversed(done):
            part.unregister()
        raise


def unregister() -> None:
    for part in reversed(PARTS):
        part.unregister()
