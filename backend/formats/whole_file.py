"""Writing a file whole: under a temporary name beside its place, then renamed into it, so no half file is ever seen."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from backend.errors import BadInput

TEMPORARY_PREFIX = ".unfinished-"


def writing_failed(path: Path, error: OSError) -> BadInput:
    """The sentence for an OSError met while writing to `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BadInput(
            f"The disk is full: {path} could not be written.", "Free some space or choose a folder on another disk."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return BadInput(f"{path} may not be written to.", "Choose a folder that you may write to.")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return BadInput(f"{path} lies where a file is in the way of a folder.", "Choose another folder.")
    reason = error.strerror or type(error).__name__
    return BadInput(f"{path} could not be written ({reason}).", "Choose another folder.")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the same suffix; on success it becomes `path`, on any failure it is removed.

    Raises BadInput where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        # mkstemp makes the name free of races between two processes; the suffix stays for writers that look at it.
        handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix="-" + path.name, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise writing_failed(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        _make_readable(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise writing_failed(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _make_readable(path: Path) -> None:
    """mkstemp makes files that only their owner may read; give them what any other new file would have."""
    if os.name == "posix":
        mask = os.umask(0)
        os.umask(mask)
        path.chmod(0o666 & ~mask)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole. Raises BadInput where that is impossible.

    Half of a surrogate pair, as odd file names and clients have them, becomes its escape, which in JSON means the same.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))
