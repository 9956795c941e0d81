"""report.json: where a result comes from, and what it cost."""

from __future__ import annotations

import hashlib
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from backend import __version__
from backend.job.jobfolder import PICTURE, REPORT, JobFolder
from backend.job.request import RESULTS, Request
from backend.packs import PACKS, PUBLISHED
from backend.reconstruct.normalize import Similarity
from backend.views.picture import further_packs
from backend.weights import sha256_of

_LIBRARIES = ("torch", "numpy", "numba", "pillow", "scikit-image", "xatlas", "fast-simplification", "gsplat")
_STAGE_RESULT = {
    "picture": "picture",
    "views": "views",
    "reconstruct": "gaussians",
    "surface": "mesh",
    "texture": "mesh",
    "export": "mesh",
}


class Report:
    """Gathers what a job learns; what earlier stages wrote is kept when only later ones are made again."""

    def __init__(self, request: Request, folder: JobFolder) -> None:
        self._request, self._folder = request, folder
        self._weights: dict[str, dict[str, Any]] = {}
        self._earlier: dict[str, Any] = {}
        self._plan: list[str] = []
        self._device = ""
        self.result = ""  # the one that is being made
        self.picture: dict[str, Any] | None = None  # how words became one
        self.sampling: dict[str, Any] | None = None
        self.similarity: Similarity | None = None
        self.posed_pictures: list[str] | None = None
        self.refinement: dict[str, Any] | None = None
        self.sizes: dict[str, int] = {}

    def begin(self, plan: list[str], device: str) -> None:
        """Remember what the folder's report says of results that are not made anew."""
        self._plan, self._device, self.result = plan, device, plan[0]
        if plan[0] != self._request.first_result:
            self._earlier = self._folder.read_json(REPORT) or {}

    def known_similarity(self) -> Similarity | None:
        """How posed pictures were moved, in this job or an earlier one whose views are used."""
        if self.similarity is None and isinstance(self._earlier.get("similarity"), dict):
            return Similarity.from_json(self._earlier["similarity"])
        return self.similarity

    def names(self, pack: str) -> bool:
        """Whether these weights took part in what the job goes on from, as far as that is known."""
        return pack in _by_name(self._earlier.get("weights"))

    def use_pack(self, name: str) -> None:
        """These weights took part in the result that is being made."""
        pack = PACKS.get(name) or PUBLISHED.get(name)
        if pack is not None:
            before = self._weights.get(name, {}).get("for", [])
            self._weights[name] = {"name": name, "for": list(dict.fromkeys([*before, self.result]))} | {
                key: value for key, value in pack.describe().items() if key in ("file", "sha256", "licence")
            }

    def write(self, seconds: dict[str, float], warnings: list[str]) -> None:
        """Write report.json. Raises BadInput where the folder cannot be written."""
        earlier = self._earlier
        edited = earlier.get("edited_views")
        edited = [change for change in edited if isinstance(change, dict)] if isinstance(edited, list) else []
        for pack in (*further_packs(warnings), *(str(change.get("cut_out_by")) for change in edited)):
            if pack not in self._weights:
                self.use_pack(pack)
        standing = RESULTS[: RESULTS.index(self._plan[0])]
        kept = {
            stage: spent
            for stage, spent in _mapping(earlier.get("seconds")).items()
            if _STAGE_RESULT.get(stage) in standing
        }
        weights = self._all_weights(standing)
        document: dict[str, Any] = {
            "splatsmith": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **self._request.to_json(),
            "source_sha256": self._source_hash(),
            "picture": self._picture(),
            "made": [result for result in RESULTS if self._folder.has(result)],
            "sampling": self.sampling or earlier.get("sampling"),
            "refinement": self.refinement or (earlier.get("refinement") if self._plan[0] == "mesh" else None),
            "weights": list(weights.values()),
            "licences": sorted({str(entry.get("licence")) for entry in weights.values()}),
            "versions": versions(),
            "device": self._device,
            "seconds": {**kept, **{stage: round(spent, 3) for stage, spent in seconds.items()}},
            "sizes": {**_mapping(earlier.get("sizes")), **self.sizes, "bytes": self._folder.sizes()},
            "warnings": list(dict.fromkeys([*_texts(earlier.get("warnings")), *warnings])),
            "similarity": self.similarity.to_json() if self.similarity else earlier.get("similarity"),
            "edited_views": earlier.get("edited_views"),
            "posed_pictures": self.posed_pictures or earlier.get("posed_pictures"),
        }
        self._folder.write_json(REPORT, {key: value for key, value in document.items() if value is not None})

    def _all_weights(self, standing: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """By name: those of this job, and of an earlier one's results that are still `standing`."""
        found = dict(self._weights)
        for name, entry in _by_name(self._earlier.get("weights")).items():
            made = _texts(entry.get("for", list(standing)))  # reports of old did not say
            made = [result for result in made if result in standing]
            if made:
                now = found.get(name, entry)
                found[name] = {**now, "for": [*made, *(self._weights.get(name, {}).get("for", []))]}
        return {name: found[name] for name in sorted(found, key=lambda name: RESULTS.index(found[name]["for"][0]))}

    def _picture(self) -> dict[str, Any] | None:
        """How the picture came to be that the views were made of, or that somebody put another in its place."""
        path = self._folder / PICTURE
        if not self._request.makes_picture or not path.is_file():
            return None
        earlier, found = _mapping(self._earlier.get("picture")), sha256_of(path)
        if self.picture is not None:
            return {**self.picture, "sha256": found}
        return earlier if earlier.get("sha256") == found else {"replaced_by_sha256": found}

    def _source_hash(self) -> str | None:
        source = self._request.image or self._request.cameras or self._request.gaussians
        if source is None:
            return None
        try:
            with Path(source).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return self._earlier.get("source_sha256")  # a resumed job's source may be gone


def versions() -> dict[str, str]:
    """Of Python, the system and the libraries that are installed."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _by_name(weights: Any) -> dict[str, dict[str, Any]]:
    named = [entry for entry in weights if isinstance(entry, dict)] if isinstance(weights, list) else []
    return {entry["name"]: entry for entry in named if isinstance(entry.get("name"), str)}
