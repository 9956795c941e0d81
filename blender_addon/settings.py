"""What the preferences say, as plain values: all that the rest of the add-on needs to know of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import bpy


@dataclass(frozen=True)
class Settings:
    """The preferences as plain values; the defaults where the add-on runs from a checkout and has none."""

    python: str = ""
    base_python: str = ""
    data_folder: str = ""
    build: str = "cpu"


def settings() -> Settings:
    addon = bpy.context.preferences.addons.get(__package__)
    if addon is None or addon.preferences is None:
        return Settings()
    stored = addon.preferences
    return Settings(
        bpy.path.abspath(stored.python) if stored.python else "",
        bpy.path.abspath(stored.base_python) if stored.base_python else "",
        bpy.path.abspath(stored.data_folder) if stored.data_folder else "",
        stored.build,
    )


def chosen_build() -> str:
    """The torch build to install; there is only one for Macs."""
    return "mps" if sys.platform == "darwin" else settings().build
