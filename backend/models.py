"""Loaded networks and measured times, kept from job to job within one process, as long as there is room for them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from backend.clock import Timings
from backend.datatypes import Step
from backend.device import inference_dtype
from backend.memory import GIB, NEEDS, check_weights_fit, free_memory, give_back, is_short, retried, shares_memory
from backend.packs import PUBLISHED
from backend.recipes import Generation, PictureMaker, PictureMaking, Recipe, Reconstructor, ViewGenerator

T = TypeVar("T")
_FOR_A_MESH = 2 * GIB  # bytes of the machine's memory that the stages after the networks are sure to do with


class Models:
    """Loads a recipe's networks when they are first needed, and lets go of what is in the way: another recipe's, and
    where memory is short those of another stage. timings: what stages took. free: how much memory a device has."""

    def __init__(self, free: Callable[[str], int | None] = free_memory) -> None:
        # By recipe, weights, and device.
        self._generators: dict[tuple[str, str, str], Any] = {}  # of views, and of the picture before them
        self._reconstructors: dict[tuple[str, str, str], Reconstructor] = {}
        self._free = free
        self.timings = Timings()

    def generator(self, recipe: Recipe, device: str, pictured: bool, untrained: bool = False) -> ViewGenerator:
        """pictured: the one for a picture, not for words alone. untrained: with random weights.

        Raises MissingWeights where the weights are absent, BadInput where the recipe has no such generator, and
        OutOfMemory where they cannot fit into the machine's memory.
        """
        generator: ViewGenerator = self._generator(recipe.name, recipe.generation(pictured), device, untrained)
        return generator

    def picture_maker(self, making: PictureMaking, device: str, untrained: bool = False) -> PictureMaker:
        """What makes pictures of words, whichever the recipe. Raises as `generator` does."""
        maker: PictureMaker = self._generator("", making, device, untrained)
        return maker

    def _generator(self, name: str, generation: Generation | PictureMaking, device: str, untrained: bool) -> Any:
        load = generation.load_untrained if untrained and generation.load_untrained else generation.load
        key = (name, generation.pack, _place(device, untrained))
        found = self._generators.get(key)
        if found is None:
            self._generators.clear()
        if found is None or _lies_apart(found):
            self._make_room(generation.pack, device, _half_size(device), self._reconstructors, found is None)
        if found is None:
            found = self._generators[key] = load(device)
        return found

    def reconstructor(self, recipe: Recipe, device: str, untrained: bool = False) -> Reconstructor:
        """untrained: with random weights. Raises MissingWeights where the recipe's weights are absent, OutOfMemory
        where they cannot fit into the machine's memory."""
        key = (recipe.name, recipe.pack, _place(device, untrained))
        if key not in self._reconstructors:
            self._reconstructors.clear()
            self._make_room(recipe.pack, device, inference_dtype(device).itemsize, self._generators, True)
            load = recipe.load_untrained if untrained and recipe.load_untrained else recipe.load_reconstructor
            self._reconstructors[key] = load(device)
        return self._reconstructors[key]

    def trying(self, stage: str, walk: Callable[[], Generator[Step, None, T]]) -> Generator[Step, None, T]:
        """Walks walk(), a network's work of the stage "views" or "reconstruct". Where memory runs out, what the stage
        does not need is let go, or its parts come to the GPU in turns, and it all begins again."""
        return retried(walk, lambda: self._spare(stage))

    def make_room_for_mesh(self) -> None:
        """The networks are done: they go where the machine's memory is short."""
        free = self._free("cpu")
        if free is not None and free < _FOR_A_MESH:
            self.release()

    def rest(self) -> None:
        """No job is waiting: a GPU's memory is left to others, such as Cycles. What is large goes to the machine's
        memory, from where it is back in a second, or where that is short, altogether."""
        generators, reconstructors = self._generators.items(), self._reconstructors.items()
        self._generators = {key: each for key, each in generators if _harmless(key) or self._set_aside(each)}
        self._reconstructors = {key: each for key, each in reconstructors if _harmless(key)}  # quickly read again
        give_back()

    def release(self) -> None:
        """Let go of everything."""
        self._generators.clear()
        self._reconstructors.clear()
        give_back()

    def _make_room(self, pack: str, device: str, itemsize: int, others: dict[Any, Any], loads: bool) -> None:
        """Before the weights of a pack come to a device. loads: they come from the disk."""
        need = NEEDS.get(pack)
        if need is None:
            return
        if others and is_short(need, itemsize, self._free(device)):
            for key in [key for key, other in others.items() if device == "cpu" or not self._set_aside(other)]:
                del others[key]
            give_back()
        if loads and device == "cpu":
            check_weights_fit(PUBLISHED[pack].title.split(":")[0], need, itemsize, self._free(device))

    def _set_aside(self, model: Any) -> bool:
        """Take a generator from the GPU to the machine's memory; False where that is short, or it cannot be moved."""
        residence = getattr(model, "residence", None)
        if residence is None:
            return False
        free = self._free("cpu")
        if residence.apart and not _lies_apart(model) and free is not None and free < residence.bytes() + _FOR_A_MESH:
            return False
        residence.leave()
        return True

    def _spare(self, stage: str) -> bool:
        others: dict[Any, Any] = self._reconstructors if stage == "views" else self._generators
        if others:
            others.clear()
            return True
        residences = [getattr(each, "residence", None) for each in self._generators.values()]
        return stage == "views" and any(residence is not None and residence.thriftier() for residence in residences)


def _lies_apart(model: Any) -> bool:
    """Whether a generator's parts all lie in the machine's memory, and it works elsewhere."""
    residence = getattr(model, "residence", None)
    return residence is not None and residence.apart and residence.way is None


def _place(device: str, untrained: bool) -> str:
    return f"{device} untrained" if untrained else device


def _harmless(key: tuple[str, str, str]) -> bool:
    """Whether a model that does nothing holds nothing of a GPU's memory, or next to nothing."""
    return key[1] not in NEEDS or shares_memory(key[2].split()[0])


def _half_size(device: str) -> int:
    import torch

    return inference_dtype(device, torch.float16).itemsize
