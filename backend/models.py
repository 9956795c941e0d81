"""Loaded networks and measured times, kept from job to job within one process."""

from __future__ import annotations

from backend.errors import BadInput
from backend.recipes import Recipe, Reconstructor, ViewGenerator


class Models:
    """Loads a recipe's networks when they are first needed. seconds: what each stage took the last time."""

    def __init__(self) -> None:
        self._generators: dict[tuple[str, str], ViewGenerator] = {}
        self._reconstructors: dict[tuple[str, str], Reconstructor] = {}
        self.seconds: dict[str, float] = {}

    def generator(self, recipe: Recipe, device: str) -> ViewGenerator:
        """Raises MissingWeights where the recipe's weights are absent, BadInput where it has no generator."""
        key = (recipe.name, device)
        if recipe.load_generator is None:
            raise BadInput(
                f"The recipe '{recipe.name}' makes no views from words or a picture.",
                "Give it posed pictures (reconstruct --cameras), or use the recipe 'starter'.",
            )
        if key not in self._generators:
            self._generators[key] = recipe.load_generator(device)
        return self._generators[key]

    def reconstructor(self, recipe: Recipe, device: str, untrained: bool = False) -> Reconstructor:
        """untrained: with random weights. Raises MissingWeights where the recipe's weights are absent."""
        key = (recipe.name, f"{device} untrained" if untrained else device)
        if key not in self._reconstructors:
            load = recipe.load_untrained if untrained and recipe.load_untrained else recipe.load_reconstructor
            self._reconstructors[key] = load(device)
        return self._reconstructors[key]
