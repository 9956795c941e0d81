"""Small pictures for the panel. Blender loads them when they are first drawn, not here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bpy.utils.previews

MOST_KEPT = 200

_pictures: Any = None  # between register and unregister


def icons(pictures: Iterable[Path]) -> list[tuple[Path, int]]:
    """Those pictures that are there, each with its icon number."""
    found = []
    for path in pictures:
        if _pictures is not None and path.is_file():
            key = f"{path}?{path.stat().st_mtime_ns}"  # a picture made anew is another picture
            if key not in _pictures:
                if len(_pictures) >= MOST_KEPT:
                    _pictures.clear()
                _pictures.load(key, str(path), "IMAGE")
            found.append((path, _pictures[key].icon_id))
    return found


def register() -> None:
    global _pictures
    _pictures = bpy.utils.previews.new()


def unregister() -> None:
    global _pictures
    if _pictures is not None:
        bpy.utils.previews.remove(_pictures)
    _pictures = None
