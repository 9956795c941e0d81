"""What a recipe is: which generator feeds which reconstructor, and how both are best run. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from backend.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from backend.datatypes import Gaussians, Step, Views


class ViewGenerator(Protocol):
    """Text or one picture to posed views; see backend.views.dmv3d.Dmv3dGenerator.

    image_size, object_fraction: the side of the square picture it takes, and the share of it that the object's larger
    side should fill. notes: what of a prompt is ignored, what of a prepared picture is doubtful; raises BadInput where
    nothing is left of the prompt.
    """

    object_fraction: float

    @property
    def image_size(self) -> int: ...

    def notes(self, prompt: str | None, image: Tensor | None) -> list[str]: ...

    def generate(
        self, prompt: str | None = None, image: Tensor | None = None, *, seed: int, steps: int, guidance: float
    ) -> Generator[Step, None, Views]: ...


class PictureMaker(Protocol):
    """Words to a picture [3, S, S]; see backend.views.text_to_image.TextToImage.

    wording: what the model is asked for. notes: what of the prompt is ignored.
    """

    def notes(self, prompt: str) -> list[str]: ...

    def wording(self, prompt: str) -> str: ...

    def generate(self, prompt: str, *, seed: int, steps: int, guidance: float) -> Generator[Step, None, Tensor]: ...


class Reconstructor(Protocol):
    """Posed views to Gaussians; see backend.reconstruct.lgm.LgmReconstructor. What a user should know goes into
    `warnings`."""

    def reconstruct(self, views: Views, warnings: list[str]) -> Generator[Step, None, Gaussians]: ...


@dataclass(frozen=True)
class PictureMaking:
    """How words become a picture, for generators that see pictures alone. Fields as of `Generation`."""

    load: Callable[[str], PictureMaker]
    pack: str
    steps: int
    guidance: float
    seconds: float
    load_untrained: Callable[[str], PictureMaker] | None = None


@dataclass(frozen=True)
class Generation:
    """How a recipe comes to its views: a generator, its weights, and how it is best run.

    pack: its weights; also: further packs that take part. load_untrained: the same generator with random weights, None
    where its own are always there. seconds: what it takes on two CPU cores, for the first estimate of the time left.
    rerolls: it can make single views anew, to fit the others. picture: makes of the words what the generator sees.
    """

    load: Callable[[str], ViewGenerator]
    pack: str
    steps: int
    guidance: float
    seconds: float
    load_untrained: Callable[[str], ViewGenerator] | None = None
    also: tuple[str, ...] = ()
    rerolls: bool = False
    picture: PictureMaking | None = None


@dataclass(frozen=True)
class Recipe:
    """A generator for words, one for a picture (perhaps the same), a reconstructor, and their settings.

    from_text, from_picture: None where the recipe makes no views of such a source; where both are, it takes posed
    pictures only. pack: the reconstructor's weights. load_untrained: the reconstructor with random weights, None where
    its own are always there. view_count, view_size, radius, fov_degrees: the views that the reconstructor was trained
    on; posed pictures from outside are brought to them. most_views: how many of those it can use. seconds: what each
    stage takes on two CPU cores, for the first estimate of the time left. memory: bytes that a whole job took on a CPU
    at the most, where that was measured; what is known of published weights is in backend.memory.
    """

    name: str
    title: str
    from_text: Generation | None
    from_picture: Generation | None
    load_reconstructor: Callable[[str], Reconstructor]
    pack: str
    view_count: int
    view_size: int
    radius: float
    fov_degrees: float
    seconds: dict[str, float]
    most_views: int | None = None
    load_untrained: Callable[[str], Reconstructor] | None = None
    memory: int | None = None

    def generation(self, pictured: bool) -> Generation:
        """How views are made of a picture, or of words alone. Raises BadInput where the recipe cannot."""
        found, other = (self.from_picture, self.from_text) if pictured else (self.from_text, self.from_picture)
        if found is not None:
            return found
        if other is not None:
            wanted, lacking = ("words", "a picture") if pictured else ("a picture", "words alone")
            raise BadInput(
                f"The recipe '{self.name}' makes no views from {lacking}.", f"Give it {wanted}, or use another recipe."
            )
        raise BadInput(
            f"The recipe '{self.name}' makes no views from words or a picture.",
            "Give it posed pictures (reconstruct --cameras), or use the recipe 'starter'.",
        )

    @property
    def picture_making(self) -> PictureMaking | None:
        """How a picture is made of words before anything else, where this recipe's generator sees pictures alone."""
        return None if self.from_text is None else self.from_text.picture

    def packs(self, pictured: bool) -> list[str]:
        """The weights that take part in making an object of a picture, or of words alone, in order; empty where the
        recipe takes no such source."""
        way = self.from_picture if pictured else self.from_text
        if way is None:
            return []
        first = [way.picture.pack] if way.picture is not None else []
        return list(dict.fromkeys([*first, way.pack, *way.also, self.pack]))

    def used_views(self, available: int) -> int:
        """How many of so many posed pictures are used; what is too few is for `best_spread` to refuse."""
        return max(self.view_count, min(available, self.most_views or self.view_count))
