"""Before a job begins: which results it makes, of which stages, and how long each should take."""

from __future__ import annotations

from pathlib import Path

from backend.errors import BadInput
from backend.job.clock import Work
from backend.job.jobfolder import TRANSFORMS, JobFolder
from backend.job.request import RESULTS, Request
from backend.recipes import Recipe

STAGES_OF = {
    "picture": ("picture",),
    "views": ("views",),
    "gaussians": ("reconstruct",),
    "mesh": ("surface", "texture", "export"),
}
_SECONDS_A_STEP = 0.15  # of refining, before it is known


def plan_of(request: Request, folder: JobFolder, from_stage: str | None, to_stage: str | None) -> list[str]:
    """The results to make, from the first to the last, checked against the request and the folder before anything is
    touched. Raises BadInput."""
    for name, value in (("from_stage", from_stage), ("to_stage", to_stage)):
        if value is not None and value not in RESULTS:
            raise BadInput(f"{name} cannot be '{str(value)[:40]}'.", f"Use one of {', '.join(RESULTS)}.")
    begin = request.first_result
    first, last = RESULTS.index(from_stage or begin), RESULTS.index(to_stage or "mesh")
    if first < RESULTS.index(begin):
        raise BadInput(f"A job that begins with {begin} has no {RESULTS[first]} to make.", f"Begin with {begin}.")
    if last < first:
        raise BadInput(
            f"A job cannot begin with the {RESULTS[first]} and end with the {RESULTS[last]}.", "Let it end later."
        )
    if from_stage is None or from_stage == begin:
        request.check_source()
    elif not folder.has(RESULTS[first - 1]):
        raise BadInput(f"{folder.path} holds no {RESULTS[first - 1]} to go on from.", "Begin with an earlier stage.")
    plan = list(RESULTS[first : last + 1])
    if request.cameras is not None and "views" in plan and _same(Path(request.cameras), folder / TRANSFORMS):
        raise BadInput(
            f"The cameras lie in the output folder {folder.path}, where they would be overwritten.",
            "Choose another folder, or go on from its views with from_stage gaussians.",
        )
    return plan


def _same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, by whatever way."""
    try:
        return one == other or one.samefile(other)
    except OSError:  # one of them is not there
        return False


def work_of(plan: list[str], request: Request, recipe: Recipe, device: str) -> dict[str, Work]:
    """What the stages of a plan do, for the estimate of their time."""
    return {stage: _work(stage, request, recipe, device) for result in plan for stage in STAGES_OF[result]}


def _work(stage: str, request: Request, recipe: Recipe, device: str) -> Work:
    guess = recipe.seconds.get(stage, 0.0)
    where = f"{device} untrained" if request.random_weights else device
    if stage == "picture" and recipe.picture_making is not None:
        making = recipe.picture_making
        return Work(stage, (making.pack, where), making.seconds, making.steps, device)
    if stage == "views":
        if request.cameras is not None:
            return Work(stage, ("pictures",), guess)
        way, steps = recipe.generation(request.image is not None), request.steps
        steps = way.steps if steps is None else steps
        return Work(stage, (recipe.name, way.pack, where), way.seconds * steps / way.steps, steps, device)
    if stage == "reconstruct":
        if request.gaussians is not None:
            return Work(stage, ("file",), guess)
        if request.refine_steps is not None:
            return Work(stage, ("refine",), _SECONDS_A_STEP * request.refine_steps, request.refine_steps)
        return Work(stage, (recipe.name, recipe.pack, where), guess, device=device)
    return Work(stage, (recipe.name,), guess)
