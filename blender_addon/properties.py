"""What the panel asks for; saved with the scene."""

# mypy: disable-error-code="valid-type"
# Blender reads its properties from annotations, so they are calls here, and not postponed.

from typing import Any

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

LARGEST_SEED = 2**31 - 1


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


def request_settings(properties: Any) -> dict[str, Any]:
    """The panel's settings as those of a backend request; Blender's own // paths become absolute."""
    return {
        "prompt": properties.prompt,
        "image": bpy.path.abspath(properties.image) if properties.image else "",
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
