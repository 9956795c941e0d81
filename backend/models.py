"""Loaded networks and measured times, kept from job to job within one process."""

from __future__ import annotations

from backend.recipes import Recipe, Reconstructor, ViewGenerator


class Models:
    """Loads a recipe's networks when they are first needed. seconds: what each stage took the last time."""

    def __init__(self) -> None:
        self._generators: dict[tuple[str, str], ViewGenerator] = {}
        self._reconstructors: dict[tuple[str, str], Reconstructor] = {}
        self.seconds: dict[str, float] = {}

    def generator(self, recipe: Recipe, device: str) -> ViewGenerator:
        """Raises MissingWeights where the recipe's weights are absent."""
        key = (recipe.name, device)
        if key not in self._generators:
            self._generators[key] = recipe.load_generator(device)
        return self._generators[key]

    def reconstructor(self, recipe: Recipe, device: str) -> Reconstructor:
        """Raises MissingWeights where the recipe's weights are absent."""
        key = (recipe.name, device)
        if key not in self._reconstructors:
            self._reconstructors[key] = recipe.load_reconstructor(device)
        return self._reconstructors[key]
