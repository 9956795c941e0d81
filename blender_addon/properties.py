"""What the panel asks for; saved with the scene."""

# mypy: disable-error-code="valid-type"
# Blender reads its properties from annotations, so they are calls here, and not postponed.

from typing import Any

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from . import session
from .catalogue import STARTER, Catalogue, RecipeChoice

LARGEST_SEED = 2**31 - 1


_items: list[tuple[str, str, str, str, int]] = []  # Blender keeps no reference to them itself


def _recipe_items(properties: Any, _context: Any) -> list[tuple[str, str, str, str, int]]:
    """What the backend offers, and the scene's own choice where that is another: a file may come from elsewhere."""
    catalogue = session.current.catalogue if session.current is not None else Catalogue()
    found = [(recipe.name, catalogue.label(recipe), recipe.title) for recipe in catalogue.recipes]
    chosen = properties.recipe_name if properties is not None else STARTER
    if chosen not in {name for name, _, _ in found}:
        found.append((chosen, chosen, "This recipe is not known here"))
    global _items
    _items = [(name, label, title, "NONE", number) for number, (name, label, title) in enumerate(found)]
    return _items


def _recipe_get(properties: Any) -> int:
    names = [item[0] for item in _recipe_items(properties, None)]
    return names.index(properties.recipe_name)


def _recipe_set(properties: Any, number: int) -> None:
    properties.recipe_name = _recipe_items(properties, None)[number][0]


def _picture_picked(properties: Any, _context: Any) -> None:
    """Only asks: the answer comes with a later tick of the timer, which a Blender without a window has not."""
    if session.current is not None and not bpy.app.background:
        session.current.show_picture(absolute(properties.image))


def absolute(path: str) -> str:
    """Blender's own // paths made absolute; an empty one stays empty."""
    return bpy.path.abspath(path) if path else ""


class SplatsmithProperties(bpy.types.PropertyGroup):
    """The settings of the next job."""

    prompt: StringProperty(
        name="Prompt",
        description="One object in a few words, such as: a red mushroom with a white stem",
        default="",
        maxlen=2000,
    )
    image: StringProperty(
        name="Picture",
        description="A picture of one object, seen from the front; a transparent or plain background works best",
        subtype="FILE_PATH",
        update=_picture_picked,
    )
    recipe_name: StringProperty(default=STARTER, options={"HIDDEN"})
    recipe: EnumProperty(
        name="Recipe",
        description="Which models make the views and the object",
        items=_recipe_items,
        get=_recipe_get,
        set=_recipe_set,
    )
    views_first: BoolProperty(
        name="Views First",
        description="Stop when the views are made, so that you can change them before the mesh is made",
        default=False,
    )
    picture_first: BoolProperty(
        name="Picture First",
        description="Stop when the words have become a picture, so that you can take another before views are made",
        default=False,
    )
    seed: IntProperty(
        name="Seed",
        description="The same seed and settings give the same object",
        default=0,
        min=0,
        max=LARGEST_SEED,
    )
    random_seed: BoolProperty(name="Random", description="Take another seed for every object", default=True)
    faces: IntProperty(
        name="Faces",
        description="How many triangles the mesh is to have",
        default=20_000,
        min=100,
        soft_max=100_000,
        max=500_000,
        step=100_000,
    )
    texture_size: EnumProperty(
        name="Texture",
        description="Width and height of the base colour texture",
        items=[(str(size), f"{size} px", "") for size in (256, 512, 1024, 2048, 4096)],
        default="1024",
    )
    size: FloatProperty(
        name="Size (m)",
        description="The object's longest side in metres",
        default=1.0,
        min=0.001,
        soft_max=10.0,
        max=10_000.0,
        precision=3,
    )


def may_stop_at_picture(properties: Any, recipe: RecipeChoice | None) -> bool:
    """Whether the next job makes a picture of words first."""
    return recipe is not None and recipe.picture_first and not properties.image


def stop_after(properties: Any, recipe: RecipeChoice | None) -> str | None:
    """The last result that the next job is to make, None for the mesh."""
    if properties.picture_first and may_stop_at_picture(properties, recipe):
        return "picture"
    return "views" if properties.views_first else None


def request_settings(properties: Any) -> dict[str, Any]:
    """The panel's settings as those of a backend request; Blender's own // paths become absolute."""
    return {
        "prompt": properties.prompt,
        "image": absolute(properties.image),
        "recipe": properties.recipe_name,
        "seed": properties.seed,
        "faces": properties.faces,
        "texture_size": int(properties.texture_size),
    }


def register() -> None:
    bpy.utils.register_class(SplatsmithProperties)
    bpy.types.Scene.splatsmith = PointerProperty(type=SplatsmithProperties)


def unregister() -> None:
    del bpy.types.Scene.splatsmith
    bpy.utils.unregister_class(SplatsmithProperties)
