"""The weights that recipes need: where they lie, whether they are there, and under which licence. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "starter_pack"
_LARGEST_HEADER = 64 * 1024 * 1024


@dataclass(frozen=True)
class Pack:
    """One file of weights. licence: what holds where the file itself names none."""

    name: str
    title: str
    file_name: str
    licence: str = "GPL-3.0-or-later"

    @property
    def path(self) -> Path:
        return FOLDER / self.file_name

    @property
    def present(self) -> bool:
        return self.path.is_file()

    def describe(self) -> dict[str, Any]:
        """name, title, present, bytes, licence, sha256 and file; as the wire has it."""
        facts: dict[str, Any] = {"name": self.name, "title": self.title, "present": self.present}
        if not self.present:
            return {**facts, "bytes": None, "licence": self.licence, "sha256": None, "file": self.file_name}
        status = self.path.stat()
        metadata = read_metadata(self.path)
        return {
            **facts,
            "bytes": status.st_size,
            "licence": str(metadata.get("licence", self.licence)),
            "sha256": _sha256(self.path, status.st_size, status.st_mtime_ns),
            "file": self.file_name,
        }


PACKS: dict[str, Pack] = {
    "dmv3d": Pack("dmv3d", "Starter DMV3D: text or one picture to four views", "dmv3d.safetensors"),
    "lgm": Pack("lgm", "Starter LGM: four views to Gaussians", "lgm.safetensors"),
}


def read_metadata(path: Path) -> dict[str, Any]:
    """What a safetensors file says of itself; empty where it says nothing or is damaged."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LARGEST_HEADER:
                return {}
            header = json.loads(file.read(length))
    except (OSError, ValueError, struct.error):
        return {}
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    return {key: _value(value) for key, value in metadata.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@lru_cache(maxsize=32)
def _sha256(path: Path, size: int, modified: int) -> str:
    """Hexadecimal SHA-256; asked again only when the file changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
