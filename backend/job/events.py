"""What a running job tells whoever walks it. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

STAGES = ("picture", "views", "reconstruct", "surface", "texture", "export")


@dataclass(frozen=True)
class Progress:
    """fraction: done of the stage, overall: of the job, both in [0, 1]; eta: seconds left, None while unknown."""

    stage: str
    fraction: float
    overall: float
    step: int
    steps: int
    message: str
    eta: float | None


@dataclass(frozen=True)
class Preview:
    """A file worth showing now. kind: "picture" (a .png of what words became, as a generator of views will see it),
    "views" (a .png of the views side by side) or "mesh" (mesh.npz)."""

    kind: str
    path: str


@dataclass(frozen=True)
class Warned:
    """A sentence the user should see; the job goes on."""

    message: str


@dataclass(frozen=True)
class Done:
    """The job's end. files: absolute paths by name (`views` is a list); as the answer to `generate`."""

    folder: str
    files: dict[str, Any]
    warnings: list[str]
    seconds: float


Event = Progress | Preview | Warned | Done
