"""A textured mesh as one binary glTF 2.0 file: one mesh, one material, the base colour as a PNG inside."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.datatypes import TexturedMesh
from backend.errors import BadInput
from backend.formats.mesh_arrays import replace_file
from backend.formats.split import split_at_seams

FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP_TO_EDGE = 9729, 9987, 33071


def png_bytes(textured: TexturedMesh) -> bytes:
    """The base colour as an 8-bit PNG file's content."""
    pixels = textured.base_color.detach().cpu().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(stream, format="PNG", compress_level=6)
    return stream.getvalue()


def write_glb(path: str | os.PathLike[str], textured: TexturedMesh, name: str = "Splatsmith") -> None:
    """Write the mesh in its own frame (glTF's, +Y up, front +Z, where it is the canonical one). Raises BadInput.

    Vertices are shared except along uv seams; their normals are smooth ones. Metallic 0, roughness 0.8, single-sided.
    """
    mesh = textured.mesh
    if mesh.faces.shape[0] == 0:
        raise BadInput("There are no faces to write into a .glb file.")
    split = split_at_seams(
        mesh.vertices.detach().cpu().numpy(), mesh.faces.cpu().numpy(), textured.corner_uvs.detach().cpu().numpy()
    )
    if not (np.isfinite(split.positions).all() and np.isfinite(split.uvs).all()):
        raise BadInput("The mesh has numbers that are not finite, so no .glb file was written.")
    # glTF counts v downwards from the top of the picture.
    uvs = np.stack([split.uvs[:, 0], 1.0 - split.uvs[:, 1]], axis=1).astype("<f4")
    # glTF keeps the highest index of each width for itself.
    wide = len(split.positions) >= 65535
    builder = _Builder()
    attributes = {
        "POSITION": builder.accessor(split.positions.astype("<f4"), FLOAT, "VEC3", ARRAY_BUFFER, bounds=True),
        "NORMAL": builder.accessor(split.normals.astype("<f4"), FLOAT, "VEC3", ARRAY_BUFFER),
        "TEXCOORD_0": builder.accessor(uvs, FLOAT, "VEC2", ARRAY_BUFFER),
    }
    indices = builder.accessor(
        split.faces.reshape(-1).astype("<u4" if wide else "<u2"),
        UNSIGNED_INT if wide else UNSIGNED_SHORT,
        "SCALAR",
        ELEMENT_ARRAY_BUFFER,
    )
    picture = builder.view(png_bytes(textured))
    document = {
        "asset": {"version": "2.0", "generator": "Splatsmith"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [
            {"name": name, "primitives": [{"attributes": attributes, "indices": indices, "material": 0, "mode": 4}]}
        ],
        "materials": [
            {
                "name": name,
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0},
                    "metallicFactor": 0.0,
                    "roughnessFactor": 0.8,
                },
                "doubleSided": False,
            }
        ],
        "textures": [{"source": 0, "sampler": 0}],
        "images": [{"name": "base_color", "mimeType": "image/png", "bufferView": picture}],
        "samplers": [
            {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": CLAMP_TO_EDGE, "wrapT": CLAMP_TO_EDGE}
        ],
        "accessors": builder.accessors,
        "bufferViews": builder.views,
        "buffers": [{"byteLength": len(builder.data)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(builder.data), b"BIN\0") + bytes(builder.data)
    replace_file(Path(path), struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)


class _Builder:
    """The binary part of the file and the lists that say what lies where in it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, content: bytes, target: int | None = None) -> int:
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        if target is not None:
            view["target"] = target
        self.views.append(view)
        self.data += content + b"\0" * (-len(content) % 4)
        return len(self.views) - 1

    def accessor(self, values: NDArray, component: int, kind: str, target: int, bounds: bool = False) -> int:
        accessor: dict[str, Any] = {
            "bufferView": self.view(values.tobytes(), target),
            "componentType": component,
            "count": len(values),
            "type": kind,
        }
        if bounds:
            accessor["min"], accessor["max"] = values.min(axis=0).tolist(), values.max(axis=0).tolist()
        self.accessors.append(accessor)
        return len(self.accessors) - 1
