"""What the backend can do, as it said the last time: recipes, and the weights that they need. Knows no Blender.

It is kept in the data folder, so that the panel can offer it before the backend runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

STARTER, OWN = "starter", "GPL-3.0-or-later"
_FILE = "catalogue.json"


@dataclass(frozen=True)
class RecipeChoice:
    """A recipe of the backend's; see `initialize` in its description of the wire."""

    name: str
    title: str
    from_text: tuple[str, ...] | None = ()
    from_picture: tuple[str, ...] | None = ()
    least_views: int | None = None
    missing: tuple[str, ...] = ()
    rerolls: bool = False
    picture_first: bool = False  # of words
    licences: dict[str, str] = field(default_factory=dict)  # by weights
    memory: dict[str, dict[str, float]] = field(default_factory=dict)  # by from_text and from_picture: gpu, cpu

    def uses(self, pictured: bool) -> tuple[str, ...]:
        """The weights that take part in making an object of a picture, or of words alone."""
        return (self.from_picture if pictured else self.from_text) or ()

    def lacks(self, pictured: bool) -> list[str]:
        """Those of them that are missing."""
        return [name for name in self.uses(pictured) if name in self.missing]

    def terms(self, pictured: bool) -> list[str]:
        """The licences of what it uses, but for those of the project's own."""
        licences: dict[str, list[str]] = {}
        for name in self.uses(pictured):
            licences.setdefault(self.licences.get(name, ""), []).append(name)
        return [f"{', '.join(names)}: {licence}" for licence, names in licences.items() if licence not in ("", OWN)]

    def memory_wanted(self, pictured: bool) -> list[str]:
        """In a sentence; nothing where it is not known."""
        need = self.memory.get("from_picture" if pictured else "from_text", {})
        if not need.get("gpu") or not need.get("cpu"):
            return []
        card, machine = (f"{need[where] / 1e9:.0f} GB" for where in ("gpu", "cpu"))
        return [f"About {card} of a graphics card's memory, or {machine} of the machine's (an estimate)"]


ONLY_STARTER = RecipeChoice(STARTER, "Starter: small models that come with Splatsmith", least_views=4, rerolls=True)


class Catalogue:
    """recipes: never empty. weights: what is known of published weights, by name. known: whether the backend ever
    said so."""

    def __init__(self) -> None:
        self.recipes: list[RecipeChoice] = [ONLY_STARTER]
        self.weights: dict[str, dict[str, Any]] = {}
        self.known = False

    def recipe(self, name: str) -> RecipeChoice | None:
        return next((recipe for recipe in self.recipes if recipe.name == name), None)

    def label(self, recipe: RecipeChoice) -> str:
        """A short name for people: the title's beginning, after the recipe's name where another begins alike."""
        begin = [re.split("[:,]", entry.title)[0].strip() for entry in (recipe, *self.recipes)]
        return begin[0] if begin.count(begin[0]) <= 2 and begin[0] else f"{recipe.name}: {begin[0]}"

    def take(self, answer: dict[str, Any]) -> bool:
        """Takes in the answer to `initialize` or `weights.status`; True where it changed anything."""
        before = (self.recipes, self.weights, self.known)
        recipes = [_recipe(entry) for entry in _dicts(answer.get("recipes")) if isinstance(entry.get("name"), str)]
        if recipes:
            self.recipes, self.known = recipes, True
        weights = {str(entry.get("name")): entry for entry in _dicts(answer.get("published"))}
        self.weights = weights or self.weights
        return before != (self.recipes, self.weights, self.known)

    def read(self, home: Path) -> None:
        """What was kept in the data folder; nothing where there is none."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            content = json.loads((home / _FILE).read_text(encoding="utf-8"))
            if isinstance(content, dict):
                self.take(content)

    def write(self, home: Path) -> None:
        """Keeps it in the data folder, whole or not at all; where that cannot be, the backend is asked again."""
        recipes = [asdict(recipe) for recipe in self.recipes]
        temporary = home / f".{_FILE}-{os.getpid()}"
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps({"recipes": recipes, "published": list(self.weights.values())}), "utf-8")
            os.replace(temporary, home / _FILE)


def licence_lines(facts: dict[str, Any]) -> list[str]:
    """What somebody should know of published weights before they are fetched."""
    lines = [
        f"{facts.get('title') or facts.get('name')}",
        f"Size: {size_of(facts)}",
        f"From: {facts.get('page')}",
        f"Licence: {facts.get('licence')}",
        f"It forbids: {facts.get('forbids')}",
    ]
    if facts.get("gated"):
        lines.append("Gated: accept the licence on that page, and log in with 'hf auth login', first.")
    unconfirmed = facts.get("unconfirmed")
    if isinstance(unconfirmed, list) and unconfirmed:
        lines.append(f"Not confirmed here: {', '.join(map(str, unconfirmed))}. That page is what counts.")
    return lines


def size_of(facts: dict[str, Any]) -> str:
    """How large the weights are, as a person says it."""
    size = facts.get("bytes")
    if not isinstance(size, (int, float)) or size <= 0:
        return "not known here"
    return f"about {size / 1e9:.1f} GB" if size >= 1e9 else f"about {size / 1e6:.0f} MB"


def _recipe(entry: dict[str, Any]) -> RecipeChoice:
    least = entry.get("least_views")
    return RecipeChoice(
        entry["name"],
        str(entry.get("title") or entry["name"]),
        _names(entry.get("from_text")),
        _names(entry.get("from_picture")),
        least if isinstance(least, int) else None,
        _names(entry.get("missing")) or (),
        entry.get("rerolls") is True,
        entry.get("picture_first") is True,
        {str(name): str(licence) for name, licence in _mapping(entry.get("licences")).items()},
        {source: _numbers(need) for source, need in _mapping(entry.get("memory")).items()},
    )


def _names(values: Any) -> tuple[str, ...] | None:
    return tuple(map(str, values)) if isinstance(values, list) else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(value: Any) -> dict[str, float]:
    return {name: number for name, number in _mapping(value).items() if isinstance(number, (int, float))}


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
