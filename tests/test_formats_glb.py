import io
import json
import struct

import mesh_shapes as shapes
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from backend.datatypes import Mesh, TexturedMesh
from backend.errors import BadInput
from backend.formats.glb import write_glb
from backend.formats.mesh_arrays import read_mesh_npz, write_mesh_npz
from backend.texture.unwrap import unwrap


@pytest.fixture(scope="module")
def textured() -> TexturedMesh:
    shape = shapes.torus()
    mesh = Mesh(torch.from_numpy(shape.vertices.astype(np.float32)), torch.from_numpy(shape.faces.astype(np.int64)))
    # Red grows to the right, green upwards: a flipped picture would show.
    ramp = (torch.arange(64) + 0.5) / 64
    base_color = torch.stack([ramp[None, :].expand(64, 64), 1 - ramp[:, None].expand(64, 64), torch.zeros(64, 64)])
    return TexturedMesh(mesh, unwrap(mesh, 64), base_color)


def test_glb_reads_back(textured, tmp_path):
    write_glb(tmp_path / "mesh.glb", textured, "cup")
    scene = trimesh.load(tmp_path / "mesh.glb")
    (read,) = scene.geometry.values()
    assert len(read.faces) == len(textured.mesh.faces)
    wanted = textured.mesh.vertices.numpy()[textured.mesh.faces.numpy()]
    assert np.allclose(read.vertices[read.faces], wanted, atol=1e-6)
    # trimesh turns v over on reading, so that its uvs have their origin at the bottom left as ours do.
    assert np.allclose(read.visual.uv[read.faces], textured.corner_uvs.numpy(), atol=1e-6)
    picture = np.asarray(read.visual.material.baseColorTexture.convert("RGB"))
    assert np.abs(picture / 255 - textured.base_color.permute(1, 2, 0).numpy()).max() < 0.003
    assert read.visual.material.metallicFactor == 0
    assert read.visual.material.roughnessFactor == pytest.approx(0.8)
    assert not read.visual.material.doubleSided
    merged = trimesh.Trimesh(read.vertices, read.faces)
    merged.merge_vertices(merge_tex=True, merge_norm=True)
    assert merged.is_watertight
    assert merged.volume > 0


def test_glb_is_valid_gltf(textured, tmp_path):
    path = tmp_path / "mesh.glb"
    write_glb(path, textured)
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON"
    assert size % 4 == 0
    document = json.loads(data[20 : 20 + size])
    binary_size, kind = struct.unpack("<I4s", data[20 + size : 28 + size])
    assert kind == b"BIN\0"
    binary = data[28 + size :]
    assert len(binary) == binary_size == document["buffers"][0]["byteLength"]
    for view in document["bufferViews"]:
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] + view["byteLength"] <= binary_size
    (primitive,) = document["meshes"][0]["primitives"]
    accessors = [document["accessors"][index] for index in (*primitive["attributes"].values(), primitive["indices"])]
    widths = {"VEC3": 12, "VEC2": 8, "SCALAR": {5123: 2, 5125: 4}[accessors[-1]["componentType"]]}
    for accessor in accessors:
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteLength"] == accessor["count"] * widths[accessor["type"]]
    position = accessors[0]
    assert np.allclose(position["min"], textured.mesh.vertices.amin(dim=0))
    assert np.allclose(position["max"], textured.mesh.vertices.amax(dim=0))
    normal = document["bufferViews"][accessors[1]["bufferView"]]
    normals = np.frombuffer(binary[normal["byteOffset"] :][: normal["byteLength"]], "<f4").reshape(-1, 3)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    image = document["bufferViews"][document["images"][0]["bufferView"]]
    assert Image.open(io.BytesIO(binary[image["byteOffset"] :][: image["byteLength"]])).size == (64, 64)


def test_vertices_are_shared_but_for_seams(textured, tmp_path):
    write_glb(tmp_path / "mesh.glb", textured)
    (read,) = trimesh.load(tmp_path / "mesh.glb", process=False).geometry.values()
    vertices = len(textured.mesh.vertices)
    assert vertices < len(read.vertices) < 2 * vertices
    # The normals of the doubles are the same: no seam shows in the shading.
    of_place: dict[tuple, np.ndarray] = {}
    for place, normal in zip(read.vertices, read.vertex_normals, strict=True):
        first = of_place.setdefault(tuple(np.round(place, 6)), normal)
        assert np.allclose(first, normal, atol=1e-4)


def test_nothing_half_written(textured, tmp_path):
    with pytest.raises(BadInput):
        write_glb(tmp_path / "no such folder" / "mesh.glb", textured)
    with pytest.raises(BadInput):
        write_mesh_npz(tmp_path / "no such folder" / "mesh.npz", textured)
    broken = TexturedMesh(
        Mesh(textured.mesh.vertices * float("nan"), textured.mesh.faces), textured.corner_uvs, textured.base_color
    )
    with pytest.raises(BadInput):
        write_glb(tmp_path / "mesh.glb", broken)
    empty = TexturedMesh(
        Mesh(textured.mesh.vertices, textured.mesh.faces[:0]), textured.corner_uvs[:0], textured.base_color
    )
    with pytest.raises(BadInput):
        write_glb(tmp_path / "mesh.glb", empty)
    assert list(tmp_path.iterdir()) == []


def test_npz_reads_back(textured, tmp_path):
    path = tmp_path / "mesh.npz"
    write_mesh_npz(path, textured)
    assert [found.name for found in tmp_path.iterdir()] == ["mesh.npz"]
    read = read_mesh_npz(path)
    assert np.array_equal(read.vertices, textured.mesh.vertices.numpy())
    assert np.array_equal(read.faces, textured.mesh.faces.numpy())
    assert np.array_equal(read.corner_uvs, textured.corner_uvs.numpy())
    with np.load(path, allow_pickle=False) as stored:
        assert {key: (stored[key].dtype.str, stored[key].ndim) for key in stored} == {
            "vertices": ("<f4", 2),
            "faces": ("<i4", 2),
            "corner_uvs": ("<f4", 3),
        }


def test_damaged_npz_is_bad_input(textured, tmp_path):
    path = tmp_path / "mesh.npz"
    with pytest.raises(BadInput):
        read_mesh_npz(path)
    path.write_bytes(b"no archive")
    with pytest.raises(BadInput):
        read_mesh_npz(path)
    write_mesh_npz(path, textured)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadInput):
        read_mesh_npz(path)
    np.savez(path, vertices=np.zeros((3, 3)), faces=np.array([[0, 1, 7]]), corner_uvs=np.zeros((1, 3, 2)))
    with pytest.raises(BadInput):
        read_mesh_npz(path)
