"""The folder of one job: its names, what of it is there, and how it is written so that no half file is ever seen."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from backend.errors import BadInput
from backend.formats.whole_file import TEMPORARY_PREFIX, write_text, writing_failed
from backend.job import earlier

REQUEST, REPORT = "request.json", "report.json"
TRANSFORMS, GAUSSIANS = "transforms.json", "gaussians.ply"
MESH_ARRAYS, MESH_GLB, BASE_COLOR = "mesh.npz", "mesh.glb", "base_color.png"
# Further files of the mesh, by the names by which a request asks for them. An .obj finds its picture beside it.
MESH_FORMATS: dict[str, tuple[str, ...]] = {
    "obj": ("mesh.obj", "mesh.mtl"),
    "stl": ("mesh.stl",),  # millimetres, Z up, for printers
    "ply": ("mesh.ply",),  # a colour at each vertex
    "glb-colors": ("mesh_colors.glb",),  # the same: no texture
}
_FURTHER = tuple(name for names in MESH_FORMATS.values() for name in names)
PREVIEW = "views_preview.png"  # the views side by side, also while they are being made
# What words were made into for a generator that sees pictures alone, and how such a generator will see it.
PICTURE, PICTURE_PREVIEW = "imagined.png", "imagined_preview.png"
_VIEW_NAME = re.compile(r"\d{3,4}\.png")
# What is removed when a result is made anew: what was made from the old one, so that no folder shows a mixture. The
# views' cameras go first and come back last: without them there are no views.
_OUTDATED: dict[str, tuple[str, ...]] = {
    "picture": (TRANSFORMS, GAUSSIANS, MESH_ARRAYS, MESH_GLB, BASE_COLOR, *_FURTHER, REPORT),
    "views": (TRANSFORMS, GAUSSIANS, MESH_ARRAYS, MESH_GLB, BASE_COLOR, *_FURTHER, REPORT),
    "gaussians": (MESH_ARRAYS, MESH_GLB, BASE_COLOR, *_FURTHER, REPORT),
    "mesh": (*_FURTHER, REPORT),
}


class JobFolder:
    """Paths in a job folder; nothing is touched before `create`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser().absolute()
        self._made: list[Path] = []  # folders that `create` made, the outer one first

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def is_job(self) -> bool:
        """Whether a job was begun here."""
        return (self / REQUEST).is_file()

    def create(self, keep: Path | None = None) -> None:
        """Make the folder fit to be written to, and remove what a killed process left unfinished.

        keep: a source file of the user's that may lie here. Raises BadInput where it cannot be written, or where it
        holds files of the same names that no job made: those are somebody's data.
        """
        try:
            if not self.is_job:
                self._refuse_foreign(keep)
            for folder in (self.path, self / "views"):
                if not folder.exists():
                    folder.mkdir(parents=True)
                    self._made.append(folder)
            for folder in (self.path, self / "views"):
                for left in folder.glob(TEMPORARY_PREFIX + "*"):
                    left.unlink(missing_ok=True)
        except OSError as error:
            raise writing_failed(self.path, error) from error
        except ValueError as error:  # a null character in the path
            raise BadInput("The path of the output folder makes no sense.", "Choose another folder.") from error

    def _refuse_foreign(self, keep: Path | None) -> None:
        names = (PICTURE, TRANSFORMS, GAUSSIANS, MESH_ARRAYS, MESH_GLB, BASE_COLOR, *_FURTHER, REPORT)
        found = [name for name in names if (self / name).exists() and (self / name) != keep]
        found += [f"views/{view.name}" for view in self._view_files()]
        if found:
            raise BadInput(
                f"{self.path} already holds {found[0]}, which no job made and which would be overwritten.",
                "Choose an empty or a new folder.",
            )

    def _view_files(self) -> list[Path]:
        try:
            return sorted(view for view in (self / "views").iterdir() if _VIEW_NAME.fullmatch(view.name))
        except OSError:
            return []

    def view_names(self, count: int) -> list[str]:
        """The names of `count` views, relative to the folder."""
        return [f"views/{index:03d}.png" for index in range(count)]

    def format_paths(self, name: str) -> list[Path]:
        """The files of one of MESH_FORMATS."""
        return [self / file for file in MESH_FORMATS[name]]

    def has(self, result: str) -> bool:
        """Whether a result ("picture", "views", "gaussians", "mesh") is there."""
        name = {"picture": PICTURE, "views": TRANSFORMS, "gaussians": GAUSSIANS, "mesh": MESH_ARRAYS}[result]
        return (self / name).is_file()

    def begin_result(self, result: str, keep: Path | None = None, first: bool = True) -> None:
        """Call it when `result` is about to be renamed into place: removes what it outdates, but not `keep`.

        first: whether it is the first that this job makes. Then a picture and views that were there are kept aside, and
        can be brought back until a mesh is made.
        """
        if result in ("picture", "views") and self.is_job and first and (self.has("picture") or self.has("views")):
            self.keep_views()
        elif result == "mesh":
            earlier.forget(self.path)
        with contextlib.suppress(OSError):
            for name in _OUTDATED[result]:
                if (self / name) != keep:
                    (self / name).unlink(missing_ok=True)
        if result == "picture":
            self.drop_extra_views(0)

    def keep_views(self) -> None:
        """Put copies of picture and views aside and move there what was made from them. Raises BadInput."""
        views = [f"views/{view.name}" for view in self._view_files()]
        later = [name for name in _OUTDATED["views"] if name not in (TRANSFORMS, REPORT)]
        earlier.keep(self.path, [REQUEST, REPORT, PICTURE, TRANSFORMS, *views], later)

    def bring_back_views(self) -> None:
        """Undo the last change to the views. Raises BadInput where none is kept."""
        if not self.earlier_views:
            raise BadInput("There is no earlier version of these views.", "They are kept until the mesh is made.")
        step = earlier.steps(self.path)[-1]
        for name in (*_OUTDATED["views"], PICTURE, PICTURE_PREVIEW):
            (self / name).unlink(missing_ok=True)
        for view in self._view_files():
            if not (step / "views" / view.name).is_file():
                view.unlink(missing_ok=True)
        earlier.bring_back(self.path, last=TRANSFORMS)

    @property
    def earlier_views(self) -> int:
        """How many changes to the views can be undone."""
        return len(earlier.steps(self.path))

    def remove_if_empty(self) -> None:
        """After a job that came to nothing: remove what `create` made, unless there is a result in it."""
        if not self._made or self.is_job:
            return
        with contextlib.suppress(OSError):
            for preview in (PREVIEW, PICTURE_PREVIEW):
                (self / preview).unlink(missing_ok=True)
            for folder in reversed(self._made):
                folder.rmdir()

    def drop_extra_views(self, count: int) -> None:
        """Remove views beyond the first `count`, left by a job that had more."""
        keep = {Path(name).name for name in self.view_names(count)}
        with contextlib.suppress(OSError):
            for view in self._view_files():
                if view.name not in keep:
                    view.unlink()

    def drop_picture(self) -> None:
        """Remove the picture that words were made into, left by a job that needed one."""
        with contextlib.suppress(OSError):
            for name in (PICTURE, PICTURE_PREVIEW):
                (self / name).unlink(missing_ok=True)

    def write_json(self, name: str, document: dict[str, Any]) -> None:
        """Raises BadInput where the file cannot be written."""
        write_text(self / name, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The document, or None where there is none that can be read."""
        try:
            document = json.loads((self / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return document if isinstance(document, dict) else None

    def files(self) -> dict[str, Any]:
        """Absolute paths of the results that are there, by the names that the wire uses."""
        names = {
            "picture": PICTURE,
            "transforms": TRANSFORMS,
            "gaussians": GAUSSIANS,
            "mesh_npz": MESH_ARRAYS,
            "mesh_glb": MESH_GLB,
            "base_color": BASE_COLOR,
            "report": REPORT,
            **{f"mesh_{name.replace('-', '_')}": names[0] for name, names in MESH_FORMATS.items()},
        }
        found: dict[str, Any] = {key: str(self / name) for key, name in names.items() if (self / name).is_file()}
        return {"views": [str(view) for view in self._view_files()], **found}

    def sizes(self) -> dict[str, int]:
        """Bytes of each result, by file name."""
        paths = [self / name for name in (GAUSSIANS, MESH_ARRAYS, MESH_GLB, BASE_COLOR, *_FURTHER)]
        sizes = {path.name: path.stat().st_size for path in paths if path.is_file()}
        return {**sizes, "views": sum(view.stat().st_size for view in self._view_files())}
