"""Published weights fetched only after a yes, compared, and whole or not there. No network: the hub's client is a
stand-in."""

from __future__ import annotations

import hashlib
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from weights_cases import LGM, command, lgm_file

from backend.downloads import download as downloads
from backend.errors import MissingWeights, Offline
from backend.formats.whole_file import TEMPORARY_PREFIX
from backend.frontend.offer import is_here
from backend.job.generating import check_weights
from backend.job.request import Request
from backend.packs import HALVES, PUBLISHED
from backend.recipes import RECIPES
from backend.reconstruct import checkpoints


class Hub:
    """A hub with one repository; counts what is asked of it. Small files have git's hash, others a SHA-256."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.asked, self.fetched = dict(files), 0, list[str]()
        self.fail: Exception | None = None
        self.corrupt = False

    def HfApi(self) -> Hub:
        return self

    def model_info(self, repository: str, files_metadata: bool) -> Any:
        assert files_metadata
        self.asked += 1
        if self.fail:
            raise self.fail
        siblings = []
        for name, content in self.files.items():
            lfs = types.SimpleNamespace(sha256=hashlib.sha256(content).hexdigest()) if len(content) > 100 else None
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            siblings.append(types.SimpleNamespace(rfilename=name, size=len(content), lfs=lfs, blob_id=git))
        return types.SimpleNamespace(sha="abc123", siblings=siblings)

    def hf_hub_url(self, repository: str, name: str, *, revision: str) -> str:
        assert revision == "abc123"
        return name

    def http_get(self, name: str, file: Any, *, resume_size: int, headers: Any, expected_size: int) -> None:
        content = self.files[name]
        assert (headers, expected_size) == ({"who": "me"}, len(content))
        assert resume_size == file.tell()
        self.fetched.append(name)
        file.write((content[:-1] + b"!" if self.corrupt else content)[resume_size:])


class _Refusal(Exception):
    pass


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_OFFLINE", "SPLATSMITH_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPLATSMITH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub({LGM: lgm_file(home.parent / "made.safetensors"), "README.md": b"words"})
    module: Any = types.ModuleType("huggingface_hub")
    module.HfApi, module.hf_hub_url = stand_in.HfApi, stand_in.hf_hub_url
    for name in ("errors", "file_download", "utils"):
        setattr(module, name, types.ModuleType(f"huggingface_hub.{name}"))
        monkeypatch.setitem(sys.modules, f"huggingface_hub.{name}", getattr(module, name))
    module.file_download.http_get = stand_in.http_get
    module.utils.build_hf_headers = lambda: {"who": "me"}
    for name in ("GatedRepoError", "RepositoryNotFoundError", "EntryNotFoundError", "RevisionNotFoundError"):
        setattr(module.errors, name, type(name, (_Refusal,), {}))
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return stand_in


def test_a_download_after_a_yes(hub: Hub, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command("download", "lgm-big", "--yes", capsys=capsys)
    assert code == 0
    assert Path(out.strip()) == home / "weights" / "lgm-big" / LGM
    assert Path(out.strip()).read_bytes() == hub.files[LGM]
    assert err.index("MIT") < err.index(LGM)
    assert "not confirmed here: the size" in err
    entry = PUBLISHED["lgm-big"]
    assert entry.present
    assert entry.describe()["sha256"] == hashlib.sha256(hub.files[LGM]).hexdigest()
    assert entry.record["revision"] == "abc123"
    assert command("download", "lgm-big", capsys=capsys)[0] == 0  # it is there: nothing is asked
    assert (hub.asked, hub.fetched) == (1, [LGM])


def test_nothing_is_fetched_without_a_yes(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = command("download", "lgm-big", capsys=capsys)
    assert (code, hub.asked) == (1, 0)
    assert "--yes" in err
    assert "MIT" in err
    for answer, wanted in (("no\n", 1), ("\n", 1), ("yes\n", 0)):
        terminal = types.SimpleNamespace(isatty=lambda: True, readline=lambda answer=answer: answer)
        monkeypatch.setattr(sys, "stdin", terminal)
        assert command("download", "lgm-big", capsys=capsys)[0] == wanted
    assert (hub.asked, hub.fetched) == (1, [LGM])


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "SPLATSMITH_OFFLINE"])
def test_offline_is_honoured(
    name: str, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    code, _, err = command("download", "lgm-big", "--yes", capsys=capsys)
    assert (code, hub.asked) == (1, 0)
    assert name in err
    with pytest.raises(Offline):
        downloads.download(PUBLISHED["lgm-big"], print)


def test_what_comes_otherwise_than_the_hub_has_it_does_not_stay(
    hub: Hub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.corrupt = True
    code, _, err = command("download", "lgm-big", "--yes", capsys=capsys)
    assert code == 1
    assert "otherwise" in err
    assert not (home / "weights" / "lgm-big" / LGM).exists()
    assert not PUBLISHED["lgm-big"].present
    hub.corrupt = False
    assert command("download", "lgm-big", "--yes", capsys=capsys)[0] == 0


def test_small_files_are_compared_by_gits_hash(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files = {"model_index.json": b"{}", "unet/config.json": b"[]", "../evil.json": b"{}", "unet/a.bin": b"?"}
    entry = replace(PUBLISHED["mvdream"], model=None)  # what the files hold is not looked at
    downloads.download(entry, lambda text: None)
    assert sorted(hub.fetched) == ["model_index.json", "unet/config.json"]
    assert entry.present
    hub.files["unet/config.json"] = b"()"
    downloads.download(entry, lambda text: None)
    assert hub.fetched[2:] == ["unet/config.json"]  # only what changed
    hub.corrupt = True
    hub.files["unet/config.json"] = b"<>"
    with pytest.raises(Exception, match="otherwise"):
        downloads.download(entry, lambda text: None)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("GatedRepoError", "hf auth login"), ("RepositoryNotFoundError", "import the file"), ("", "cannot be reached")],
)
def test_refusals_are_sentences(hub: Hub, kind: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    errors = sys.modules["huggingface_hub.errors"]
    hub.fail = getattr(errors, kind)("no") if kind else RuntimeError("no route")
    code, _, err = command("download", "sv3d-p", "--yes", capsys=capsys)
    assert code == 1
    assert words in err.splitlines()[-1]
    assert "gated" in err


def test_a_full_disk_is_said_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=10))
    with pytest.raises(Exception, match="are free"):
        downloads.download(PUBLISHED["lgm-big"], print)
    assert hub.fetched == []


@pytest.mark.parametrize("way", ["download", "import"])
def test_a_file_in_the_way_is_a_sentence(hub: Hub, home: Path, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "weights").mkdir(parents=True)
    (home / "weights" / "lgm-big").write_text("in the way")
    (home / LGM).write_bytes(hub.files[LGM])
    code, _, err = command(way, "lgm-big", "--yes" if way == "download" else str(home), capsys=capsys)
    assert code == 1
    assert "a file is in the way of a folder" in err.splitlines()[-1]


@pytest.mark.parametrize("way", ["download", "import"])
def test_what_a_killed_process_left_does_not_stay(
    hub: Hub, home: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    left = home / "weights" / "lgm-big" / f"{TEMPORARY_PREFIX}x-{LGM}"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half of it")
    (home / LGM).write_bytes(hub.files[LGM])
    assert command(way, "lgm-big", "--yes" if way == "download" else str(home / LGM), capsys=capsys)[0] == 0
    assert not left.exists()


def test_what_came_before_needs_no_room_again(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = hub.files[LGM]
    half = home / "weights" / "lgm-big" / HALVES / f"{hashlib.sha256(content).hexdigest()}.part"
    half.parent.mkdir(parents=True)
    half.write_bytes(content[:-10])
    monkeypatch.setattr(downloads, "_ROOM_LEFT", 0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=10))
    downloads.download(PUBLISHED["lgm-big"], print)
    assert PUBLISHED["lgm-big"].present
    assert not half.parent.exists()


def test_a_download_that_broke_off_leaves_no_usable_weights(
    hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the file by which a folder of many is known comes first."""
    hub.files = {"model_index.json": b"{}", "unet/config.json": b"[]"}
    entry = replace(PUBLISHED["mvdream"], model=None)
    fetch = sys.modules["huggingface_hub.file_download"].http_get

    def breaks_off(name: str, file: Any, **options: Any) -> None:
        if name != "model_index.json":
            raise OSError("the line broke")
        fetch(name, file, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["huggingface_hub.file_download"], "http_get", breaks_off)
        with pytest.raises(Offline):
            downloads.download(entry, print)
    assert entry.path.is_file()
    assert not is_here("mvdream")
    with pytest.raises(MissingWeights, match="MVDream"):
        check_weights(Request(prompt="a mug", recipe="lgm"), RECIPES["lgm"], ["views"])
    downloads.download(entry, print)
    assert is_here("mvdream")


def test_without_the_client_one_sentence(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, err = command("download", "lgm-big", "--yes", capsys=capsys)
    assert code == 1
    assert "huggingface_hub" in err.splitlines()[-1]


def test_of_two_forms_of_a_part_the_safer_is_fetched(
    hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"weight": torch.arange(40.0)}
    save_file(state, home.parent / "part.safetensors")
    torch.save(state, home.parent / "part.bin")
    safe, pickled = ((home.parent / name).read_bytes() for name in ("part.safetensors", "part.bin"))
    hub.files = {
        "model_index.json": b"{}", "text_encoder/pytorch_model.bin": pickled, "safety_checker/other.bin": pickled,
        "unet/diffusion_pytorch_model.bin": pickled, "unet/diffusion_pytorch_model.safetensors": safe,
        "vae/diffusion_pytorch_model.bin": pickled,
    }  # fmt: skip
    monkeypatch.setattr(checkpoints, "check", lambda model, path: None)
    assert command("download", "zero123plus-v1.2", "--yes", capsys=capsys)[0] == 0
    assert sorted(hub.fetched) == [
        "model_index.json", "text_encoder/pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.bin",
    ]  # fmt: skip
    for name in ("text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        assert torch.equal(load_file(PUBLISHED["zero123plus-v1.2"].folder / name)["weight"], state["weight"])
