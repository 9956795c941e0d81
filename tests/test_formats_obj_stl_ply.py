"""The other files of a mesh: .obj with its .mtl, .stl for printers, and vertex colours in .ply and .glb."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import mesh_shapes as shapes
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from backend.datatypes import Mesh, TexturedMesh
from backend.errors import BadInput
from backend.formats.glb import write_colored_glb
from backend.formats.images import write_png
from backend.formats.mesh_ply import write_mesh_ply
from backend.formats.obj import write_mtl, write_obj
from backend.formats.stl import LONGEST_SIDE, write_stl
from backend.formats.vertex_colors import vertex_colors

WRITERS = {"obj": write_obj, "stl": write_stl, "ply": write_mesh_ply, "glb": write_colored_glb}


@pytest.fixture(scope="module")
def textured() -> TexturedMesh:
    """A torus that lies flat, off the origin, and is wider than high; its texture is laid over it from above."""
    shape = shapes.torus()
    vertices = shape.vertices[:, [0, 2, 1]] * [1.0, -1.0, 1.0] + [0.5, 2.0, -0.25]
    vertices[:, 1] *= [1.0]
    faces = shape.faces[:, ::-1].copy() if trimesh.Trimesh(vertices, shape.faces).volume < 0 else shape.faces
    uvs = (vertices[:, [0, 2]] - [0.5, -0.25]) / 2 + 0.5
    # Red grows to the right, green upwards: a flipped picture would show.
    ramp = (torch.arange(64) + 0.5) / 64
    base_color = torch.stack(
        [ramp[None, :].expand(64, 64), 1 - ramp[:, None].expand(64, 64), torch.full((64, 64), 0.2)]
    )
    mesh = Mesh(torch.from_numpy(vertices.astype(np.float32)), torch.from_numpy(faces.astype(np.int64)))
    return TexturedMesh(mesh, torch.from_numpy(uvs[faces].astype(np.float32)), base_color)


def wanted_colors(textured: TexturedMesh) -> np.ndarray:
    vertices = textured.mesh.vertices.numpy()
    uvs = (vertices[:, [0, 2]] - [0.5, -0.25]) / 2 + 0.5
    return np.concatenate([uvs, np.full((len(uvs), 1), 0.2)], axis=1)


def test_obj_with_its_material_reads_back(textured: TexturedMesh, tmp_path: Path) -> None:
    write_obj(tmp_path / "mesh.obj", textured)
    write_mtl(tmp_path / "mesh.mtl")
    write_png(tmp_path / "base_color.png", textured.base_color)
    read = trimesh.load(tmp_path / "mesh.obj", process=False)
    assert isinstance(read, trimesh.Trimesh)
    wanted = textured.mesh.vertices.numpy()[textured.mesh.faces.numpy()]
    assert np.allclose(read.vertices[read.faces], wanted, atol=1e-5)
    assert np.allclose(read.visual.uv[read.faces], textured.corner_uvs.numpy(), atol=1e-5)
    assert read.visual.material.image.size == (64, 64)
    # No place is written twice, so that whoever reads the file finds the mesh closed.
    text = (tmp_path / "mesh.obj").read_text()
    assert text.count("\nv ") == len(textured.mesh.vertices)
    assert text.count("\nf ") == len(textured.mesh.faces)
    assert "mtllib mesh.mtl" in text
    normals = np.array([line.split()[1:] for line in text.splitlines() if line.startswith("vn ")], float)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3)
    outward = textured.mesh.vertices.numpy()[:, 1] - 2.0
    assert (normals[outward > 0.2, 1] > 0).all()


def test_stl_stands_on_the_bed_in_millimetres(textured: TexturedMesh, tmp_path: Path) -> None:
    write_stl(tmp_path / "mesh.stl", textured)
    content = (tmp_path / "mesh.stl").read_bytes()
    assert not content.startswith(b"solid")
    assert len(content) == 84 + 50 * len(textured.mesh.faces)
    read = trimesh.load(tmp_path / "mesh.stl")
    assert read.is_watertight  # corners of neighbours are the same bits
    assert read.volume > 0
    low, high = read.bounds
    assert (high - low).max() == pytest.approx(LONGEST_SIDE, rel=1e-5)
    assert low[2] == pytest.approx(0.0, abs=1e-5)
    assert np.allclose((low + high)[:2], 0, atol=1e-3)
    # Y up becomes Z up: the torus lies flat; what was in front, at +Z, is at -Y.
    assert (high - low)[2] == pytest.approx(LONGEST_SIDE * 0.5 / 1.8, rel=1e-3)
    scale = LONGEST_SIDE / float((textured.mesh.vertices.amax(0) - textured.mesh.vertices.amin(0)).max())
    first = textured.mesh.vertices[textured.mesh.faces[0, 0]].numpy()
    corner = np.frombuffer(content, "<f4", count=6, offset=84)
    assert np.allclose(corner[3:], np.array([first[0] - 0.5, -(first[2] + 0.25), first[1] - 1.75]) * scale, atol=0.01)
    assert np.linalg.norm(corner[:3]) == pytest.approx(1.0, abs=1e-5)
    write_stl(tmp_path / "small.stl", textured, longest_side=20.0)
    assert trimesh.load(tmp_path / "small.stl").extents.max() == pytest.approx(20.0, rel=1e-5)


def test_vertex_colors_are_what_the_texture_shows(textured: TexturedMesh) -> None:
    assert np.abs(vertex_colors(textured) - wanted_colors(textured)).max() < 0.01
    mesh = textured.mesh
    alone = TexturedMesh(
        Mesh(torch.cat([mesh.vertices, torch.zeros(1, 3)]), mesh.faces), textured.corner_uvs, textured.base_color
    )
    assert np.allclose(vertex_colors(alone)[-1], 0.5)


def test_ply_with_vertex_colors_reads_back(textured: TexturedMesh, tmp_path: Path) -> None:
    write_mesh_ply(tmp_path / "mesh.ply", textured)
    read = trimesh.load(tmp_path / "mesh.ply", process=False)
    assert np.array_equal(read.vertices, textured.mesh.vertices.numpy())
    assert np.array_equal(read.faces, textured.mesh.faces.numpy())
    assert np.abs(read.visual.vertex_colors[:, :3] / 255 - wanted_colors(textured)).max() < 0.012
    assert read.is_watertight


def test_glb_with_vertex_colors_reads_back(textured: TexturedMesh, tmp_path: Path) -> None:
    write_colored_glb(tmp_path / "mesh.glb", textured)
    (read,) = trimesh.load(tmp_path / "mesh.glb", process=False).geometry.values()
    assert len(read.vertices) == len(textured.mesh.vertices)
    assert np.array_equal(read.faces, textured.mesh.faces.numpy())
    data = (tmp_path / "mesh.glb").read_bytes()
    (length,) = struct.unpack("<I", data[12:16])
    document = json.loads(data[20 : 20 + length])
    assert "images" not in document
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    assert accessor["normalized"] is True
    view = document["bufferViews"][accessor["bufferView"]]
    linear = np.frombuffer(data, "<u2", count=4 * accessor["count"], offset=28 + length + view["byteOffset"])
    linear = linear.reshape(-1, 4) / 65535
    assert (linear[:, 3] == 1).all()
    wanted = wanted_colors(textured)
    assert np.abs(linear[:, :3] - ((wanted + 0.055) / 1.055) ** 2.4).max() < 0.02  # glTF's vertex colours are linear


@pytest.mark.parametrize("kind", WRITERS)
def test_nothing_half_written(kind: str, textured: TexturedMesh, tmp_path: Path) -> None:
    mesh = textured.mesh
    broken = TexturedMesh(Mesh(mesh.vertices * float("nan"), mesh.faces), textured.corner_uvs, textured.base_color)
    empty = TexturedMesh(Mesh(mesh.vertices, mesh.faces[:0]), textured.corner_uvs[:0], textured.base_color)
    for bad in (broken, empty):
        with pytest.raises(BadInput):
            WRITERS[kind](tmp_path / f"mesh.{kind}", bad)
    with pytest.raises(BadInput):
        WRITERS[kind](tmp_path / "no such folder" / f"mesh.{kind}", textured)
    assert list(tmp_path.iterdir()) == []


def test_a_mesh_without_a_size_is_not_printed(textured: TexturedMesh, tmp_path: Path) -> None:
    point = TexturedMesh(
        Mesh(torch.ones_like(textured.mesh.vertices), textured.mesh.faces), textured.corner_uvs, textured.base_color
    )
    with pytest.raises(BadInput):
        write_stl(tmp_path / "mesh.stl", point)


def test_the_material_names_a_picture_that_opens(textured: TexturedMesh, tmp_path: Path) -> None:
    write_mtl(tmp_path / "a.mtl", "other.png")
    assert "map_Kd other.png\n" in (tmp_path / "a.mtl").read_text()
    write_png(tmp_path / "other.png", textured.base_color)
    assert Image.open(tmp_path / "other.png").size == (64, 64)
