"""The first stages of a job that begins with words or a picture: the recipe's networks, ready to be walked."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from torch import Tensor

from backend.datatypes import Step, Views
from backend.errors import BadInput
from backend.job.imagined import prepared
from backend.job.models import Models
from backend.job.report import Report
from backend.job.request import Request
from backend.packs import PUBLISHED
from backend.recipes import Recipe
from backend.views.picture import load_picture, prepare_picture
from backend.weights import missing_weights


def untrained_notes(request: Request, recipe: Recipe) -> list[str]:
    """What to say where a published model runs without its weights."""
    words = f"{recipe.name} runs with random weights: what it makes means nothing."
    return [words] if request.random_weights else []


def check_weights(request: Request, recipe: Recipe, plan: list[str]) -> None:
    """Before anything is spent on a job: whether all weights are there that it surely needs. Raises MissingWeights."""
    packs = []
    if "picture" in plan and recipe.picture_making is not None:
        packs.append(recipe.picture_making.pack)
    if "views" in plan and request.cameras is None:
        packs.append(recipe.generation(request.image is not None).pack)
    if "gaussians" in plan and request.gaussians is None and request.refine_steps is None:
        packs.append(recipe.pack)
    missing = [PUBLISHED[pack] for pack in packs if pack in PUBLISHED and not PUBLISHED[pack].usable]
    if missing and not request.random_weights:
        raise missing_weights(*missing)


def begin_picture(
    request: Request, recipe: Recipe, models: Models, report: Report, device: str
) -> tuple[Generator[Step, None, Tensor], list[str]]:
    """The walk that makes a picture [3, S, S] of the words, and what the user should know before it begins.

    Raises MissingWeights, and BadInput where the recipe needs no such picture.
    """
    making, prompt = recipe.picture_making, request.prompt
    if making is None or prompt is None:
        raise BadInput(f"The recipe '{recipe.name}' makes no picture of words.", "Begin with the views.")
    maker = models.picture_maker(making, device, bool(request.random_weights))
    if not request.random_weights:
        report.use_pack(making.pack)
    steps, guidance = making.steps, making.guidance
    report.picture = {
        "model": making.pack, "wording": maker.wording(prompt), "seed": request.seed, "steps": steps,
        "guidance": guidance,
    }  # fmt: skip

    def walk() -> Generator[Step, None, Tensor]:
        return maker.generate(prompt, seed=request.seed, steps=steps, guidance=guidance)

    return models.trying("picture", walk), untrained_notes(request, recipe) + maker.notes(prompt)


def begin_views(
    request: Request, recipe: Recipe, models: Models, report: Report, device: str, imagined: Path | None = None
) -> tuple[Generator[Step, None, Views], list[str]]:
    """The walk that makes the views, and what the user should know before it begins. imagined: the picture that the
    words became, for a generator that sees pictures alone.

    Raises MissingWeights, and BadInput where the recipe takes no such source, or where picture or prompt say nothing.
    """
    pictured, untrained = request.image is not None, bool(request.random_weights)
    generation = recipe.generation(pictured)
    generator = models.generator(recipe, device, pictured, untrained)
    if not untrained:
        for pack in (generation.pack, *generation.also, *getattr(generator, "further_packs", ())):
            report.use_pack(pack)
    steps = request.steps if request.steps is not None else generation.steps
    guidance = request.guidance if request.guidance is not None else generation.guidance
    report.sampling = {"steps": steps, "guidance": guidance}
    notes, image = untrained_notes(request, recipe), None
    prompt = request.prompt
    if imagined is not None:
        prompt = None  # its words are in the picture
        image, more = prepared(imagined, generator.image_size, generator.object_fraction)
        notes += more
    elif request.image is not None:
        image, more = prepare_picture(load_picture(request.image), generator.image_size, generator.object_fraction)
        notes += more
    notes += generator.notes(prompt, image)

    def walk() -> Generator[Step, None, Views]:
        return generator.generate(prompt, image, seed=request.seed, steps=steps, guidance=guidance)

    return models.trying("views", walk), notes
