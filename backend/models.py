"""Loaded networks and measured times, kept from job to job within one process."""

from __future__ import annotations

from backend.recipes import Recipe, Reconstructor, ViewGenerator


class Models:
    """Loads a recipe's networks when they are first needed, and lets go of what another recipe used before: published
    ones fill a machine's memory. seconds: what each stage took the last time."""

    def __init__(self) -> None:
        self._generators: dict[tuple[str, str], ViewGenerator] = {}
        self._reconstructors: dict[tuple[str, str], Reconstructor] = {}
        self.seconds: dict[str, float] = {}

    def generator(self, recipe: Recipe, device: str, pictured: bool, untrained: bool = False) -> ViewGenerator:
        """pictured: the one for a picture, not for words alone. untrained: with random weights.

        Raises MissingWeights where the weights are absent, BadInput where the recipe has no such generator.
        """
        generation = recipe.generation(pictured)
        load = generation.load_untrained if untrained and generation.load_untrained else generation.load
        key = (f"{recipe.name} {generation.pack}", f"{device} untrained" if untrained else device)
        if key not in self._generators:
            self._generators.clear()
            self._generators[key] = load(device)
        return self._generators[key]

    def reconstructor(self, recipe: Recipe, device: str, untrained: bool = False) -> Reconstructor:
        """untrained: with random weights. Raises MissingWeights where the recipe's weights are absent."""
        key = (recipe.name, f"{device} untrained" if untrained else device)
        if key not in self._reconstructors:
            self._reconstructors.clear()
            load = recipe.load_untrained if untrained and recipe.load_untrained else recipe.load_reconstructor
            self._reconstructors[key] = load(device)
        return self._reconstructors[key]
