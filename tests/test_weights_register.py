"""The register of published weights: whole, honest, shown with licences; and weights imported from this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weights_cases import LGM, command, lgm_file

from backend.errors import MissingWeights
from backend.nets.dmv3d import Dmv3d, Dmv3dConfig
from backend.packs import PACKS, PUBLISHED, Published, data_folder
from backend.recipes import RECIPES
from backend.reconstruct.checkpoints import MODELS
from backend.views.published import own_dmv3d
from backend.vocabulary import TOKENS
from backend.weights import save_checkpoint
from blender_addon import environment


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_OFFLINE", "SPLATSMITH_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPLATSMITH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_register_is_whole_and_honest() -> None:
    assert not set(PUBLISHED) & set(PACKS)
    for name, entry in PUBLISHED.items():
        assert entry.name == name
        assert entry.files
        assert entry.page.startswith("https://") == bool(entry.repository)
        assert entry.forbids.endswith(".")
        assert entry.model in (*MODELS, None)
        assert (entry.bytes is None and bool(entry.repository)) <= ("the size" in entry.unconfirmed)
        assert (entry.licence == "not stated") <= ("the licence" in entry.unconfirmed)
    for recipe in RECIPES.values():
        assert (recipe.pack in PUBLISHED) == (recipe.load_untrained is not None)
        for part in (recipe, recipe.from_text, recipe.from_picture):
            if part is not None:
                assert part.pack in PACKS | PUBLISHED
                assert (part.pack in PUBLISHED) == (part.load_untrained is not None)


def test_what_nobody_published_is_brought_by_who_trained_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = command("download", "dmv3d-own", "--yes", capsys=capsys)
    assert code != 0
    assert "published nowhere" in said
    assert "docs/training.md" in said
    config = Dmv3dConfig(vocabulary=len(TOKENS), image_size=32, width=48, encoder_blocks=1, decoder_blocks=1)
    (tmp_path / "run").mkdir()
    card = {"model": "dmv3d", "config": config.to_dict(), "tokens": list(TOKENS)}
    save_checkpoint(tmp_path / "run" / "dmv3d.safetensors", Dmv3d(config).state_dict(), card, torch.float16)
    assert command("import", "dmv3d-own", str(tmp_path / "run"), capsys=capsys)[0] == 0
    assert own_dmv3d("cpu").network.config == config
    other = Dmv3dConfig(vocabulary=len(TOKENS), image_size=32, width=96, encoder_blocks=1, decoder_blocks=1)
    save_checkpoint(tmp_path / "run" / "dmv3d.safetensors", Dmv3d(other).state_dict(), card, torch.float16)
    code, _, said = command("import", "dmv3d-own", str(tmp_path / "run"), capsys=capsys)
    assert code != 0
    assert "misshape" in said
    assert own_dmv3d("cpu").network.config == config, "what was there is there"
    assert PUBLISHED["dmv3d-own"].present
    assert not list((home / "weights").glob(".*"))
    PUBLISHED["dmv3d-own"].folder.rename(home / "weights" / ".dmv3d-own.earlier")  # as a killed import leaves it
    assert command("import", "dmv3d-own", str(tmp_path / "run"), capsys=capsys)[0] != 0
    assert own_dmv3d("cpu").network.config == config


def test_the_data_folder_is_the_add_ons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for chosen in (str(tmp_path), None):
        monkeypatch.setenv("SPLATSMITH_HOME", chosen) if chosen else monkeypatch.delenv("SPLATSMITH_HOME", False)
        assert data_folder() == environment.home_folder().path


def test_the_list_shows_licences_and_sizes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command("list", capsys=capsys)
    assert code == 0
    for entry in PUBLISHED.values():
        assert entry.name in out
    assert "CC-BY-NC-4.0" in out
    listed = json.loads(command("list", "--json", capsys=capsys)[1])
    assert [pack["name"] for pack in listed["packs"]] == list(PACKS)
    by_name = {pack["name"]: pack for pack in listed["published"]}
    assert by_name["sv3d-p"]["gated"] is True
    assert by_name["grm-u"]["present"] is False
    assert "the licence" in by_name["grm-u"]["unconfirmed"]


def test_import_from_a_folder_or_a_file(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = tmp_path / "stick" / "LGM"
    deep.mkdir(parents=True)
    lgm_file(deep / LGM)
    code, out, err = command("import", "lgm-big", str(tmp_path / "stick"), capsys=capsys)
    assert code == 0
    assert Path(out.strip()).parent == home / "weights" / "lgm-big"
    assert "MIT" in err
    assert PUBLISHED["lgm-big"].present
    (deep / LGM).unlink()
    assert RECIPES["lgm"].load_reconstructor("cpu").rotations  # type: ignore[attr-defined]
    old = tmp_path / "model_fp16.safetensors"
    lgm_file(old)
    Path(out.strip()).unlink()
    assert command("import", "lgm-big", str(old), capsys=capsys)[0] == 0
    assert not RECIPES["lgm"].load_reconstructor("cpu").rotations  # type: ignore[attr-defined]


def test_what_is_not_the_weights_is_not_imported(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    save_file({"a": torch.zeros(2)}, tmp_path / LGM)
    for source in ("empty", "absent", LGM):
        code, _, err = command("import", "lgm-big", str(tmp_path / source), capsys=capsys)
        assert code == 1
        assert len(err.splitlines()[-1]) > 20
        assert not PUBLISHED["lgm-big"].present
    code, _, err = command("import", "gold", str(tmp_path), capsys=capsys)
    assert (code, "lgm-big" in err) == (1, True)


def test_missing_weights_say_where_to_get_them(home: Path) -> None:
    for name in ("lgm", "grm", "geolrm"):
        with pytest.raises(MissingWeights, match="not on this machine") as caught:
            RECIPES[name].load_reconstructor("cpu")
        for word in (f"weights download {RECIPES[name].pack}", "weights import", "--random-weights", "licence"):
            assert word in caught.value.fix


def test_importing_the_project_imports_no_client() -> None:
    program = (
        "import sys, backend.packs, backend.downloads.download, backend.downloads.weights_command, backend.recipes;"
        "import backend.frontend.server;"
        "assert not {'huggingface_hub', 'torch'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1], timeout=60)


def test_the_record_of_a_pack_that_somebody_edited_is_no_accident(home: Path) -> None:
    entry: Published = PUBLISHED["geolrm"]
    entry.folder.mkdir(parents=True)
    for content in ("", "[]", '{"files": []}', '{"files": {"geolrm.ckpt": {"bytes": 3}}}'):
        (entry.folder / "weights.json").write_text(content)
        assert entry.present is False
        assert entry.describe()["sha256"] is None
