"""Views of a job folder made anew, to fit those that stay. Only by generators that can start from other views."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.datatypes import Step, Views
from backend.errors import BadInput
from backend.formats.transforms_json import read_views
from backend.job.editing import EditedViews, edited, numbered, opened, record_change
from backend.job.jobfolder import REPORT, REQUEST, TRANSFORMS, JobFolder
from backend.job.models import Models
from backend.job.request import Request
from backend.recipes import Recipe, find_recipe


def reroll_views(
    folder: Path | str, anew: Sequence[int], seed: int, models: Models, device: str
) -> Generator[Step, None, EditedViews]:
    """Make the views with these numbers anew; the others stay as they are. Nothing changes before all is computed.

    Raises BadInput for a folder without views, numbers that no view has, a seed out of range, a recipe that cannot do
    it, or where no view stays; MissingWeights.
    """
    job, document = opened(folder)
    numbers = list(numbered(document))
    anew = sorted(set(anew))
    unknown = [number for number in anew if number not in numbers]
    if unknown or not anew:
        what = f"There is no view {unknown[0]}." if unknown else "No view to be made anew was named."
        raise BadInput(what, f"These are there: {', '.join(map(str, numbers))}.")
    if len(anew) == len(numbers):
        raise BadInput("To go by, at least one view has to stay.", "Make all views anew instead.")
    request = replace(Request.from_json(job.read_json(REQUEST)), seed=seed)  # checks it
    recipe = find_recipe(request.recipe)
    way = {"prompt": recipe.from_text, "image": recipe.from_picture}.get(request.source or "")
    if way is None or not way.rerolls:
        raise BadInput(
            "Single views are made anew only by DMV3D, of words or a picture.", "Make all views anew instead."
        )
    views = read_views(job / TRANSFORMS)
    walk = _walk(job, request, recipe, models, device, views, [numbers.index(number) for number in anew])
    try:
        made = yield from walk
    finally:
        walk.close()
    names = [frame["file_path"] for frame in numbered(document).values()]
    pictures = {names[numbers.index(number)]: made.rgba[numbers.index(number)] for number in anew}
    record_change(job, [{"view": number, "made_anew_with_seed": seed} for number in anew], pictures)
    return edited(job, [])


def _walk(
    job: JobFolder,
    request: Request,
    recipe: Recipe,
    models: Models,
    device: str,
    views: Views,
    anew: list[int],
) -> Generator[Step, None, Views]:
    from backend.views.dmv3d import Dmv3dGenerator
    from backend.views.reroll import reroll

    pictured = request.image is not None
    generation = recipe.generation(pictured)
    generator: Any = models.generator(recipe, device, pictured, bool(request.random_weights))
    given = next(place for place in _by_weight(job, len(views)) if place not in anew)
    steps = request.steps if request.steps is not None else generation.steps
    guidance = request.guidance if request.guidance is not None else generation.guidance
    options: dict[str, Any] = {"seed": request.seed, "steps": steps, "guidance": guidance}
    if isinstance(generator, Dmv3dGenerator):
        return reroll(generator, views, anew, given, request.prompt, **options)
    made: Generator[Step, None, Views] = generator.reroll(views, anew, given, request.prompt, **options)
    return made


def _by_weight(job: JobFolder, count: int) -> list[int]:
    """The places of the views, those first that the user put there last: what is made anew should go by them."""
    changes = (job.read_json(REPORT) or {}).get("edited_views")
    names = list(numbered(opened(job.path)[1]))
    replaced = [
        names.index(change["view"])
        for change in reversed(changes if isinstance(changes, list) else [])
        if isinstance(change, dict) and "replaced_by_sha256" in change and change.get("view") in names
    ]
    return list(dict.fromkeys([*replaced, *range(count)]))
