"""The recipe in the panel, what it cannot do, and the weights it still needs."""

from __future__ import annotations

from typing import Any

from . import session
from .catalogue import RecipeChoice, size_of
from .drawing import draw_lines


def draw(layout: Any, state: session.Session, properties: Any, width: int) -> bool:
    """False where the recipe cannot run yet."""
    row = layout.row(align=True)
    row.prop(properties, "recipe")
    if not state.catalogue.known:
        row.operator("splatsmith.refresh_recipes", text="", icon="FILE_REFRESH")
    recipe = state.catalogue.recipe(properties.recipe_name)
    if recipe is None:
        draw_lines(layout, ["This recipe is not known here. Choose another one."], width, icon="ERROR")
        return False
    if not recipe.from_text and not properties.image:
        draw_lines(layout, ["This recipe needs a picture."], width, icon="INFO")
    elif not recipe.from_picture and properties.image:
        draw_lines(layout, ["This recipe takes words alone."], width, icon="INFO")
    if recipe.missing:
        _draw_missing(layout.box(), state, recipe, width)
    return not recipe.missing


def _draw_missing(box: Any, state: session.Session, recipe: RecipeChoice, width: int) -> None:
    draw_lines(box, ["It needs weights that others published:"], width, icon="IMPORT")
    for name in recipe.missing:
        facts = state.catalogue.weights.get(name)
        row = box.row(align=True)
        if facts is None:
            row.label(text=name)
            row.operator("splatsmith.refresh_recipes", text="", icon="FILE_REFRESH")
            continue
        row.label(text=f"{name}, {size_of(facts)}" if facts.get("bytes") else name)
        row.operator("splatsmith.download_weights", text="", icon="URL").weights = name
        row.operator("splatsmith.import_weights", text="", icon="FILE_FOLDER").weights = name
    if state.runner.current is not None and state.runner.current.method.startswith("weights."):
        box.enabled = False
