"""From a finished job folder to an object in the scene, built with arrays; nothing is left behind when it fails.

The backend's frame is +Y up with the front towards +Z, longest side 1.8; Blender's is Z up with the front towards -Y:
(x, y, z) becomes (x, -z, y). The origin goes to the bottom centre.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from .client import Failure, Problem

SHARP_DEGREES = 55.0  # edges steeper than this stay hard: a table keeps its corners, a mushroom stays round
PREFIX = "splatsmith_"  # of the custom properties


@dataclass(frozen=True)
class Placement:
    """Where an object goes. size: its longest side in metres; scene and collection by name, since neither Blender's
    undo nor the opening of a file leaves a reference alive."""

    location: tuple[float, float, float] = (0.0, 0.0, 0.0)
    size: float = 1.0
    scene: str = ""
    collection: str = ""


@dataclass(frozen=True)
class Arrays:
    """A mesh as arrays in Blender's axes: vertices float32 [n, 3], faces int32 [m, 3], corner_uvs float32 [m, 3, 2]."""

    vertices: np.ndarray
    faces: np.ndarray
    corner_uvs: np.ndarray


def placement_now(context: Any, size: float) -> Placement:
    """The 3D cursor and the active collection, as they are at this moment."""
    location = tuple(context.scene.cursor.location)
    return Placement(location, size, context.scene.name, context.collection.name if context.collection else "")


def read_arrays(path: Path) -> Arrays:
    """Reads mesh.npz and turns it into Blender's axes, bottom centre at the origin, longest side 1.

    Raises Problem with a sentence when the file is no mesh: indices out of range would bring Blender down.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            vertices = np.asarray(content["vertices"], np.float32)
            faces = np.asarray(content["faces"], np.int32)
            uvs = np.asarray(content["corner_uvs"], np.float32)
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged file
        raise _damaged(path) from error
    shapes = (
        vertices.ndim == 2 and vertices.shape[1] == 3 and faces.ndim == 2 and faces.shape[1] == 3 and len(faces) > 0
    )
    if not shapes or uvs.shape != (len(faces), 3, 2) or faces.min() < 0 or faces.max() >= len(vertices):
        raise _damaged(path)
    if not np.isfinite(vertices).all() or not np.isfinite(uvs).all():
        raise _damaged(path)
    turned = np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], axis=-1)
    low, high = turned.min(axis=0), turned.max(axis=0)
    longest = float((high - low).max())
    if longest <= 0.0:
        raise _damaged(path)
    bottom_centre = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], np.float32)
    return Arrays(np.ascontiguousarray((turned - bottom_centre) / longest, np.float32), faces, uvs)


def _damaged(path: Path) -> Problem:
    return Problem(Failure("bad_mesh", f"The mesh {path} is missing or damaged.", "Press Generate to make it again."))


def object_name(request: Mapping[str, Any]) -> str:
    """A name for the outliner from the prompt, else from the picture's file name."""
    words = str(request.get("prompt") or "").split()
    if words and words[0].lower() in {"a", "an", "the"} and len(words) > 1:
        words = words[1:]
    text = " ".join(words) or Path(str(request.get("image") or "")).stem or "Splatsmith object"
    text = text[0].upper() + text[1:]
    return text.encode("utf-8")[:56].decode("utf-8", "ignore").strip()


def import_job(context: Any, folder: Path, request: Mapping[str, Any], placement: Placement) -> Any:
    """Builds the object of a finished job; it becomes the only selected and the active object. Returns it.

    Raises Problem, with nothing left behind, when the folder does not hold a mesh and a texture that Blender reads.
    """
    arrays = read_arrays(folder / "mesh.npz")
    name = object_name(request)
    scene = bpy.data.scenes.get(placement.scene) or context.scene
    made: list[tuple[Any, Any]] = []  # what to take away again, in the order it was made
    try:
        image = _load_texture(folder / "base_color.png", name, made)
        material = bpy.data.materials.new(name)
        made.append((bpy.data.materials, material))
        _wire_material(material, image)
        mesh = bpy.data.meshes.new(name)
        made.append((bpy.data.meshes, mesh))
        scale = placement.size / (scene.unit_settings.scale_length or 1.0)
        _fill_mesh(mesh, arrays, scale)
        mesh.materials.append(material)
        made_object = bpy.data.objects.new(name, mesh)
        made.append((bpy.data.objects, made_object))
        made_object.location = placement.location
        _note_provenance(made_object, folder, request)
        _target_collection(scene, placement.collection).objects.link(made_object)
        _select_only(context, scene, made_object)
    except BaseException as error:
        for data, block in reversed(made):
            data.remove(block)
        if isinstance(error, (RuntimeError, OSError)):
            message = f"The finished object could not be added to the scene ({error})."
            raise Problem(Failure("import", message, f"The job's files are in {folder}.")) from error
        raise
    return made_object


def _load_texture(path: Path, name: str, made: list[tuple[Any, Any]]) -> Any:
    if not path.is_file():
        raise Problem(Failure("bad_mesh", f"The texture {path} is missing.", "Press Generate to make it again."))
    image = bpy.data.images.load(str(path), check_existing=False)
    made.append((bpy.data.images, image))
    image.name = name
    image.pack()  # the .blend then stands alone, and may move to another machine
    if image.size[0] == 0:
        raise Problem(Failure("bad_mesh", f"The texture {path} is damaged.", "Press Generate to make it again."))
    image.filepath_raw = f"//{_file_name(name)}.png"  # where unpacking would put it; no path of this machine stays
    return image


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)


def _wire_material(material: Any, image: Any) -> None:
    if bpy.app.version < (5, 0, 0):  # from 5.0 on every material has nodes, and saying so is deprecated
        material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    output = nodes.new("ShaderNodeOutputMaterial")
    shader = nodes.new("ShaderNodeBsdfPrincipled")
    texture = nodes.new("ShaderNodeTexImage")
    output.location, shader.location, texture.location = (300, 0), (0, 0), (-320, 0)
    texture.image = image
    shader.inputs["Roughness"].default_value = 0.7
    links.new(texture.outputs["Color"], shader.inputs["Base Color"])
    links.new(shader.outputs["BSDF"], output.inputs["Surface"])
    nodes.active = texture
    material.diffuse_color = _typical_color(image)  # what the viewport's solid shading shows


def _typical_color(image: Any) -> tuple[float, float, float, float]:
    """The mean colour of the texture in linear light, from a thin sample: reading every pixel would take too long."""
    width, height = image.size
    if width * height > 1024 * 1024:
        return (0.8, 0.8, 0.8, 1.0)
    pixels = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(pixels)
    sample = pixels.reshape(-1, image.channels)[::97, :3].mean(axis=0)
    linear = np.where(sample <= 0.04045, sample / 12.92, ((sample + 0.055) / 1.055) ** 2.4)
    return (float(linear[0]), float(linear[1]), float(linear[2]), 1.0)


def _fill_mesh(mesh: Any, arrays: Arrays, scale: float) -> None:
    faces = len(arrays.faces)
    mesh.vertices.add(len(arrays.vertices))
    mesh.vertices.foreach_set("co", (arrays.vertices * np.float32(scale)).ravel())
    mesh.loops.add(faces * 3)
    mesh.loops.foreach_set("vertex_index", arrays.faces.ravel())
    mesh.polygons.add(faces)
    mesh.polygons.foreach_set("loop_start", np.arange(0, faces * 3, 3, dtype=np.int32))
    layer = mesh.uv_layers.new(name="UVMap", do_init=False)
    layer.data.foreach_set("uv", arrays.corner_uvs.ravel())
    mesh.update(calc_edges=True)
    mesh.validate()  # a doubled or degenerate face would trouble Blender later
    mesh.shade_smooth()
    mesh.set_sharp_from_angle(angle=math.radians(SHARP_DEGREES))


def _note_provenance(made_object: Any, folder: Path, request: Mapping[str, Any]) -> None:
    """Where the object came from, as custom properties that stay with it."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = {}
    notes: dict[str, Any] = {key: request[key] for key in ("prompt", "image", "seed", "recipe") if key in request}
    notes["job_folder"] = os.fspath(folder)
    if isinstance(report, dict):
        for key in ("weights", "licences", "versions"):
            if report.get(key):
                notes[key] = json.dumps(report[key], sort_keys=True)
    for key, value in notes.items():
        made_object[PREFIX + key] = value


def _target_collection(scene: Any, name: str) -> Any:
    """The named collection if the scene (still) has it and may change it, else the scene's own."""
    for collection in (scene.collection, *scene.collection.children_recursive):
        if collection.name == name and collection.is_editable:
            return collection
    return scene.collection


def _select_only(context: Any, scene: Any, made_object: Any) -> None:
    window_layer = context.view_layer
    layer = window_layer if context.scene == scene else scene.view_layers[0]
    layer.update()  # a view layer learns of new objects only now and then
    if made_object.name not in layer.objects:
        return  # its collection is excluded from the view layer: it is there, but cannot be selected
    for other in layer.objects:
        if other.select_get(view_layer=layer):
            other.select_set(False, view_layer=layer)
    made_object.select_set(True, view_layer=layer)
    layer.objects.active = made_object
