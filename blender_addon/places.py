"""Where this Blender's backend is and how it is started, from the preferences and the surroundings."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import bpy

from . import environment, importer
from .client import Failure, Launch, Problem
from .environment import Home, Status
from .installer import Plan
from .settings import chosen_build, settings

ADDON_FOLDER = Path(__file__).parent


def home() -> Home:
    return environment.home_folder(settings().data_folder)


def current_status() -> Status:
    return environment.status(home(), settings().python)


def blender_folder() -> Path | None:
    """Blender's own folder, whose libraries the backend must not see; None in the bpy wheel."""
    return Path(bpy.app.binary_path).parent if bpy.app.binary_path else None


def code_folder() -> Path:
    folder = environment.code_folder(ADDON_FOLDER)
    if folder is None:
        raise Problem(
            Failure("no_backend", "The add-on's backend folder is missing.", "Install the add-on again from its zip.")
        )
    return folder


def launch() -> Launch:
    """How to start the backend. Raises Problem with what to do when it is not set up."""
    status = current_status()
    if not status.ready or status.python is None:
        raise Problem(status.failure or Failure("not_set_up", "The backend is not set up yet.", "Press Set Up."))
    return Launch(status.python, code_folder(), home().path, blender_folder())


def plan() -> Plan:
    return Plan(
        home=home(),
        code_folder=code_folder(),
        requirements=ADDON_FOLDER / "requirements.txt",
        base_preference=settings().base_python,
        own_python=sys.executable,
        build=chosen_build(),
        blender_folder=blender_folder(),
    )


def new_job_folder(home: Home, request: dict[str, Any], taken: set[Path]) -> Path:
    """A folder name that sorts by time and tells what is in it; the backend makes the folder itself, later."""
    words = re.sub(r"[^a-z0-9]+", "-", importer.object_name(request).lower()).strip("-")[:32].strip("-")
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{words or 'object'}"
    folder, number = home.jobs / stem, 2
    while folder in taken or folder.exists():
        folder, number = home.jobs / f"{stem}-{number}", number + 1
    return folder
