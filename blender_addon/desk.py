"""The views of one job on the artist's desk, or the picture they will be made of: what may be done with them before the
mesh is made. Knows no Blender.

The desk asks for nothing itself: it makes the jobs that do, and takes in what came of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .client import Failure, Problem
from .jobs import Job, State


@dataclass
class Desk:
    """views: their files. least: how many the reconstructor needs, None while unknown. earlier: changes that can be
    undone. open: whether the artist is at it; closed, the views are only to be looked at. rerolls: whether single views
    can be made anew. own: the numbers of views that the artist put there. picture: what the words became, where views
    are made of that."""

    folder: Path
    request: dict[str, Any]
    placement: dict[str, Any]
    views: list[Path] = field(default_factory=list)
    least: int | None = None
    earlier: int = 0
    open: bool = False
    rerolls: bool = False
    own: set[int] = field(default_factory=set)
    picture: Path | None = None

    @classmethod
    def of(cls, job: Job, least: int | None = None, rerolls: bool = False) -> Desk:
        """The desk with the views of a finished `generate`."""
        made = cls(job.folder, dict(job.request), dict(job.placement), least=least, rerolls=rerolls)
        made.take(job)
        return made

    def take(self, job: Job) -> None:
        """Takes in a finished job that was about this folder."""
        if job.folder != self.folder or job.state is not State.DONE or job.result is None:
            return
        if job.method.startswith("views."):
            self.own |= {int(number) for number in job.params.get("replace", ())}
            self.own = set() if job.params.get("undo") else self.own  # which one it was is not worth remembering
            self.own -= set(job.params.get("anew", ()))
            self.views = _paths(job.result.get("views"))
            self.earlier = _whole(job.result.get("earlier"), 0) or 0
            self.least = _whole(job.result.get("least"), self.least)
            return
        files = job.result.get("files")
        files = files if isinstance(files, dict) else {}
        self.views = _paths(files.get("views"))
        self.picture = next(iter(_paths([files.get("picture")])), None)
        self.request, self.own = dict(job.request), set()
        self.earlier = 0 if job.makes_object else self.earlier + (1 if job.from_stage in ("picture", "views") else 0)
        self.open = not job.makes_object

    @property
    def shown_picture(self) -> Path | None:
        """The picture as the views' generator will see it, cut out and centred."""
        return None if self.picture is None else self.picture.with_name(f"{self.picture.stem}_preview.png")

    @property
    def may_drop(self) -> bool:
        return self.least is None or len(self.views) > self.least

    def drop(self, number: int) -> Job:
        return self._edit(drop=[number])

    def replace(self, number: int, picture: str) -> Job:
        """Raises Problem where there is no such picture."""
        _check_picture(picture)
        return self._edit(replace={str(number): picture})

    def reroll(self, number: int, seed: int) -> Job:
        """One view anew, to fit the others."""
        return self._reroll([number], seed)

    def fit_others(self, seed: int) -> Job:
        """All views anew that are not the artist's own, to fit these."""
        return self._reroll([number for number in map(number_of, self.views) if number not in self.own], seed)

    @property
    def may_fit(self) -> bool:
        return self.rerolls and 0 < len(self.own) < len(self.views)

    def undo(self) -> Job:
        return self._edit(undo=True)

    def others(self, seed: int) -> Job:
        """All views anew, of another seed."""
        request = {**self.request, "seed": seed}
        return Job(request, self.folder, dict(self.placement), from_stage="views", to_stage="views")

    def other_picture(self, seed: int) -> Job:
        """Another picture of the same words."""
        request = {**self.request, "seed": seed}
        return Job(request, self.folder, dict(self.placement), from_stage="picture", to_stage="picture")

    def use_picture(self, picture: str) -> Job:
        """The views of a picture of the artist's. Raises Problem where there is none."""
        _check_picture(picture)
        request = {name: value for name, value in self.request.items() if name != "prompt"}
        request["image"] = picture
        return Job(request, self.folder, dict(self.placement), from_stage="views", to_stage="views")

    def views_of_picture(self) -> Job:
        """The views of the picture that is here."""
        return Job(dict(self.request), self.folder, dict(self.placement), from_stage="views", to_stage="views")

    def mesh(self, settings: Mapping[str, Any], placement: dict[str, Any]) -> Job:
        """The mesh of the views that are here, or of those of the picture. settings: the mesh's, which may have changed
        since."""
        wanted = {name: settings[name] for name in ("faces", "texture_size") if name in settings}
        begin = "gaussians" if self.views else "views"
        return Job({**self.request, **wanted}, self.folder, placement, from_stage=begin)

    def _edit(self, **what: Any) -> Job:
        params = {"folder": str(self.folder), **what}
        return Job(self.request, self.folder, dict(self.placement), method="views.edit", params=params)

    def _reroll(self, numbers: list[int], seed: int) -> Job:
        params = {"folder": str(self.folder), "anew": numbers, "seed": seed}
        return Job(self.request, self.folder, dict(self.placement), method="views.reroll", params=params)


def number_of(view: Path) -> int:
    """By which the backend calls a view: views/002.png is 2."""
    return int(view.stem) if view.stem.isdecimal() else -1


def _check_picture(picture: str) -> None:
    if not Path(picture).is_file():
        raise Problem(Failure("bad_input", f"The picture {picture} does not exist.", "Choose another picture."))


def _paths(names: Any) -> list[Path]:
    return [Path(name) for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _whole(value: Any, default: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else default
