"""The recipe in the panel, what it cannot do, and weights that are still to be fetched."""

from __future__ import annotations

from typing import Any

from . import session
from .catalogue import size_of
from .drawing import draw_lines

MATTING = "matting"  # the weights' name in the backend's register


def draw(layout: Any, state: session.Session, properties: Any, width: int) -> bool:
    """False where the recipe cannot run yet."""
    column = layout.column()
    column.use_property_split = True
    column.use_property_decorate = False
    row = column.row(align=True)
    row.prop(properties, "recipe")
    if not state.catalogue.known:
        row.operator("splatsmith.refresh_recipes", text="", icon="FILE_REFRESH")
    recipe = state.catalogue.recipe(properties.recipe_name)
    if recipe is None:
        draw_lines(layout, ["This recipe is not known here. Choose another one."], width, icon="ERROR")
        return False
    pictured = bool(properties.image)
    if (recipe.from_picture if pictured else recipe.from_text) is None:
        words = "This recipe takes words alone: clear the picture." if pictured else "This recipe needs a picture."
        draw_lines(layout, [words], width, icon="INFO")
        return False
    if recipe.picture_first and not pictured:
        draw_lines(layout, ["The words become a picture first, and the views are made of that."], width, icon="INFO")
    draw_lines(layout, recipe.terms(pictured), width, icon="COPY_ID")
    draw_lines(layout, recipe.memory_wanted(pictured), width, icon="DESKTOP")
    missing = recipe.lacks(pictured)
    if missing:
        _draw_missing(layout.box(), state, missing, width)
    return not missing


def _draw_missing(box: Any, state: session.Session, missing: list[str], width: int) -> None:
    draw_lines(box, ["It needs weights that are not part of Splatsmith:"], width, icon="IMPORT")
    for name in missing:
        _draw_weights(box, state, name)


def draw_matting(box: Any, state: session.Session, width: int) -> None:
    """The network that cuts objects out of any picture, where it is not here."""
    facts = state.catalogue.weights.get(MATTING)
    if facts is None or facts.get("present"):
        return
    column = box.column()
    draw_lines(column, ["A network can cut objects out of busy pictures too:"], width, icon="IMPORT")
    _draw_weights(column, state, MATTING)


def _draw_weights(box: Any, state: session.Session, name: str) -> None:
    facts = state.catalogue.weights.get(name)
    row = box.row(align=True)
    if facts is None:
        row.label(text=name)
        row.operator("splatsmith.refresh_recipes", text="", icon="FILE_REFRESH")
        return
    row.label(text=f"{name}, {size_of(facts)}" if facts.get("bytes") else name)
    if facts.get("repository", True):  # empty: published nowhere
        row.operator("splatsmith.download_weights", text="", icon="URL").weights = name
    row.operator("splatsmith.import_weights", text="", icon="FILE_FOLDER").weights = name
    if state.runner.current is not None and state.runner.current.method.startswith("weights."):
        row.enabled = False
