"""The transfer of files, resumed as the real one does."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, BinaryIO

_PIECES = 20


def http_get(url: str, temp_file: BinaryIO, *, resume_size: int, headers: Any, expected_size: int) -> None:
    content = (Path(os.environ["FAKE_HUB"]) / url).read_bytes()
    piece = -(-len(content) // _PIECES)
    with (Path(os.environ["FAKE_HUB"]).parent / "sent").open("a") as sent:
        for start in range(resume_size, expected_size, piece):
            temp_file.write(content[start : start + piece])
            temp_file.flush()
            print(temp_file.tell(), file=sent, flush=True)
            time.sleep(float(os.environ.get("FAKE_HUB_SECONDS", "0")) / _PIECES)
    print("a library prints this")
