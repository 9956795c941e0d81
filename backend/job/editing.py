"""The editable middle: views of a job folder dropped, replaced by a picture, and brought back, before the mesh is made.

A view is called by the number in its file's name (views/002.png is 2), which stays when others are dropped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.errors import BadInput
from backend.formats.images import read_image, resize, write_png
from backend.formats.whole_file import write_text
from backend.job.imagined import shown_as_seen
from backend.job.jobfolder import PICTURE, PICTURE_PREVIEW, PREVIEW, REPORT, REQUEST, TRANSFORMS, JobFolder
from backend.recipes import find_recipe
from backend.views.picture import Picture, cut_out, further_packs, load_picture, object_bounds, prepare_picture

_SAME_FRAMING = 0.7  # overlap of the two objects' boxes from which a picture shows the object where the view had it
_EMPTY_FRACTION = 0.66  # of the frame that the object takes where the view showed nothing


@dataclass(frozen=True)
class EditedViews:
    """views: absolute paths of those that are left; least: how many the reconstructor needs; earlier: how many changes
    can be undone. As the answer to `views.edit`."""

    folder: str
    views: list[str]
    least: int
    earlier: int
    warnings: list[str]


def edit_views(
    folder: Path | str, drop: Sequence[int] = (), replace: Mapping[int, Path | str] | None = None
) -> EditedViews:
    """Take views out, put pictures in the place of others, and remove what was made from the old ones.

    replace: number of a view to the file of a picture, which is cut out and brought to the view's frame. All is read
    and checked before anything changes, and what goes is kept aside for `undo`.

    Raises BadInput for a folder without views, numbers that no view has, pictures that cannot be used, and where fewer
    views would be left than the recipe's reconstructor needs.
    """
    job, document = opened(folder)
    replace = dict(replace or {})
    names = {number: frame["file_path"] for number, frame in numbered(document).items()}
    for number in (*drop, *replace):
        if number not in names:
            raise BadInput(f"There is no view {number}.", f"These are there: {', '.join(map(str, names))}.")
    both = sorted(set(drop) & replace.keys())
    if both:
        raise BadInput(f"View {both[0]} cannot be dropped and replaced at once.", "Do one of the two.")
    least = _least(job)
    left = len(names) - len(set(drop))
    if drop and left < least:
        raise BadInput(
            f"The reconstructor needs {least} views, and {left} would be left.",
            "Replace the view by another picture, or make other views.",
        )
    if not drop and not replace:
        raise BadInput("Nothing is to be changed.", "Say which view to drop or to replace.")
    warnings: list[str] = []
    pictures: dict[str, Tensor] = {}
    changes: list[dict[str, Any]] = [{"view": number, "dropped": True} for number in sorted(set(drop))]
    for number, path in replace.items():
        notes: list[str] = []
        pictures[names[number]] = _fitted(job / names[number], number, Path(path), notes)
        by = {"cut_out_by": packs[0]} if (packs := further_packs(notes)) else {}
        changes.append({"view": number, "replaced_by_sha256": _sha256(Path(path)), **by})
        warnings += notes

    record_change(job, changes, pictures)
    if drop:
        kept = [frame for number, frame in numbered(document).items() if number not in drop]
        write_text(job / TRANSFORMS, json.dumps({**document, "frames": kept}, indent=1) + "\n")
        for number in drop:
            (job / names[number]).unlink(missing_ok=True)
    return edited(job, warnings)


def record_change(job: JobFolder, changes: list[dict[str, Any]], pictures: Mapping[str, Tensor]) -> None:
    """Keep aside what is there, write the new views, and put on record where they come from: the report of what is made
    of them goes on from there. pictures: file name to rgba [4, H, W]. Raises BadInput where that cannot be written."""
    job.create()
    job.keep_views()
    report = job.read_json(REPORT) or {}
    job.write_json(
        REPORT, {**report, "made": ["views"], "edited_views": [*_list(report.get("edited_views")), *changes]}
    )
    for name, rgba in pictures.items():
        write_png(job / name, rgba)


def undo(folder: Path | str) -> EditedViews:
    """Bring back the views as they were before the last change, or the picture alone where they were not made yet.

    Raises BadInput where nothing is kept.
    """
    job = JobFolder(folder)
    if not job.is_job:
        raise BadInput(f"{job.path} is no folder of a job.", "Choose the folder of a job with views.")
    job.bring_back_views()
    return edited(job, [])


def shown_picture(path: Path | str, out: Path | str, size: int = 256) -> list[str]:
    """Write what a generator will see of a picture, cut out and centred, to the .png `out`; the warnings.

    Each generator has a margin and a size of its own, so this is for looking at. Raises BadInput.
    """
    rgba, warnings = prepare_picture(load_picture(path), size, 0.9)
    write_png(out, rgba)
    return warnings


def opened(folder: Path | str) -> tuple[JobFolder, dict[str, Any]]:
    job = JobFolder(folder)
    document = job.read_json(TRANSFORMS)
    if not job.is_job or document is None or not isinstance(document.get("frames"), list):
        raise BadInput(f"{job.path} holds no views of a job.", "Make views first: python -m backend views.")
    return job, document


def numbered(document: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The frames of a job folder's own transforms.json by number. Raises BadInput where others edited it beyond use."""
    found: dict[int, dict[str, Any]] = {}
    for frame in document["frames"]:
        name = frame.get("file_path") if isinstance(frame, dict) else None
        path = Path(name) if isinstance(name, str) else Path()
        if path.parent.as_posix() != "views" or not path.stem.isdecimal() or int(path.stem) in found:
            raise BadInput(f"{TRANSFORMS} names views that no job made.", "Make the views anew.")
        found[int(path.stem)] = frame
    return found


def _least(job: JobFolder) -> int:
    recipe = (job.read_json(REQUEST) or {}).get("recipe", "starter")
    return find_recipe(recipe if isinstance(recipe, str) else "").view_count


def edited(job: JobFolder, warnings: list[str]) -> EditedViews:
    views = job.files()["views"]
    pictures = [read_image(view).rgba for view in views]
    if pictures:
        height = min(picture.shape[1] for picture in pictures)
        side_by_side = [resize(rgba, height, round(rgba.shape[2] * height / rgba.shape[1])) for rgba in pictures]
        write_png(job / PREVIEW, torch.cat(side_by_side[:24], dim=2))
    if job.has("picture"):
        write_png(job / PICTURE_PREVIEW, shown_as_seen(job / PICTURE)[0])
    return EditedViews(str(job.path), views, _least(job), job.earlier_views, warnings)


def _fitted(view: Path, number: int, picture: Path, warnings: list[str]) -> Tensor:
    """[4, H, W]: a user's picture cut out and brought to the frame of the view that it replaces."""
    old = read_image(view).rgba
    height, width = old.shape[1:]
    loaded = load_picture(picture)
    warnings.extend(loaded.warnings)
    same_size = tuple(loaded.rgba.shape[1:]) == (height, width)
    rgba = loaded.rgba if loaded.had_alpha else cut_out(loaded, warnings, picture.name)
    if float(rgba[3].max()) < 0.02:
        raise BadInput(f"{picture.name} is transparent everywhere.", "Use a picture in which an object can be seen.")
    if same_size:  # painted over, most likely: where it shows something is meant
        return resize(rgba, height, width)
    if float(old[3].max()) < 0.02:
        if height != width:
            raise BadInput(f"View {number} shows nothing to go by.", f"Use a picture of {width} x {height} pixels.")
        return prepare_picture(Picture(rgba, True), height, _EMPTY_FRACTION)[0]
    box, was = _relative_box(rgba), _relative_box(old)
    shape = rgba.shape[2] / rgba.shape[1], width / height
    if abs(shape[0] / shape[1] - 1) < 0.02 and _overlap(box, was) > _SAME_FRAMING:
        return resize(rgba, height, width)
    warnings.append(f"The object in {picture.name} was moved and scaled to stand where view {number} had it.")
    return _placed(rgba, old)


def _placed(rgba: Tensor, old: Tensor) -> Tensor:
    """The object of one picture where that of another stands: on the same ground, as high, in the middle."""
    top, bottom, left, right = object_bounds(rgba[3])
    above, below, before, after = object_bounds(old[3])
    width = old.shape[2]
    scale = min((below - above) / (bottom - top), width / (right - left))
    rows, columns = max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))
    first_row = max(0, below - rows)
    first_column = min(max(0, round((before + after - columns) / 2)), width - columns)
    placed = torch.zeros_like(old)
    placed[:, first_row : first_row + rows, first_column : first_column + columns] = resize(
        rgba[:, top:bottom, left:right], rows, columns
    )
    return placed


def _relative_box(rgba: Tensor) -> tuple[float, float, float, float]:
    """Top, bottom, left, right of the object as shares of the picture."""
    top, bottom, left, right = object_bounds(rgba[3])
    height, width = rgba.shape[1:]
    return top / height, bottom / height, left / width, right / width


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    high = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    wide = max(0.0, min(one[3], other[3]) - max(one[2], other[2]))
    areas = [(box[1] - box[0]) * (box[3] - box[2]) for box in (one, other)]
    return high * wide / max(sum(areas) - high * wide, 1e-9)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
