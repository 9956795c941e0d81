"""The weights that recipes need: where they lie, whether they are there, and under which licence. Needs no torch.

The starter pack comes with the project. Published checkpoints are in the per-user data folder once somebody downloaded
or imported them; the register below says where each is published and what its licence forbids. Nothing here has been
seen on the hub: it was gathered from the released code's pages, and `unconfirmed` names what those do not say.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from backend.errors import BadInput, Offline

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
    "reader": Pack("reader", "Starter reader: what a picture shows and from where", "reader.safetensors"),
    "lgm": Pack("lgm", "Starter LGM: four views to Gaussians", "lgm.safetensors"),
}


@dataclass(frozen=True)
class Published:
    """A checkpoint that its authors published.

    repository: on the hub, empty where its user is the author and brings it; files: their names there, or patterns for
    several; bytes: about how many in all, None where not known. licence: as its page is said to state, "not stated"
    where no page did; forbids: what that licence does not allow, in a sentence. gated: the hub asks for a login and for
    consent. unconfirmed: what to check on its page. model: the network that loads it, of
    backend.reconstruct.checkpoints.MODELS. also: names of further files that can be imported in place of the first.
    """

    name: str
    title: str
    repository: str
    files: tuple[str, ...]
    bytes: int | None
    licence: str
    forbids: str
    unconfirmed: tuple[str, ...] = ()
    gated: bool = False
    model: str | None = None
    also: tuple[str, ...] = ()

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{self.repository}" if self.repository else "docs/training.md"

    @property
    def folder(self) -> Path:
        return data_folder() / "weights" / self.name

    @property
    def record(self) -> dict[str, Any]:
        """What a download or an import left: repository, revision, files (their bytes and sha256); else empty."""
        try:
            content = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) and isinstance(content.get("files"), dict) else {}

    @property
    def path(self) -> Path:
        """The file that a network loads: the first of those that are there, else where it would be."""
        candidates = [self.folder / name for name in (*self.files, *self.also)]
        return next((path for path in candidates if path.is_file()), candidates[0])

    @property
    def present(self) -> bool:
        """Whether all files that were recorded are there, as large as they were."""
        files = self.record.get("files", {})
        return bool(files) and all(_size(self.folder / name) == facts.get("bytes") for name, facts in files.items())

    @property
    def usable(self) -> bool:
        """Whether they can be loaded: recorded, or put there by hand, but not what a broken download left."""
        return self.present or (self.path.is_file() and not (self.folder / HALVES).exists())

    def describe(self) -> dict[str, Any]:
        """As Pack.describe, and repository, page, forbids, gated and unconfirmed."""
        files = self.record.get("files", {}) if self.present else {}
        first = files.get(self.path.relative_to(self.folder).as_posix(), {})
        return {
            "name": self.name,
            "title": self.title,
            "present": self.present,
            "bytes": sum(facts["bytes"] for facts in files.values()) if files else self.bytes,
            "licence": self.licence,
            "sha256": first.get("sha256"),
            "file": self.path.name,
            "repository": self.repository,
            "page": self.page,
            "forbids": self.forbids,
            "gated": self.gated,
            "unconfirmed": list(self.unconfirmed),
        }


RECORD = "weights.json"
HALVES = ".downloading"  # in a pack's folder: what came of files that broke off; gone when all is there
_DIFFUSERS = ("model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors")
_OLDER_DIFFUSERS = (*_DIFFUSERS, "*/diffusion_pytorch_model*.bin", "*/pytorch_model*.bin")  # pickles where no other
# Of half precision alone: everything is there in float32 too, and in the formats of other libraries.
_HALF_SDXL = (
    "model_index.json", "scheduler/scheduler_config.json", "tokenizer/*", "tokenizer_2/*",
    *(f"{part}/config.json" for part in ("text_encoder", "text_encoder_2", "unet", "vae")),
    "text_encoder/model.fp16.safetensors", "text_encoder_2/model.fp16.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors",
)  # fmt: skip
_NO_LICENCE = "Whatever the authors do not allow: where no licence is stated, no right to use or pass on is given."
_NON_COMMERCIAL = "Commercial use, of the weights and of what is made with them."
PUBLISHED: dict[str, Published] = {
    entry.name: entry
    for entry in (
        Published(
            "lgm-big", "LGM: four views to 65,536 Gaussians", "ashawkey/LGM", ("model_fp16_fixrot.safetensors",),
            830_000_000, "MIT", "Nothing, as long as the notice stays with copies.", ("the size",), model="lgm",
            also=("model_fixrot.safetensors", "model_fp16.safetensors", "model.safetensors"),
        ),
        Published(
            "grm-u", "GRM: four even views (of Instant3D, SV3D, or your own) to Gaussians", "justimyhxu/GRM",
            ("grm_u.pth",), None, "not stated", _NO_LICENCE, ("the licence", "the size"), model="grm",
        ),
        Published(
            "grm-r", "GRM for the views of Zero123++ v1.2", "justimyhxu/GRM", ("grm_r.pth",), None, "not stated",
            _NO_LICENCE, ("the licence", "the size"), model="grm",
        ),
        Published(
            "grm-zero123plus", "GRM for the views of Zero123++ v1.1", "justimyhxu/GRM", ("grm_zero123plus.pth",), None,
            "not stated", _NO_LICENCE, ("the licence", "the size"), model="grm",
        ),
        Published(
            "geolrm", "GeoLRM: any number of views to Gaussians", "LinShan/GeoLRM", ("geolrm.ckpt",), 1_338_000_000,
            "Apache-2.0", "Nothing, as long as licence and notices stay with copies.",
            ("that the code's licence is the weights' too", "the size"), model="geolrm",
        ),
        Published(
            "mvdream", "MVDream: text to four views", "ashawkey/mvdream-sd2.1-diffusers", _DIFFUSERS, 2_585_000_000,
            "not stated", _NO_LICENCE, ("the licence", "the files' names", "the size"), model="mvdream",
        ),
        Published(
            "imagedream", "ImageDream: a picture to four views", "ashawkey/imagedream-ipmv-diffusers", _DIFFUSERS,
            3_995_000_000, "not stated", _NO_LICENCE, ("the licence", "the files' names", "the size"),
            model="imagedream",
        ),
        Published(
            "sdxl", "Stable Diffusion XL: words to the picture that other generators see",
            "stabilityai/stable-diffusion-xl-base-1.0", _HALF_SDXL, 6_940_000_000, "CreativeML Open RAIL++-M",
            "Uses that do harm or break the law, as its attachment A lists them; who passes the weights on passes "
            "these limits on too. Commercial use is not forbidden.", ("the size",), model="sdxl",
        ),
        Published(
            "zero123plus-v1.1", "Zero123++ v1.1: a picture to six views", "sudo-ai/zero123plus-v1.1", _OLDER_DIFFUSERS,
            None, "CC-BY-NC-4.0", _NON_COMMERCIAL, ("the files' names", "the size"), model="zero123plus",
        ),
        Published(
            "zero123plus-v1.2", "Zero123++ v1.2: a picture to six views", "sudo-ai/zero123plus-v1.2", _OLDER_DIFFUSERS,
            None, "CC-BY-NC-4.0", _NON_COMMERCIAL, ("the files' names", "the size"), model="zero123plus",
        ),
        Published(
            "zero123plus-white", "InstantMesh's U-Net for Zero123++ v1.2: views on white, as GeoLRM's authors use it",
            "TencentARC/InstantMesh", ("diffusion_pytorch_model.bin",), 3_460_000_000, "not stated", _NO_LICENCE,
            ("the licence", "the size"), model="zero123plus-unet",
        ),
        Published(
            "sv3d-p", "SV3D: a picture to 21 views from any height", "stabilityai/sv3d", ("sv3d_p.safetensors",),
            9_370_000_000, "Stability AI non-commercial community licence", _NON_COMMERCIAL, gated=True, model="sv3d",
        ),
        Published(
            "sv3d-u", "SV3D: a picture to 21 views", "stabilityai/sv3d", ("sv3d_u.safetensors",), 9_360_000_000,
            "Stability AI non-commercial community licence", _NON_COMMERCIAL, gated=True, model="sv3d",
        ),
        Published(
            "dmv3d-own", "DMV3D as you trained it: text or one picture to four views and their object", "",
            ("dmv3d.safetensors",), None, "yours", "Nothing, unless you did not train it yourself.", model="dmv3d",
        ),
        Published(
            "matting", "BiRefNet lite: cuts the object out of any picture", "onnx-community/BiRefNet_lite-ONNX",
            ("onnx/model.onnx",), 224_000_000, "MIT", "Nothing, as long as the notice stays with copies.",
            ("the size",), also=("birefnet-general-lite.onnx", "isnet-general-use.onnx", "u2net.onnx"),
        ),
    )
}  # fmt: skip


def find_published(name: str | None) -> Published:
    """Raises BadInput for a name that the register does not have, Offline for the starter pack's."""
    if name in PACKS:
        raise Offline(f"The weights '{name}' come with Splatsmith and are not downloaded.", "Install Splatsmith again.")
    if name is None:
        raise BadInput("Which weights is not said.", f"Name one of {', '.join(PUBLISHED)}.")
    if name not in PUBLISHED:
        raise BadInput(f"There are no weights called '{str(name)[:40]}'.", f"Use one of {', '.join(PUBLISHED)}.")
    return PUBLISHED[name]


def data_folder() -> Path:
    """The per-user data folder, the one that the add-on uses: SPLATSMITH_HOME, else the platform's place for such."""
    if chosen := os.environ.get("SPLATSMITH_HOME"):
        return Path(chosen).expanduser().absolute()
    user = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or user / "AppData" / "Local") / "Splatsmith"
    if sys.platform == "darwin":
        return user / "Library" / "Application Support" / "Splatsmith"
    return Path(os.environ.get("XDG_DATA_HOME") or user / ".local" / "share") / "splatsmith"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


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
