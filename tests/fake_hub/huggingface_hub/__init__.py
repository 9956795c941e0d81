"""A stand-in for the hub's client, for processes that the tests start: serves the files in $FAKE_HUB, slowly if it is
told to ($FAKE_HUB_SECONDS a file), resumes as the real one does, and notes the bytes it sent in $FAKE_HUB/../sent."""

from __future__ import annotations

import hashlib
import os
import time
import types
from pathlib import Path

from . import errors

__all__ = ["HfApi", "errors", "hf_hub_download"]
_PIECES = 20


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


def hf_hub_download(repository: str, name: str, *, revision: str, local_dir: Path) -> str:
    content = (Path(os.environ["FAKE_HUB"]) / name).read_bytes()
    half = Path(local_dir) / ".cache" / "huggingface" / "download" / f"{name}.incomplete"
    half.parent.mkdir(parents=True, exist_ok=True)
    piece = -(-len(content) // _PIECES)
    with half.open("ab") as file, (Path(os.environ["FAKE_HUB"]).parent / "sent").open("a") as sent:
        while file.tell() < len(content):
            file.write(content[file.tell() : file.tell() + piece])
            file.flush()
            print(file.tell(), file=sent, flush=True)
            time.sleep(float(os.environ.get("FAKE_HUB_SECONDS", "0")) / _PIECES)
    target = Path(local_dir) / name
    os.replace(half, target)
    print("a library prints this")
    return str(target)
