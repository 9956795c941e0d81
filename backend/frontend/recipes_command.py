"""`python -m backend recipes`: which models make what of what, what they need, and what their licences forbid."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from backend.frontend.offer import describe, is_here
from backend.packs import PUBLISHED
from backend.recipes import RECIPES

_SOURCES = {"from_text": "words", "from_picture": "a picture"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `recipes`."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print all recipes, and what is known of the weights that they need."""
    recipes = [describe(recipe) for recipe in RECIPES.values()]
    if options.json:
        print(json.dumps({"recipes": recipes}))
        return 0
    for recipe in recipes:
        print("\n".join([*_lines(recipe), ""]))
    used = [name for name in PUBLISHED if any(name in recipe["licences"] for recipe in recipes)]
    print("Weights that others published, and what their licences forbid:")
    for name in used:
        pack = PUBLISHED[name]
        size = "here" if is_here(name) else f"about {pack.bytes / 1e9:.1f} GB" if pack.bytes else "size not known"
        print(f"  {name} ({size}), {pack.licence}")
        print(textwrap.fill(pack.forbids, 116, initial_indent=" " * 4, subsequent_indent=" " * 4))
    print("\nMemory is an estimate, and so are sizes; where less is free, a graphics card's parts take turns.")
    return 0


def _lines(recipe: dict[str, Any]) -> list[str]:
    lines = [f"{recipe['name']}: {recipe['title']}"]
    for source, words in _SOURCES.items():
        packs = recipe[source]
        if packs is None:
            continue
        needs = ", ".join(f"{name}{'' if is_here(name) else ' (missing)'}" for name in packs)
        lines.append(f"  of {words:9} with {needs}{_memory(recipe['memory'].get(source))}")
    if recipe["from_text"] is recipe["from_picture"] is None:
        lines.append("  of posed pictures alone")
    return lines


def _memory(need: dict[str, int] | None) -> str:
    if need is None:
        return ""
    if "gpu" not in need:
        return f"; {need['cpu'] / 1e9:.1f} GB of memory, measured"
    return f"; {need['gpu'] / 1e9:.0f} GB of a graphics card, or {need['cpu'] / 1e9:.0f} GB without one"
