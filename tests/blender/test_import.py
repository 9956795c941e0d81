"""The object in the scene: where it stands, which way it looks, what it is made of, and that nothing is left over."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")


def generate(**settings) -> object:
    properties = bpy.context.scene.splatsmith
    for key, value in {"prompt": "a red mug", "random_seed": False, **settings}.items():
        setattr(properties, key, value)
    assert bpy.ops.splatsmith.generate() == {"FINISHED"}
    return bpy.context.view_layer.objects.active


def world_vertices(made) -> np.ndarray:
    bpy.context.view_layer.update()
    return np.array([made.matrix_world @ vertex.co for vertex in made.data.vertices])


def blocks() -> dict[str, int]:
    return {name: len(getattr(bpy.data, name)) for name in ("objects", "meshes", "materials", "images", "textures")}


def test_it_stands_at_the_cursor_upright_and_looks_at_minus_y(addon):
    bpy.context.scene.cursor.location = (3.0, -2.0, 0.5)
    made = generate()
    points = world_vertices(made)
    low, high = points.min(axis=0), points.max(axis=0)
    assert tuple(made.location) == (3.0, -2.0, 0.5)
    assert np.allclose(high - low, np.array([0.6, 0.5, 1.8]) / 1.8, atol=1e-5), "1 m tall: Z is the long side"
    assert np.allclose([(low + high)[0] / 2, (low + high)[1] / 2, low[2]], made.location, atol=1e-5), "bottom centre"
    nose = points[np.argmin(points[:, 1])]
    assert np.isclose(nose[1] - made.location.y, -0.25 / 1.8, atol=1e-4), "the nose is on the -Y side"
    assert tuple(made.rotation_euler) == (0.0, 0.0, 0.0)
    assert tuple(made.scale) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("unit", "size"), [(1.0, 2.5), (0.01, 1.0), (1000.0, 30.0)])
def test_the_size_is_in_metres_in_scenes_of_any_unit(addon, unit, size):
    bpy.context.scene.unit_settings.scale_length = unit
    made = generate(size=size)
    points = world_vertices(made)
    assert np.isclose((points.max(axis=0) - points.min(axis=0)).max() * unit, size, rtol=1e-5)


def test_faces_look_outwards_and_the_mesh_is_sound(addon):
    made = generate(faces=1200)
    mesh = made.data
    assert not mesh.validate(), "validate() mends nothing"
    assert abs(len(mesh.polygons) - 1200) < 200
    centre = np.mean([vertex.co for vertex in mesh.vertices], axis=0)
    outwards = [np.dot(face.normal, np.array(face.center) - centre) > 0 for face in mesh.polygons]
    assert np.mean(outwards) > 0.99
    assert all(face.use_smooth for face in mesh.polygons)


def test_uvs_and_texture_are_the_right_way_up(addon):
    made = generate()
    image = made.active_material.node_tree.nodes.active.image
    pixels = np.array(image.pixels[:]).reshape(image.size[1], image.size[0], 4)
    layer = made.data.uv_layers.active
    for loop in list(made.data.loops)[:200]:
        u, v = layer.data[loop.index].uv
        if abs(v - 0.5) < 0.02:
            continue
        colour = pixels[min(int(v * image.size[1]), image.size[1] - 1), min(int(u * image.size[0]), image.size[0] - 1)]
        assert (colour[0] > colour[2]) == (v > 0.5), "row 0 of the file is v = 1, and that half is red"
    top = [loop for face in made.data.polygons if abs(face.normal.y) > 0.9 for loop in face.loop_indices]
    heights = np.array([made.data.vertices[made.data.loops[index].vertex_index].co.z for index in top])
    v = np.array([layer.data[index].uv[1] for index in top])
    assert np.corrcoef(heights, v)[0, 1] > 0.9


def test_the_material_is_principled_with_a_packed_srgb_texture(addon, fake_backend):
    made = generate(texture_size="256")
    nodes = made.active_material.node_tree.nodes
    shader = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    texture = shader.inputs["Base Color"].links[0].from_node
    assert texture.type == "TEX_IMAGE"
    assert texture.image.packed_file is not None
    assert texture.image.colorspace_settings.name == "sRGB"
    assert tuple(texture.image.size) == (256, 256)
    assert str(fake_backend) not in texture.image.filepath, "no path of this machine stays in the file"
    assert shader.outputs["BSDF"].links[0].to_node.type == "OUTPUT_MATERIAL"
    assert made.active_material.diffuse_color[2] > 0.01, "solid shading shows the object's colour"


def test_provenance_stays_with_the_object(addon):
    made = generate(prompt="a red mug", seed=7)
    assert made["splatsmith_prompt"] == "a red mug"
    assert made["splatsmith_seed"] == 7
    assert made["splatsmith_recipe"] == "starter"
    assert os.path.isdir(made["splatsmith_job_folder"])
    assert "0123" in made["splatsmith_weights"]


def test_it_goes_into_the_active_collection_selected_alone_and_active(addon):
    shelf = bpy.data.collections.new("Shelf")
    bpy.context.scene.collection.children.link(shelf)
    bpy.context.view_layer.active_layer_collection = bpy.context.view_layer.layer_collection.children["Shelf"]
    first = generate()
    second = generate(prompt="the blue chair")
    assert [item.name for item in shelf.objects] == ["Red mug", "Blue chair"]
    assert bpy.context.view_layer.objects.active == second
    assert [item.name for item in bpy.context.selected_objects] == ["Blue chair"]
    assert not first.select_get()


def test_a_hidden_away_collection_is_no_obstacle(addon):
    shelf = bpy.data.collections.new("Shelf")
    bpy.context.scene.collection.children.link(shelf)
    layer = bpy.context.view_layer.layer_collection.children["Shelf"]
    bpy.context.view_layer.active_layer_collection = layer
    from blender_addon import importer, session

    placement = importer.placement_now(bpy.context, 1.0)
    layer.exclude = True
    state = session.get()
    made = state.run_to_end(state.generate({"prompt": "a mug"}, placement))
    assert made.name in shelf.objects


def test_one_undo_takes_it_all_away(addon):
    bpy.context.scene.cursor.location = (1.0, 0.0, 0.0)
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.ed.undo_push(message="before")
    generate()
    assert "Red mug" in bpy.data.objects
    bpy.ops.ed.undo()
    assert "Red mug" not in bpy.data.objects
    assert "Cube" in bpy.data.objects
    bpy.ops.ed.redo()
    assert "Red mug" in bpy.data.objects


@pytest.mark.parametrize("prompt", ["garbage mesh", "wild index"])
def test_a_damaged_result_is_a_sentence_and_leaves_nothing(addon, prompt):
    before = blocks()
    bpy.context.scene.splatsmith.prompt = prompt
    with pytest.raises(RuntimeError, match="missing or damaged"):
        bpy.ops.splatsmith.generate()
    assert blocks() == before


def test_a_missing_texture_leaves_nothing(addon, tmp_path):
    from blender_addon import importer
    from blender_addon.client import Problem

    made = generate()
    folder = made["splatsmith_job_folder"]
    os.remove(os.path.join(folder, "base_color.png"))
    before = blocks()
    from pathlib import Path

    with pytest.raises(Problem, match="texture"):
        importer.import_job(bpy.context, Path(folder), {"prompt": "a mug"}, importer.Placement())
    (Path(folder) / "base_color.png").write_bytes(b"no picture")
    with pytest.raises(Problem):
        importer.import_job(bpy.context, Path(folder), {"prompt": "a mug"}, importer.Placement())
    assert blocks() == before


def test_the_saved_file_stands_alone(addon, tmp_path):
    import shutil

    folder = generate()["splatsmith_job_folder"]
    path = tmp_path / "elsewhere" / "scene.blend"
    path.parent.mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    shutil.rmtree(folder)
    bpy.ops.wm.open_mainfile(filepath=str(path))
    image = bpy.data.images["Red mug"]
    assert image.has_data or image.pixels[0] > 0
    assert len(bpy.data.objects) == 1, "no empties, no helpers"


def test_twenty_thousand_faces_are_in_the_scene_in_half_a_second(addon):
    from pathlib import Path

    from blender_addon import importer

    folder = Path(generate(faces=20_000)["splatsmith_job_folder"])
    times = []
    for _ in range(3):
        started = time.process_time()
        made = importer.import_job(bpy.context, folder, {"prompt": "a mug"}, importer.Placement())
        times.append(time.process_time() - started)
    assert len(made.data.polygons) > 19_000
    assert min(times) < 0.5, f"the import took {times} seconds of CPU"


def test_names_come_from_the_prompt_and_survive_any_length(addon):
    from blender_addon.importer import object_name

    assert object_name({"prompt": "a wooden stool with green legs"}) == "Wooden stool with green legs"
    assert object_name({"image": "/pictures/my cup.png"}) == "My cup"
    assert object_name({}) == "Splatsmith object"
    assert len(object_name({"prompt": "蘑菇" * 500}).encode()) <= 63
    assert generate(prompt="the " + "very " * 60 + "long chair").name.startswith("Very very")
