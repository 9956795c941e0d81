"""A small photo studio: a camera, a floor and soft light around some objects, and a picture of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bpy
from mathutils import Vector

SAMPLES = 20  # a few seconds on two cores; the soft lights leave little noise


def set_up_studio(scene: Any, objects: Sequence[Any], size: int) -> None:
    """Adds lights, a floor and a camera that sees all objects from the front, a little from the right and above."""
    low, high = _bounds(objects)
    centre, extent = (low + high) / 2, max((high - low).length, 1e-3)
    direction = Vector((0.55, -1.0, 0.42)).normalized()
    camera_data = bpy.data.cameras.new("Studio Camera")
    camera_data.lens = 70.0
    camera = bpy.data.objects.new("Studio Camera", camera_data)
    distance = 0.62 * extent / math.tan(camera_data.angle / 2)
    camera.location = centre + direction * distance
    camera.rotation_euler = (-direction).to_track_quat("-Z", "Y").to_euler()
    camera_data.clip_end = max(100.0, distance * 10)
    camera_data.clip_start = min(0.1, distance / 100)
    scene.collection.objects.link(camera)
    scene.camera = camera
    # Key from the left, fill from the right at a third of it, rim from behind.
    for name, where, power in (
        ("Key", (-1.1, -1.2, 1.5), 34.0),
        ("Fill", (1.6, -0.9, 0.7), 11.0),
        ("Rim", (0.4, 1.7, 1.5), 30.0),
    ):
        _add_light(scene, f"Studio {name}", centre, Vector(where) * extent, power * extent * extent, extent)
    _add_floor(scene, centre, low.z, extent)
    _light_world(scene)
    render = scene.render
    render.resolution_x = render.resolution_y = size
    render.resolution_percentage = 100


def render(scene: Any, path: Path) -> None:
    """Renders the scene to a PNG with Cycles on the CPU: it needs no window and is in every build."""
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = SAMPLES
    scene.cycles.use_adaptive_sampling = scene.cycles.use_light_tree = False  # they cost more than they save here
    scene.cycles.max_bounces = 3
    scene.cycles.use_denoising = False  # not every build of Blender has a denoiser
    scene.view_settings.view_transform = "Standard"  # so that a texture's red is that red in the picture
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGB"
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    if not path.is_file():
        raise RuntimeError("Blender wrote no picture")


def _bounds(objects: Sequence[Any]) -> tuple[Vector, Vector]:
    bpy.context.view_layer.update()
    corners = [item.matrix_world @ Vector(corner) for item in objects for corner in item.bound_box]
    low = Vector(min(corner[axis] for corner in corners) for axis in range(3))
    high = Vector(max(corner[axis] for corner in corners) for axis in range(3))
    return low, high


def _add_light(scene: Any, name: str, target: Vector, offset: Vector, power: float, size: float) -> None:
    data = bpy.data.lights.new(name, "AREA")
    data.energy, data.size = power, size
    light = bpy.data.objects.new(name, data)
    light.location = target + offset
    light.rotation_euler = (-offset).to_track_quat("-Z", "Y").to_euler()
    scene.collection.objects.link(light)


def _add_floor(scene: Any, centre: Vector, height: float, extent: float) -> None:
    half = extent * 30
    mesh = bpy.data.meshes.new("Studio Floor")
    corners = [(-half, -half, 0.0), (half, -half, 0.0), (half, half, 0.0), (-half, half, 0.0)]
    mesh.from_pydata(corners, [], [(0, 1, 2, 3)])
    material = bpy.data.materials.new("Studio Floor")
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Base Color"].default_value = (0.5, 0.5, 0.5, 1.0)
    shader.inputs["Roughness"].default_value = 0.9
    mesh.materials.append(material)
    floor = bpy.data.objects.new("Studio Floor", mesh)
    floor.location = (centre.x, centre.y, height)
    scene.collection.objects.link(floor)


def _light_world(scene: Any) -> None:
    world = scene.world or bpy.data.worlds.new("Studio World")
    scene.world = world
    if bpy.app.version < (5, 0, 0):
        world.use_nodes = True
    background = next((node for node in world.node_tree.nodes if node.type == "BACKGROUND"), None)
    if background is not None:
        background.inputs["Color"].default_value = (0.75, 0.78, 0.82, 1.0)
        background.inputs["Strength"].default_value = 0.35
