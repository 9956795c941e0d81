"""Loaded networks and measured times, kept from job to job within one process, as long as there is room for them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from backend.datatypes import Step
from backend.device import inference_dtype
from backend.job.clock import Timings
from backend.memory import GIB, NEEDS, check_weights_fit, free_memory, give_back, is_short, retried, shares_memory
from backend.packs import PUBLISHED
from backend.recipes import PictureMaker, PictureMaking, Recipe, Reconstructor, ViewGenerator

T = TypeVar("T")
M = TypeVar("M")
Key = tuple[str, str, str]  # recipe, weights, device
_FOR_A_MESH = 2 * GIB  # bytes of the machine's memory that the stages after the networks are sure to do with


class Models:
    """Loads a recipe's networks when they are first needed, and lets go of what is in the way: another recipe's, and
    where memory is short those of another stage. timings: what stages took. free: how much memory a device has."""

    def __init__(self, free: Callable[[str], int | None] = free_memory) -> None:
        self._makers: dict[Key, PictureMaker] = {}
        self._generators: dict[Key, ViewGenerator] = {}
        self._reconstructors: dict[Key, Reconstructor] = {}
        self._free = free
        self.timings = Timings()

    def generator(self, recipe: Recipe, device: str, pictured: bool, untrained: bool = False) -> ViewGenerator:
        """pictured: the one for a picture, not for words alone. untrained: with random weights.

        Raises MissingWeights where the weights are absent, BadInput where the recipe has no such generator, and
        OutOfMemory where they cannot fit into the machine's memory.
        """
        generation = recipe.generation(pictured)
        load = generation.load_untrained if untrained and generation.load_untrained else generation.load
        key = (recipe.name, generation.pack, _place(device, untrained))
        return self._found(self._generators, key, device, _half_size(device), load)

    def picture_maker(self, making: PictureMaking, device: str, untrained: bool = False) -> PictureMaker:
        """What makes pictures of words, whichever the recipe. Raises as `generator` does."""
        load = making.load_untrained if untrained and making.load_untrained else making.load
        return self._found(self._makers, ("", making.pack, _place(device, untrained)), device, _half_size(device), load)

    def reconstructor(self, recipe: Recipe, device: str, untrained: bool = False) -> Reconstructor:
        """untrained: with random weights. Raises MissingWeights where the recipe's weights are absent, OutOfMemory
        where they cannot fit into the machine's memory."""
        load = recipe.load_untrained if untrained and recipe.load_untrained else recipe.load_reconstructor
        key = (recipe.name, recipe.pack, _place(device, untrained))
        return self._found(self._reconstructors, key, device, inference_dtype(device).itemsize, load)

    def trying(self, stage: str, walk: Callable[[], Generator[Step, None, T]]) -> Generator[Step, None, T]:
        """Walks walk(), a network's work of the stage "picture", "views" or "reconstruct". Where memory runs out, what
        the stage does not need is let go, or its parts come to the GPU in turns, and it all begins again."""
        return retried(walk, lambda: self._spare(stage))

    def make_room_for_mesh(self) -> None:
        """The networks are done: they go where the machine's memory is short."""
        free = self._free("cpu")
        if free is not None and free < _FOR_A_MESH:
            self.release()

    def rest(self) -> None:
        """No job is waiting: a GPU's memory is left to others, such as Cycles. What is large goes to the machine's
        memory, from where it is back in a second, or where that is short, altogether."""
        for group in (self._makers, self._generators):
            _drop(group, [key for key, each in group.items() if not _harmless(key) and not self._set_aside(each)])
        _drop(self._reconstructors, [key for key in self._reconstructors if not _harmless(key)])  # quickly read again
        give_back()

    def release(self) -> None:
        """Let go of everything, of what cuts objects out of pictures too."""
        from backend.views.matting_model import forget  # here, as it brings libraries along that a prompt does not need

        for group in self._groups:
            group.clear()
        forget()
        give_back()

    @property
    def _groups(self) -> tuple[dict[Key, Any], ...]:
        """In the order of the stages; those first that go first where there is no room."""
        return self._makers, self._generators, self._reconstructors

    def _found(self, group: dict[Key, M], key: Key, device: str, itemsize: int, load: Callable[[str], M]) -> M:
        """The model of this key, the only one of its group that stays. itemsize: bytes of a number."""
        found = group.get(key)
        if found is None:
            group.clear()
        if found is None or _lies_apart(found):
            self._make_room(key[1], device, itemsize, group, found is None)
        if found is None:
            found = group[key] = load(device)
        return found

    def _make_room(self, pack: str, device: str, itemsize: int, own: dict[Key, Any], loads: bool) -> None:
        """Before the weights of a pack come to a device: the other groups go, as far as need be. loads: they come from
        the disk."""
        need = NEEDS.get(pack)
        if need is None:
            return
        for others in self._groups:
            if others and others is not own and is_short(need, itemsize, self._free(device)):
                _drop(others, [key for key, each in others.items() if device == "cpu" or not self._set_aside(each)])
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
        own = self._groups[("picture", "views", "reconstruct").index(stage)]
        others = [group for group in self._groups if group and group is not own]
        for group in others:
            group.clear()
        residences = [getattr(each, "residence", None) for each in own.values()]
        return bool(others) or any(residence is not None and residence.thriftier() for residence in residences)


def _drop(group: dict[Key, Any], keys: list[Key]) -> None:
    for key in keys:
        del group[key]


def _lies_apart(model: Any) -> bool:
    """Whether a generator's parts all lie in the machine's memory, and it works elsewhere."""
    residence = getattr(model, "residence", None)
    return residence is not None and residence.apart and residence.way is None


def _place(device: str, untrained: bool) -> str:
    return f"{device} untrained" if untrained else device


def _harmless(key: Key) -> bool:
    """Whether a model that does nothing holds nothing of a GPU's memory, or next to nothing."""
    return key[1] not in NEEDS or shares_memory(key[2].split()[0])


def _half_size(device: str) -> int:
    import torch

    return inference_dtype(device, torch.float16).itemsize
