"""A stand-in for the hub's client, for processes that the tests start: serves the files in $FAKE_HUB, slowly if it is
told to ($FAKE_HUB_SECONDS a file), resumes as the real one does, and notes the bytes it sent in $FAKE_HUB/../sent."""

from __future__ import annotations

import hashlib
import os
import types
from pathlib import Path

from . import errors, file_download, utils

__all__ = ["HfApi", "errors", "file_download", "hf_hub_url", "utils"]


class HfApi:
    def model_info(self, repository: str, files_metadata: bool) -> types.SimpleNamespace:
        served = sorted(path for path in Path(os.environ["FAKE_HUB"]).iterdir())
        if not served:
            raise errors.GatedRepoError("not for you")
        siblings = [
            types.SimpleNamespace(
                rfilename=path.name,
                size=path.stat().st_size,
                lfs=types.SimpleNamespace(sha256=hashlib.sha256(path.read_bytes()).hexdigest()),
                blob_id="",
            )
            for path in served
        ]
        return types.SimpleNamespace(sha="abc", siblings=siblings)


def hf_hub_url(repository: str, name: str, *, revision: str) -> str:
    return name
