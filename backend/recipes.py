"""Recipes: which generator feeds which reconstructor, and how both are best run. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from backend.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from backend.datatypes import Gaussians, Step, Views


class ViewGenerator(Protocol):
    """Text or one picture to posed views; see backend.views.dmv3d.Dmv3dGenerator."""

    object_fraction: float

    @property
    def image_size(self) -> int: ...

    def unknown_words(self, prompt: str) -> list[str]: ...

    def generate(
        self, prompt: str | None = None, image: Tensor | None = None, *, seed: int, steps: int, guidance: float
    ) -> Generator[Step, None, Views]: ...


class Reconstructor(Protocol):
    """Posed views to Gaussians; see backend.reconstruct.lgm.LgmReconstructor."""

    def reconstruct(self, views: Views) -> Generator[Step, None, Gaussians]: ...


@dataclass(frozen=True)
class Recipe:
    """A generator, a reconstructor and their settings.

    packs: the weights both need, in the order generator, reconstructor. view_count, view_size, radius, fov_degrees:
    the views that the reconstructor was trained on; posed pictures from outside are brought to them.
    seconds: what each stage takes on two CPU cores, for the first estimate of the time left.
    """

    name: str
    title: str
    load_generator: Callable[[str], ViewGenerator]
    load_reconstructor: Callable[[str], Reconstructor]
    packs: tuple[str, str]
    steps: int
    guidance: float
    view_count: int
    view_size: int
    radius: float
    fov_degrees: float
    seconds: dict[str, float]


def _starter_generator(device: str) -> ViewGenerator:
    from backend.views.dmv3d import Dmv3dGenerator

    return Dmv3dGenerator.load(device=device)


def _starter_reconstructor(device: str) -> Reconstructor:
    from backend.reconstruct.lgm import LgmReconstructor

    return LgmReconstructor.load(device=device)


RECIPES: dict[str, Recipe] = {
    "starter": Recipe(
        name="starter",
        title="Starter: small models trained on everyday things, on any machine",
        load_generator=_starter_generator,
        load_reconstructor=_starter_reconstructor,
        packs=("dmv3d", "lgm"),
        steps=25,
        guidance=1.5,
        view_count=4,
        view_size=128,
        radius=3.0,
        fov_degrees=50.0,
        seconds={"views": 12.0, "reconstruct": 3.0, "surface": 6.0, "texture": 10.0, "export": 1.0},
    )
}


def find_recipe(name: str) -> Recipe:
    """Raises BadInput for a name that no recipe has."""
    if name not in RECIPES:
        raise BadInput(f"There is no recipe called '{name[:40]}'.", f"Use one of: {', '.join(RECIPES)}.")
    return RECIPES[name]
