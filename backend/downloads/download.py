"""Published weights onto this machine: from the hub after consent, or from a folder. backend.packs says what there is.

The hub's own client does the transfer: it knows the user's login and honours HF_HUB_OFFLINE. It is imported only where
something is downloaded. What came of a file is kept when a download breaks off or is killed, and the rest is asked for
the next time: the client by itself would begin anew. Every file is compared with the hash that the hub states.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from backend.errors import BadInput, MissingWeights, Offline
from backend.formats.whole_file import TEMPORARY_PREFIX, whole_file, writing_failed
from backend.packs import HALVES, RECORD, Published

Say = Callable[[str], None]
_ROOM_LEFT = 512 * 2**20  # bytes that a download leaves free on the disk


@dataclass(frozen=True)
class _Remote:
    """A file on the hub. sha256 of its content, or sha1 as git computes it for small files."""

    name: str
    bytes: int
    sha256: str | None
    git_sha1: str | None


def download(pack: Published, say: Say, expect: Callable[[int], None] = lambda total: None) -> Path:
    """Fetches what is not there yet, compares it, and prepares it for the networks; the file they load.

    expect: told how many bytes all files have together, before the first of them comes.

    Whoever calls this has shown the licence and was told to go on. Raises Offline, BadInput where the hub wants a login
    or consent, and MissingWeights where what came is not what the hub has.
    """
    if not pack.repository:
        from backend.weights import how_to_get

        raise MissingWeights(f"The weights {pack.name} are published nowhere.", how_to_get(pack))
    hub = _hub()
    revision, remotes = _remote_files(hub, pack)
    _make(pack.folder)
    _clear(pack.folder)
    missing = [remote for remote in remotes if not _is(pack.folder / remote.name, remote)]
    wanted = sum(remote.bytes - _came(_half(pack, remote)) for remote in missing) + _ROOM_LEFT
    free = shutil.disk_usage(pack.folder).free
    if wanted > free:
        raise BadInput(
            f"{pack.name} needs {wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {pack.folder}.",
            "Make room, or set SPLATSMITH_HOME to a folder on another disk.",
        )
    expect(sum(remote.bytes for remote in remotes))
    for remote in missing:
        say(f"{remote.name}: {remote.bytes / 1e6:,.0f} MB")
        _fetch(hub, pack, remote, revision)
    files = {r.name: {"bytes": r.bytes, "sha256": r.sha256 or _sha256(pack.folder / r.name)} for r in remotes}
    path = _finish(pack, files, {"revision": revision}, say)
    for left in (HALVES, ".cache"):  # the latter is the client's own
        shutil.rmtree(pack.folder / left, ignore_errors=True)
    return path


def _fetch(hub: Any, pack: Published, remote: _Remote, revision: str) -> None:
    """One file, from where an earlier try ended. Raises as `download` does."""
    half = _half(pack, remote)
    _make(half.parent)
    if _came(half) > remote.bytes:
        half.unlink()
    address = hub.hf_hub_url(pack.repository, remote.name, revision=revision)
    with half.open("ab") as file:
        _asked(
            pack, hub.file_download.http_get, address, file, resume_size=file.tell(),
            headers=hub.utils.build_hf_headers(), expected_size=remote.bytes,
        )  # fmt: skip
    if not _is(half, remote):
        half.unlink()
        raise MissingWeights(
            f"{remote.name} came otherwise than the hub has it, so it was deleted.",
            "Download it again; where that keeps happening, something on the way changes files: a proxy, or a mirror.",
        )
    target = pack.folder / remote.name
    _make(target.parent)
    half.replace(target)


def _make(folder: Path) -> None:
    """Raises BadInput where the folder cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_failed(folder, error) from error


def _clear(folder: Path) -> None:
    """Removes what killed processes left of files that were being copied or converted: it may be gigabytes."""
    for left in folder.rglob(TEMPORARY_PREFIX + "*"):
        with contextlib.suppress(OSError):
            left.unlink()


def _half(pack: Published, remote: _Remote) -> Path:
    """Where a file grows: one of this content, not of another revision's."""
    return pack.folder / HALVES / f"{remote.sha256 or remote.git_sha1}.part"


def _came(half: Path) -> int:
    """Bytes of it that are there."""
    return half.stat().st_size if half.is_file() else 0


def import_from(pack: Published, source: Path, say: Say, expect: Callable[[int], None] = lambda total: None) -> Path:
    """Copies weights that were downloaded elsewhere, from a file or from anywhere below a folder; the file to load.

    expect: told how many bytes that will be.

    Raises BadInput where they are not there, and MissingWeights where they are not these weights.
    """
    source = source.expanduser()
    if source.is_file():
        known = [PurePosixPath(name) for name in (*pack.files, *pack.also)]
        fitting = [name for name in known if fnmatch.fnmatch(source.name, name.name)]
        if not fitting:
            raise BadInput(f"{source.name} is not a file of {pack.name}.", f"It has {', '.join(map(str, known))}.")
        inside = fitting[0].parent if "*" not in str(fitting[0].parent) else PurePosixPath()
        found = {(inside / source.name).as_posix(): source}
    else:
        base, below = _found_below(pack, source)
        found = {path.relative_to(base).as_posix(): path for path in below}
    whole = source.is_dir() or len(pack.files) == 1
    with _replacing(pack) if whole and not _within(source, pack.folder) else contextlib.nullcontext():
        _make(pack.folder)
        _clear(pack.folder)
        files: dict[str, dict[str, Any]] = {}
        expect(sum(path.stat().st_size for path in found.values()))
        for name, path in found.items():
            say(f"{name}: {path.stat().st_size / 1e6:,.0f} MB")
            target = pack.folder / name
            _make(target.parent)
            if not (target.exists() and target.samefile(path)):
                with whole_file(target) as temporary:
                    shutil.copyfile(path, temporary)
            files[name] = {"bytes": target.stat().st_size, "sha256": _sha256(target)}
        return _finish(pack, files, {"imported_from": str(source)}, say)


@contextlib.contextmanager
def _replacing(pack: Published) -> Iterator[None]:
    """Puts aside what the pack's folder holds, and back where the new weights turn out to be none."""
    aside = pack.folder.with_name(f".{pack.name}.earlier")
    if aside.exists():  # an import was killed
        spoilt = aside if pack.usable else pack.folder
        shutil.rmtree(spoilt, ignore_errors=True)
        if aside.exists():
            aside.rename(pack.folder)
    try:
        there = pack.folder.is_dir()
        if there:
            pack.folder.rename(aside)
    except OSError:  # Windows, where a program has the files open
        there = False
    if not there:
        yield
        return
    try:
        yield
    except BaseException:
        shutil.rmtree(pack.folder, ignore_errors=True)
        aside.rename(pack.folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _found_below(pack: Published, folder: Path) -> tuple[Path, list[Path]]:
    """The folder in which the pack's first file lies, and all its files there."""
    if not folder.is_dir():
        raise BadInput(f"There is nothing at {folder}.", "Give the file or folder with the weights.")
    for pattern in (*pack.files, *pack.also):
        for first in sorted(path for path in folder.rglob(PurePosixPath(pattern).name) if path.is_file()):
            base = first.parents[len(PurePosixPath(pattern).parts) - 1]
            patterns = pack.files if pattern in pack.files else (pattern,)
            found = [path for each in patterns for path in sorted(base.glob(each)) if path.is_file()]
            names = [path.as_posix() for path in found]
            return base, [path for path in found if not _has_safer_twin(path.as_posix(), names)]
    raise BadInput(f"No file of {pack.name} is in {folder}.", f"It has {', '.join(pack.files)}.")


def _finish(pack: Published, files: dict[str, Any], origin: dict[str, Any], say: Say) -> Path:
    """Checks the layout, converts pickles, and records what is there; only then are the weights present."""
    path = pack.folder / next(iter(files))
    for name in files:
        if name.endswith(".bin") and "/" in name:
            from backend.reconstruct.checkpoints import prepared_part

            say(f"Converting {name} ...")
            prepared_part(pack.folder / name)
    if pack.model is not None:
        from backend.reconstruct.checkpoints import prepared

        say("Checking that the networks fit ...")
        path = prepared(pack.model, path)
    record = {
        "repository": pack.repository,
        **origin,
        "licence": pack.licence,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
    }
    with whole_file(pack.folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2), encoding="utf-8")
    return path


def check_online() -> None:
    """Raises Offline where the user or the add-on has forbidden the network."""
    for name in ("HF_HUB_OFFLINE", "SPLATSMITH_OFFLINE"):
        if os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on"):
            raise Offline(
                f"Offline mode is on ({name}).", "Turn it off, or import weights from a folder: weights import."
            )


def _hub() -> Any:
    """The hub's client. Raises Offline, and BadInput where it is not installed."""
    check_online()
    try:
        import huggingface_hub
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError as error:
        raise BadInput(
            "Downloads need the package huggingface_hub, which is not installed.",
            "Install it in the backend's environment: pip install huggingface_hub; or import weights from a folder.",
        ) from error
    return huggingface_hub


def _asked(pack: Published, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What the hub answers; its refusals as the project's errors."""
    from huggingface_hub import errors

    try:
        return call(*arguments, **options)
    except errors.GatedRepoError as error:
        raise BadInput(
            f"The authors of {pack.name} give it only to those who accept their licence.",
            f"Accept it at {pack.page}, log in with 'hf auth login', and try again.",
        ) from error
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        raise MissingWeights(
            f"The hub has no {', '.join(pack.files)} in {pack.repository} for you.",
            f"Look at {pack.page}; log in with 'hf auth login' if it is private, or import the file from a folder.",
        ) from error
    except OSError as error:  # the disk; the client's own network errors are OSErrors too in its older versions
        if error.errno == errno.ENOSPC:
            raise BadInput(
                f"The disk with {pack.folder} is full.",
                "Make room, or set SPLATSMITH_HOME to a folder on another disk; the download goes on where it was.",
            ) from error
        raise Offline(
            f"The download of {pack.name} broke off ({_words(error)}).", "Try again: it goes on where it was."
        ) from error
    except Exception as error:  # the client's, whose kinds differ from version to version
        raise Offline(
            f"The hub cannot be reached ({type(error).__name__}: {_words(error)}).",
            "Try again: a download goes on where it was.",
        ) from error


def _words(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:200].rstrip(".")


def _remote_files(hub: Any, pack: Published) -> tuple[str, list[_Remote]]:
    """The revision that is the newest now, and the pack's files in it. Raises MissingWeights where there are none."""
    info = _asked(pack, hub.HfApi().model_info, pack.repository, files_metadata=True)
    remotes = []
    for pattern in pack.files:
        for sibling in info.siblings or []:
            name = PurePosixPath(sibling.rfilename)
            if not fnmatch.fnmatchcase(sibling.rfilename, pattern) or name.is_absolute() or ".." in name.parts:
                continue
            sha256 = getattr(sibling.lfs, "sha256", None) if sibling.lfs else None
            remotes.append(_Remote(sibling.rfilename, int(sibling.size or 0), sha256, sibling.blob_id))
    remotes = [remote for remote in remotes if not _has_safer_twin(remote.name, [other.name for other in remotes])]
    if not remotes:
        names = ", ".join(sorted(sibling.rfilename for sibling in info.siblings or [])[:8])
        raise MissingWeights(
            f"{pack.repository} has no {', '.join(pack.files)}; it has {names or 'nothing'}.",
            f"Look at {pack.page} for a newer name, and import the file from a folder.",
        )
    return str(info.sha), remotes


def _has_safer_twin(name: str, names: list[str]) -> bool:
    """Whether a pickle's part of a pipeline is among the names as a .safetensors file too."""
    part = PurePosixPath(name).parent
    return name.endswith(".bin") and any(
        PurePosixPath(other).parent == part and other.endswith(".safetensors") for other in names
    )


def _is(path: Path, remote: _Remote) -> bool:
    """Whether a file has the content that the hub states."""
    if not path.is_file() or path.stat().st_size != remote.bytes:
        return False
    if remote.sha256 is not None:
        return _sha256(path) == remote.sha256
    if remote.git_sha1 is None:
        return False
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == remote.git_sha1


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
