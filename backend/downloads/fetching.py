"""Weights fetched or imported by a process of its own, so that it can be stopped at any moment:
`python -m backend.downloads.fetching download NAME` or `import NAME PATH`, which tells how it goes as JSON lines.

What was fetched stays, so that the next try goes on from there.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO, Any

from backend import errors
from backend.datatypes import Step
from backend.downloads.download import download, import_from
from backend.packs import Published, find_published
from backend.parent import die_with_parent

_LOOK_EVERY = 0.3  # seconds


def fetch(pack: Published, source: Path | None = None) -> Generator[Step, None, None]:
    """Download a pack, or import it from `source`, yielding a Step, in megabytes, a few times a second.

    Closing the generator stops it. Raises whatever `download` and `import_from` raise.
    """
    what = ["download", pack.name] if source is None else ["import", pack.name, str(source)]
    process = subprocess.Popen(
        [sys.executable, "-m", "backend.downloads.fetching", *what],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    lines: queue.Queue[bytes | None] = queue.Queue()
    assert process.stdout is not None
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    said, total = "Asking for it" if source is None else "Reading", 0
    try:
        while True:
            try:
                line = lines.get(timeout=_LOOK_EVERY)
            except queue.Empty:
                line = b"{}"
            if line is None:
                break
            news = _parsed(line)
            if "error" in news:
                raise _as_error(news["error"])
            if news.get("done"):
                return
            said, total = str(news.get("say", said)), int(news.get("bytes", total))
            here = min(_bytes_below(pack.folder), total)
            yield Step(here // 1_000_000, max(total // 1_000_000, 1), f"{pack.name}, {said}")
        again = "Try again: it goes on where it was." if source is None else "Try again."  # a copy begins anew
        raise errors.MissingWeights(f"Getting {pack.name} broke off.", again)
    finally:
        process.kill()
        process.wait()


def _read(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        news = json.loads(line)
    except ValueError:
        return {}  # a library's print
    return news if isinstance(news, dict) else {}


def _as_error(facts: dict[str, Any]) -> errors.SplatsmithError:
    kinds = {kind.code: kind for kind in (errors.BadInput, errors.MissingWeights, errors.Offline, errors.OutOfMemory)}
    return kinds.get(facts.get("code", ""), errors.SplatsmithError)(facts.get("message", ""), facts.get("fix", ""))


def _bytes_below(folder: Path) -> int:
    """Of all files, half-fetched ones too."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except OSError:
                continue  # renamed in this moment
    return total


def main(arguments: Sequence[str]) -> int:
    """The child: does it and says how it goes."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries' prints belong into the log
    die_with_parent(lambda: os._exit(0))

    def tell(**news: Any) -> None:
        print(json.dumps(news), file=out, flush=True)

    try:
        pack = find_published(arguments[1])
        if arguments[0] == "download":
            download(pack, lambda text: tell(say=text), lambda total: tell(bytes=total))
        else:
            import_from(pack, Path(arguments[2]), lambda text: tell(say=text), lambda total: tell(bytes=total))
    except errors.SplatsmithError as error:
        tell(error={"code": error.code, "message": error.message, "fix": error.fix})
        return 1
    except MemoryError:
        tell(error={"code": "out_of_memory", "message": "The memory was too small.", "fix": "Close other programs."})
        return 1
    tell(done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
