"""Downloads with the hub's own client, from a mirror on this machine: cut, resumed, corrupted, refused, out of room.

Nothing else than 127.0.0.1 is spoken to. The client lives in processes of their own: it reads its settings once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_mirror import Mirror

from backend.packs import PUBLISHED

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="needs huggingface_hub: pip install '.[published]'"
)
ROOT = Path(__file__).parents[1]
PACK = PUBLISHED["matting"]
(NAME,) = PACK.files
SMALL = np.random.default_rng(0).bytes(100_000)
LARGE = np.random.default_rng(1).bytes(25_000_000)  # the client writes ten megabytes at a time
CUT = 22_000_000
DOWNLOAD = ["weights", "download", PACK.name, "--yes"]
# Does what it is told by lines of settings, and answers with exit code and last words: loading the client takes long.
CHILD = f"""
import contextlib, io, json, os, sys
import backend.__main__
for line in sys.stdin:
    os.environ.update(json.loads(line))
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        code = backend.__main__.main({DOWNLOAD!r})
    print(json.dumps([code, (said.getvalue().strip().splitlines() or [""])[-1]]), flush=True)
"""


@pytest.fixture(scope="module")
def mirror() -> Iterator[Mirror]:
    with Mirror(PACK.repository) as served:
        yield served


@pytest.fixture(scope="module")
def child(mirror: Mirror) -> Iterator[subprocess.Popen]:
    process = begun([sys.executable, "-c", CHILD], mirror)
    yield process
    process.kill()
    process.communicate(timeout=60)


def begun(command: list[str], mirror: Mirror, **settings: str) -> subprocess.Popen:
    ours = ("HF_", "HTTP", "http", "SPLATSMITH_OFFLINE", "HUGGING_FACE")
    plain = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment = {
        **plain, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": mirror.address, "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*", **settings,
    }  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.fixture
def download(
    tmp_path: Path, mirror: Mirror, child: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Downloads the pack into an empty home; exit code and last words."""
    monkeypatch.setenv("SPLATSMITH_HOME", str(tmp_path))
    mirror.reset({NAME: SMALL, "onnx/model_fp16.onnx": b"not asked for"})

    def run(**settings: str) -> tuple[int, str]:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps({"SPLATSMITH_HOME": str(tmp_path), **settings}).encode() + b"\n")
        child.stdin.flush()
        code, said = json.loads(child.stdout.readline())
        return code, said

    return run


def half() -> Path:
    return PACK.folder / ".downloading" / f"{hashlib.sha256(SMALL).hexdigest()}.part"


def test_a_download_goes_on_after_its_process_was_killed(
    download: object, tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.reset({NAME: LARGE}, stall_after=CUT)
    command = [sys.executable, "-m", "backend", *DOWNLOAD]
    settings = {"SPLATSMITH_HOME": str(tmp_path), "HF_TOKEN": "hf_secret", "HF_HUB_DOWNLOAD_TIMEOUT": "100"}
    process, end = begun(command, mirror, **settings), time.monotonic() + 100
    halves = PACK.folder / ".downloading"
    while sum(path.stat().st_size for path in halves.glob("*")) < 20_000_000:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    assert not PACK.present
    (kept,) = (path.stat().st_size for path in halves.glob("*"))
    mirror.stall_after = None
    process = begun(command, mirror, **settings)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors.decode()[-500:]
    assert mirror.sent == [(NAME, 0, CUT), (NAME, kept, len(LARGE) - kept)]  # what had been written came once
    assert PACK.path.read_bytes() == LARGE
    assert PACK.present
    assert sorted(path.name for path in PACK.folder.iterdir()) == ["onnx", "weights.json"]
    assert "hf_secret" not in (PACK.folder / "weights.json").read_text()
    # The login is for the hub, not for wherever it keeps its files.
    assert {token for path, token in mirror.tokens if "/resolve/" in path} == {"Bearer hf_secret"}
    assert {token for path, token in mirror.tokens if path.startswith("/elsewhere/")} == {None}


def test_a_broken_line_is_mended_by_itself(download: Callable[..., tuple[int, str]], mirror: Mirror) -> None:
    half().parent.mkdir(parents=True)
    half().write_bytes(SMALL[:40_000])
    assert download()[0] == 0
    assert mirror.sent == [(NAME, 40_000, 60_000)]
    assert PACK.path.read_bytes() == SMALL
    assert download()[0] == 0
    assert len(mirror.sent) == 1  # it is there


def test_a_corrupted_file_is_noticed_and_does_not_stay(
    download: Callable[..., tuple[int, str]], mirror: Mirror
) -> None:
    mirror.served = {NAME: SMALL[:500] + bytes([SMALL[500] ^ 1]) + SMALL[501:]}
    code, said = download()
    assert code == 1
    assert f"{NAME} came otherwise" in said
    assert "Download it again" in said
    assert not PACK.present
    assert [path for path in PACK.folder.rglob("*") if path.is_file()] == []
    mirror.served = {}
    # A half that went bad on the disk is no better; nor is one that is too long.
    for bad in (b"x" * 1000, b"x" * 200_000):
        half().write_bytes(bad)
        code, said = download()
        assert (code, "came otherwise" in said) == ((1, True) if len(bad) < len(SMALL) else (0, False))
    assert PACK.path.read_bytes() == SMALL


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ({"refuse": (401, "GatedRepo")}, ["accept their licence", "hf auth login", PACK.page]),
        ({"refuse_files": (403, "GatedRepo")}, ["accept their licence", "hf auth login", PACK.page]),
        ({"refuse": (404, "RepoNotFound")}, ["The hub has no", "import the file from a folder"]),
        ({"refuse_files": (404, "EntryNotFound")}, ["The hub has no", "import the file from a folder"]),
        ({"refuse_files": (500, "")}, ["broke off", "Try again"]),
    ],
)
def test_refusals_are_sentences_with_a_cure(
    download: Callable[..., tuple[int, str]], mirror: Mirror, refusal: dict[str, Any], words: list[str]
) -> None:
    mirror.reset({NAME: SMALL}, **refusal)
    code, said = download()
    assert code == 1
    for word in words:
        assert word in said
    assert not PACK.present


def test_a_file_that_the_repository_lost_is_told_with_what_it_has(
    download: Callable[..., tuple[int, str]], mirror: Mirror
) -> None:
    mirror.reset({"onnx/renamed.onnx": SMALL})
    code, said = download()
    assert code == 1
    assert "onnx/renamed.onnx" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without room")
def test_a_full_disk_is_a_sentence(download: Callable[..., tuple[int, str]]) -> None:
    half().parent.mkdir(parents=True)
    half().symlink_to("/dev/full")
    code, said = download()
    assert code == 1
    assert "is full" in said
    assert "Make room" in said


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "SPLATSMITH_OFFLINE"])
def test_offline_mode_asks_nothing(download: Callable[..., tuple[int, str]], mirror: Mirror, name: str) -> None:
    code, said = download(**{name: "1"})
    assert (code, name in said) == (1, True)
    assert mirror.asked == []
    assert download(**{name: ""})[0] == 0
