"""What an edit of the views took away, kept in the job folder until the mesh is made, so that it can be undone.

Each step is a folder of its own in `earlier/`, complete before anything else in the job folder changes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from backend.formats.whole_file import TEMPORARY_PREFIX, whole_file, writing_failed

FOLDER = "earlier"
_MOST_STEPS = 20


def steps(job: Path) -> list[Path]:
    """The kept steps, the oldest first."""
    try:
        return sorted(step for step in (job / FOLDER).iterdir() if step.name.isdigit() and step.is_dir())
    except OSError:
        return []


def keep(job: Path, copied: Iterable[str], moved: Iterable[str]) -> None:
    """Begins a step with copies of some files of the job, and moves others into it; absent ones are left out.

    Raises BadInput where the folder cannot be written.
    """
    before = steps(job)
    target = job / FOLDER / f"{int(before[-1].name) + 1 if before else 1:04d}"
    staging = target.with_name(TEMPORARY_PREFIX + target.name)
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for name in copied:
            if (job / name).is_file():
                (staging / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(job / name, staging / name)
        os.replace(staging, target)
        for name in moved:
            if (job / name).is_file():
                os.replace(job / name, target / name)
    except OSError as error:
        raise writing_failed(target, error) from error
    for old in before[: max(0, len(before) + 1 - _MOST_STEPS)]:
        shutil.rmtree(old, ignore_errors=True)


def bring_back(job: Path, last: str) -> None:
    """Puts the files of the newest step where they were, the file `last` after all others, and forgets the step.

    Killed half way it can be called again: what is brought back is a copy until all of it is there. Raises BadInput
    where the folder cannot be written.
    """
    step = steps(job)[-1]
    names = sorted(path.relative_to(step).as_posix() for path in step.rglob("*") if path.is_file())
    for name in sorted(names, key=lambda name: name == last):
        try:
            (job / name).parent.mkdir(exist_ok=True)
            with whole_file(job / name) as temporary:
                shutil.copyfile(step / name, temporary)
        except OSError as error:
            raise writing_failed(job / name, error) from error
    shutil.rmtree(step, ignore_errors=True)


def forget(job: Path) -> None:
    """There is nothing to undo any more."""
    with contextlib.suppress(OSError):
        shutil.rmtree(job / FOLDER)
