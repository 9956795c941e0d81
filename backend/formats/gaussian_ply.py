"""Gaussians as the standard 3DGS .ply: logit opacity, log scale, SH DC colour, wxyz quaternion.

Written as binary little endian with 14 float properties; read from any order of properties, any scalar type, ascii or
binary, with normals, higher SH bands and extras left alone, as other tools write them; and from the packed .ply of web
editors (see packed_ply).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from backend.datatypes import Gaussians
from backend.errors import BadInput
from backend.formats.packed_ply import CHUNK, RANGES, WORDS, unpack
from backend.formats.whole_file import whole_file

SH_DC = 0.28209479177387814  # the constant of the zeroth spherical harmonic
PROPERTIES = (
    *("x", "y", "z"),
    *("f_dc_0", "f_dc_1", "f_dc_2"),
    "opacity",
    *("scale_0", "scale_1", "scale_2"),
    *("rot_0", "rot_1", "rot_2", "rot_3"),
)
MOST_GAUSSIANS = 20_000_000
_LONGEST_HEADER = 65_536
_SCALAR_TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1"},
    **{"short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2"},
    **{"int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4"},
    **{"float": "f4", "float32": "f4", "double": "f8", "float64": "f8"},
}


def write_gaussian_ply(path: Path | str, gaussians: Gaussians, min_opacity: float = 0.005) -> int:
    """Write the Gaussians whose opacity is at least `min_opacity`, and return how many they are.

    The values are LGM's: opacity clamped to [1e-6, 1 - 1e-6] before the logit, 1e-8 added before the log of a scale.
    Raises BadInput where the file cannot be written.
    """
    opacities = gaussians.opacities.detach().float().cpu()
    keep = opacities >= min_opacity
    means, scales, quats, colors = (
        getattr(gaussians, name).detach().float().cpu()[keep] for name in ("means", "scales", "quats", "colors")
    )
    visible = opacities[keep].clamp(1e-6, 1 - 1e-6)
    columns = [
        means,
        (colors - 0.5) / SH_DC,
        torch.log(visible / (1 - visible))[:, None],
        torch.log(scales + 1e-8),
        quats,
    ]
    table = torch.cat(columns, dim=1).numpy().astype("<f4")
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [f"property float {name}" for name in PROPERTIES] + ["end_header"]
    with whole_file(Path(path)) as temporary, temporary.open("wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii"))
        file.write(table.tobytes())
    return len(table)


def read_gaussian_ply(path: Path | str, warnings: list[str] | None = None) -> Gaussians:
    """Read a 3DGS .ply in its own frame; sentences about what was left out are appended to `warnings`.

    Rows with a value that is no finite number are dropped. Raises BadInput for a file that is missing, damaged, no
    Gaussian .ply, empty, or beyond MOST_GAUSSIANS.
    """
    path, notes = Path(path), warnings if warnings is not None else []
    try:
        with path.open("rb") as file:
            header = _read_header(file, path)
            _check_header(header, path, notes)
            columns = _read_columns(file, header, path)
    except OSError as error:
        reason = "There is no file" if isinstance(error, FileNotFoundError) else "No file can be read"
        raise BadInput(f"{reason} at {path}.", "Check the path.") from error
    except MemoryError as error:
        raise BadInput(f"{path.name} is too large to be read here.", "Prune it in a splat editor first.") from error
    return _to_gaussians(columns, path, notes)


@dataclass
class _Header:
    format: str
    vertices: int
    properties: list[tuple[str, str]]  # (name, numpy type) of the vertex element
    skip_rows: int  # ascii lines before the vertices
    skip_bytes: int  # binary bytes before the vertices
    # Of a packed file: how many chunks there are, their properties, and the binary bytes before them.
    chunks: tuple[int, list[tuple[str, str]], int] | None = None

    @property
    def packed(self) -> bool:
        return self.chunks is not None and any(name == WORDS[0] for name, _ in self.properties)


def _damaged(path: Path, what: str) -> BadInput:
    return BadInput(f"{path.name} is not a usable .ply file: {what}.", "Export the Gaussians again as a standard .ply.")


def _read_header(file: BinaryIO, path: Path) -> _Header:
    start = file.read(_LONGEST_HEADER)
    if not start.startswith((b"ply\n", b"ply\r\n", b"ply\r")):
        raise _damaged(path, "it does not begin with 'ply'")
    end = start.find(b"end_header")
    if end < 0:
        raise _damaged(path, "its header has no end")
    after = start[end + 10 : end + 12]
    file.seek(end + 10 + (2 if after == b"\r\n" else 1))
    layout = ""
    # Name, count and properties of each; a property's type is None for lists.
    elements: list[tuple[str, int, list[tuple[str, str | None]]]] = []
    for line in start[:end].decode("latin-1").splitlines():
        words = line.split()
        try:
            if not words or words[0] in ("ply", "comment", "obj_info"):
                continue
            if words[0] == "format":
                layout = words[1]
            elif words[0] == "element":
                elements.append((words[1], int(words[2]), []))
            elif words[0] == "property":
                elements[-1][2].append((words[-1], None if words[1] == "list" else _SCALAR_TYPES[words[1]]))
        except (IndexError, KeyError, ValueError) as error:
            raise _damaged(path, f"its header says '{line.strip()[:60]}'") from error
    return _find_vertices(layout, elements, path)


def _find_vertices(layout: str, elements: list[tuple[str, int, list[tuple[str, str | None]]]], path: Path) -> _Header:
    if layout not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise _damaged(path, f"its format '{layout[:40]}' is unknown")
    order = ">" if layout == "binary_big_endian" else "<"
    skip_rows = skip_bytes = 0
    chunks = None
    for name, count, properties in elements:
        if count < 0:
            raise _damaged(path, f"it says it holds {count} of '{name[:40]}'")
        typed = [(key, order + kind) for key, kind in properties if kind is not None]
        if len(typed) < len(properties):
            raise _damaged(path, f"its element '{name[:40]}' holds lists before the Gaussians end")
        if len({key for key, _ in typed}) < len(typed):
            raise _damaged(path, f"its element '{name[:40]}' names a property twice")
        if name == "vertex":
            return _Header(layout, count, typed, skip_rows, skip_bytes, chunks)
        if name == "chunk":
            chunks = (count, typed, skip_bytes)
        skip_rows += count
        skip_bytes += count * sum(int(kind[2:]) for _, kind in typed)
    raise _damaged(path, "it holds no vertices")


def _check_header(header: _Header, path: Path, notes: list[str]) -> None:
    names = {name for name, _ in header.properties}
    flat = "scale_1" in names and "scale_2" not in names
    missing = [name for name in PROPERTIES if name not in names and not (flat and name == "scale_2")]
    if header.packed and header.chunks is not None:
        missing = [name for name in WORDS if name not in names]
        missing += [name for name in RANGES if name not in {key for key, _ in header.chunks[1]}]
        if header.format == "ascii" or header.chunks[0] * CHUNK < header.vertices:
            raise _damaged(path, "it is packed in a way that no editor does")
    if missing:
        raise BadInput(
            f"{path.name} holds no Gaussians: it lacks {', '.join(missing[:4])}{' and more' if missing[4:] else ''}.",
            "Use a .ply of 3D Gaussian splatting, not a mesh or a plain point cloud.",
        )
    if header.vertices == 0:
        raise BadInput(f"{path.name} holds no Gaussians.", "Use a file that is not empty.")
    if header.vertices > MOST_GAUSSIANS:
        raise BadInput(
            f"{path.name} holds {header.vertices:,} Gaussians; {MOST_GAUSSIANS:,} is the most that is read.",
            "Prune it in a splat editor first.",
        )
    if any(name.startswith("f_rest_") for name in names):
        notes.append(f"{path.name} has colours that change with the direction of view; only the plain colour is used.")


def _read_columns(file: BinaryIO, header: _Header, path: Path) -> dict[str, np.ndarray]:
    """The wanted columns as float32 [N]; only these are copied out of the file's table."""
    if header.packed and header.chunks is not None:
        count, properties, before = header.chunks
        begin = file.tell()
        chunks = _table(file, properties, count, begin + before, path)
        words = _table(file, header.properties, header.vertices, begin + header.skip_bytes, path)
        if any(words.dtype[name].kind not in "iu" for name in WORDS):
            raise _damaged(path, "what is packed in it are no whole numbers")
        return unpack(chunks, words, SH_DC)
    wanted = [name for name, _ in header.properties if name in PROPERTIES]
    if header.format == "ascii":
        return _read_ascii(file, header, wanted, path)
    table = _table(file, header.properties, header.vertices, file.tell() + header.skip_bytes, path)
    with np.errstate(over="ignore"):
        return {name: np.array(table[name], dtype=np.float32) for name in wanted}


def _table(file: BinaryIO, properties: list[tuple[str, str]], count: int, begin: int, path: Path) -> np.ndarray:
    """The file's rows from byte `begin` on, not read before they are looked at."""
    row = np.dtype(properties)
    # Asked before anything is allocated, as a damaged header may promise any number of rows.
    if file.seek(0, io.SEEK_END) < begin + count * row.itemsize:
        raise _damaged(path, "it is cut short")
    return np.memmap(path, dtype=row, mode="r", offset=begin, shape=(count,))


def _read_ascii(file: BinaryIO, header: _Header, wanted: list[str], path: Path) -> dict[str, np.ndarray]:
    begin = file.tell()
    least = 2 * len(header.properties) * header.vertices  # a digit and a separator each
    if file.seek(0, io.SEEK_END) - begin < least - 1:
        raise _damaged(path, "it is cut short")
    file.seek(begin)
    indices = [index for index, (name, _) in enumerate(header.properties) if name in wanted]
    try:
        table = np.loadtxt(
            io.TextIOWrapper(file, encoding="latin-1"),
            dtype=np.float32,
            comments=None,
            skiprows=header.skip_rows,
            max_rows=header.vertices,
            usecols=indices,
            ndmin=2,
        )
    except ValueError as error:
        raise _damaged(path, "a row of it holds something other than numbers") from error
    if len(table) < header.vertices:
        raise _damaged(path, "it is cut short")
    return {header.properties[index][0]: table[:, at] for at, index in enumerate(indices)}


def _to_gaussians(columns: dict[str, np.ndarray], path: Path, notes: list[str]) -> Gaussians:
    if "scale_2" not in columns:  # 2D Gaussian splatting: discs without a thickness
        columns["scale_2"] = np.minimum(columns["scale_0"], columns["scale_1"]) - np.float32(np.log(100.0))
    table = torch.from_numpy(np.stack([columns[name] for name in PROPERTIES], axis=1))
    means, dc, opacity, log_scales, quats = table.split([3, 3, 1, 3, 4], dim=1)
    # An infinite opacity or a scale of exp(-inf) = 0 has a meaning; the rest of the infinities have none.
    opacity, log_scales = opacity.clamp(-30, 30), log_scales.clamp_min(-30)
    good = torch.cat([means, dc, opacity, log_scales.exp(), quats], dim=1).isfinite().all(dim=1)
    good &= quats.norm(dim=1) > 1e-8
    if not bool(good.any()):
        raise BadInput(f"{path.name} holds no Gaussian with usable numbers.", "Export it again.")
    dropped = int((~good).sum())
    if dropped:
        notes.append(f"{dropped:,} of {len(good):,} Gaussians in {path.name} hold unusable numbers and were left out.")
    return Gaussians(
        means=means[good],
        scales=log_scales[good].exp(),
        quats=torch.nn.functional.normalize(quats[good], dim=1),
        opacities=torch.sigmoid(opacity[good, 0]),
        colors=(dc[good] * SH_DC + 0.5).clamp(0, 1),
    )
