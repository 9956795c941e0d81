"""A mesh as one binary glTF 2.0 file: one mesh, one material, the base colour as a PNG inside or at the vertices."""

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
from backend.formats.mesh_arrays import plain_mesh, replace_file
from backend.formats.split import smooth_normals, split_at_seams
from backend.formats.vertex_colors import vertex_colors

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
    split = split_at_seams(*plain_mesh(textured))
    builder = _Builder()
    # glTF counts v downwards from the top of the picture.
    uvs = np.stack([split.uvs[:, 0], 1.0 - split.uvs[:, 1]], axis=1).astype("<f4")
    attributes = {
        **builder.places(split.positions, split.normals),
        "TEXCOORD_0": builder.accessor(uvs, FLOAT, "VEC2", ARRAY_BUFFER),
    }
    indices = builder.indices(split.faces, len(split.positions))
    picture = builder.view(png_bytes(textured))
    extra = {
        "textures": [{"source": 0, "sampler": 0}],
        "images": [{"name": "base_color", "mimeType": "image/png", "bufferView": picture}],
        "samplers": [
            {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": CLAMP_TO_EDGE, "wrapT": CLAMP_TO_EDGE}
        ],
    }
    builder.write(Path(path), name, attributes, indices, {"baseColorTexture": {"index": 0}}, extra)


def write_colored_glb(path: str | os.PathLike[str], textured: TexturedMesh, name: str = "Splatsmith") -> None:
    """The same with a colour at each vertex instead of a picture; no vertex is doubled. Raises BadInput.

    glTF multiplies vertex colours with the picture, so that a file holds one or the other; and its colours are linear.
    """
    vertices, faces, _ = plain_mesh(textured)
    srgb = vertex_colors(textured)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    # Sixteen bits, as eight are too few for dark linear colours; with alpha, as rows must begin at multiples of four.
    colors = np.full((len(linear), 4), 65535, "<u2")
    colors[:, :3] = np.rint(linear * 65535)
    builder = _Builder()
    attributes = {
        **builder.places(vertices, smooth_normals(vertices, faces)),
        "COLOR_0": builder.accessor(colors, UNSIGNED_SHORT, "VEC4", ARRAY_BUFFER, normalized=True),
    }
    builder.write(Path(path), name, attributes, builder.indices(faces, len(vertices)), {}, {})


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

    def accessor(
        self,
        values: NDArray,
        component: int,
        kind: str,
        target: int,
        bounds: bool = False,
        normalized: bool = False,
    ) -> int:
        accessor: dict[str, Any] = {
            "bufferView": self.view(values.tobytes(), target),
            "componentType": component,
            "count": len(values),
            "type": kind,
        }
        if normalized:
            accessor["normalized"] = True
        if bounds:
            accessor["min"], accessor["max"] = values.min(axis=0).tolist(), values.max(axis=0).tolist()
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def places(self, positions: NDArray, normals: NDArray) -> dict[str, int]:
        """The attributes that every mesh has."""
        return {
            "POSITION": self.accessor(positions.astype("<f4"), FLOAT, "VEC3", ARRAY_BUFFER, bounds=True),
            "NORMAL": self.accessor(normals.astype("<f4"), FLOAT, "VEC3", ARRAY_BUFFER),
        }

    def indices(self, faces: NDArray, vertices: int) -> int:
        """The triangles; glTF keeps the highest index of each width for itself."""
        wide = vertices >= 65535
        kind = UNSIGNED_INT if wide else UNSIGNED_SHORT
        return self.accessor(faces.reshape(-1).astype("<u4" if wide else "<u2"), kind, "SCALAR", ELEMENT_ARRAY_BUFFER)

    def write(
        self,
        path: Path,
        name: str,
        attributes: dict[str, int],
        indices: int,
        color: dict[str, Any],
        extra: dict[str, Any],
    ) -> None:
        """The file: one mesh of these attributes, one material with this base colour, and `extra` beside them."""
        surface = {**color, "metallicFactor": 0.0, "roughnessFactor": 0.8}
        primitive = {"attributes": attributes, "indices": indices, "material": 0, "mode": 4}
        document = {
            "asset": {"version": "2.0", "generator": "Splatsmith"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0, "name": name}],
            "meshes": [{"name": name, "primitives": [primitive]}],
            "materials": [{"name": name, "pbrMetallicRoughness": surface, "doubleSided": False}],
            **extra,
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.data)}],
        }
        text = json.dumps(document, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(self.data), b"BIN\0") + bytes(self.data)
        replace_file(path, struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
