"""What a recipe takes, needs and forbids, told before anything is fetched or begun. Needs no torch."""

from __future__ import annotations

from typing import Any

from backend.memory import NEEDS
from backend.packs import PACKS, PUBLISHED, Pack, Published
from backend.recipes import Recipe

_HALF, _SINGLE = 2, 4  # bytes of a number on a graphics card, and on most processors


def describe(recipe: Recipe) -> dict[str, Any]:
    """A recipe as `initialize` tells of it; see backend.frontend.wire."""
    ways = {"from_text": recipe.from_text, "from_picture": recipe.from_picture}
    needs = {source: None if way is None else recipe.packs(source == "from_picture") for source, way in ways.items()}
    everything = list(dict.fromkeys(name for names in needs.values() for name in names or ()))
    return {
        "name": recipe.name,
        "title": recipe.title,
        **needs,
        "picture_first": recipe.picture_making is not None,
        "least_views": recipe.view_count,
        "rerolls": any(way is not None and way.rerolls for way in ways.values()),
        "missing": [name for name in everything if not is_here(name)],
        "licences": {name: pack_of(name).licence for name in everything},
        "memory": {source: need for source, names in needs.items() if names and (need := memory(recipe, names))},
    }


def memory(recipe: Recipe, packs: list[str]) -> dict[str, int] | None:
    """Bytes that a job with these weights takes at the most, on a graphics card ("gpu") or without one ("cpu"), as its
    models work one after the other; estimates, as backend.memory's, where it is not "measured". None where nothing is
    known."""
    if recipe.memory is not None:
        return {"cpu": recipe.memory, "measured": True}
    known = [NEEDS[name] for name in packs if name in NEEDS]
    if not known or len(known) < len(packs):
        return None
    return {"gpu": max(need.bytes(_HALF) for need in known), "cpu": max(need.bytes(_SINGLE) for need in known)}


def is_here(name: str) -> bool:
    """Whether weights are on this machine, and no download of them broke off."""
    pack = pack_of(name)
    return pack.present if isinstance(pack, Pack) else pack.usable


def pack_of(name: str) -> Pack | Published:
    """Weights by name, the starter's or published ones."""
    return PACKS[name] if name in PACKS else PUBLISHED[name]
