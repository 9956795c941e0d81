"""Running a job in a test, and looking at what it left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import backend.job.pipeline
from backend.job.models import Models
from backend.job.request import Request

PROMPT = "a red mushroom"


def run(folder: Path, stop: Callable[[], bool] | None = None, models: Models | None = None, **fields: Any) -> list:
    stages = {name: fields.pop(name) for name in ("from_stage", "to_stage", "device") if name in fields}
    fields.setdefault("faces", 100)
    fields.setdefault("texture_size", 64)
    request = Request.from_json(fields)
    return list(backend.job.pipeline.run_job(request, folder, stop=stop, models=models, **stages))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def contents(folder: Path) -> dict[str, bytes]:
    """What is in the folder, but for the names of the files that say when."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("report.json", "request.json", "views_preview.png")
    }
