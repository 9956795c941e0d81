"""The job folder: whole files or none, nobody's data overwritten, no mixture of old and new."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from backend.errors import BadInput
from backend.formats.whole_file import TEMPORARY_PREFIX, whole_file, write_text
from backend.job.jobfolder import BASE_COLOR, GAUSSIANS, MESH_ARRAYS, MESH_GLB, REPORT, REQUEST, TRANSFORMS, JobFolder

RESULTS = (TRANSFORMS, GAUSSIANS, MESH_ARRAYS, MESH_GLB, BASE_COLOR, REPORT)


def full_folder(path: Path) -> JobFolder:
    folder = JobFolder(path)
    folder.create()
    folder.write_json(REQUEST, {"prompt": "a red mushroom"})
    for name in (*RESULTS, *folder.view_names(4)):
        (folder / name).write_text("old")
    return folder


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with whole_file(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    write_text(tmp_path / "a.txt", "one\n")
    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert (tmp_path / "a.txt").read_text() == "one\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    with whole_file(tmp_path / "mesh.npz") as temporary:
        assert temporary.suffix == ".npz"
        assert temporary.parent == tmp_path


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "")
    (tmp_path / "b.txt").touch()
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_a_full_or_locked_disk_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(BadInput) as caught:
        write_text(tmp_path / "a.txt", "text")
    assert caught.value.fix
    assert ("disk is full" in caught.value.message) == (number == errno.ENOSPC)
    assert list(tmp_path.iterdir()) == []


def test_a_real_full_device_gets_a_sentence(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    def fill() -> None:
        with whole_file(tmp_path / "a.txt"), open("/dev/full", "wb", buffering=0) as device:
            device.write(b"text")

    with pytest.raises(BadInput, match="disk is full"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper", tmp_path / ("a" * 300), tmp_path / "a\0b"):
        with pytest.raises(BadInput):
            JobFolder(path).create()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    if Path("/proc/self").exists():
        with pytest.raises(BadInput):
            JobFolder("/proc/self/job").create()


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    folder = full_folder(tmp_path / "job")
    for name in (TEMPORARY_PREFIX + "abc-mesh.glb", "views/" + TEMPORARY_PREFIX + "x-000.png"):
        (folder / name).write_text("half")
    JobFolder(folder.path).create()
    assert not [path for path in folder.path.rglob("*") if path.name.startswith(TEMPORARY_PREFIX)]


@pytest.mark.parametrize("name", [*RESULTS, "views/000.png"])
def test_nobodys_data_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(BadInput, match="no job made"):
        JobFolder(tmp_path).create()
    assert (tmp_path / name).read_text() == "mine"


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "holiday.png").write_text("mine")
    folder = JobFolder(tmp_path)
    folder.create()
    folder.drop_extra_views(0)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "views" / "holiday.png").read_text() == "mine"


def test_a_source_may_lie_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / GAUSSIANS).write_text("mine")
    folder = JobFolder(tmp_path)
    folder.create(keep=tmp_path / GAUSSIANS)
    folder.begin_result("gaussians", keep=tmp_path / GAUSSIANS)
    assert (tmp_path / GAUSSIANS).read_text() == "mine"


@pytest.mark.parametrize(
    ("result", "left"),
    [("views", set()), ("gaussians", {TRANSFORMS, GAUSSIANS}), ("mesh", set(RESULTS) - {REPORT})],
)
def test_what_is_out_of_date_is_removed(tmp_path: Path, result: str, left: set[str]) -> None:
    folder = full_folder(tmp_path)
    folder.begin_result(result)
    assert {name for name in RESULTS if (folder / name).exists()} == left


def test_extra_views_are_removed(tmp_path: Path) -> None:
    folder = full_folder(tmp_path)
    folder.drop_extra_views(2)
    assert [Path(view).name for view in folder.files()["views"]] == ["000.png", "001.png"]


def test_files_are_absolute_and_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = full_folder(Path("job")).files()
    assert set(files) == {"views", "transforms", "gaussians", "mesh_npz", "mesh_glb", "base_color", "report"}
    for path in [*files.pop("views"), *files.values()]:
        assert Path(path).is_absolute()
        assert Path(path).is_file()


def test_damaged_json_is_none(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    for content in (b"{", b"[1]", b"\xff", b"[" * 100_000):
        (tmp_path / REPORT).write_bytes(content)
        assert folder.read_json(REPORT) is None
