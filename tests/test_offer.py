"""What a recipe needs and forbids, told before anything is fetched: on the wire and on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import backend.__main__
from backend.frontend.offer import describe, memory
from backend.memory import NEEDS
from backend.packs import PUBLISHED
from backend.recipes import RECIPES
from backend.weights import how_to_get


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPLATSMITH_HOME", str(tmp_path))


def test_words_need_the_model_that_makes_pictures_and_pictures_do_not() -> None:
    told = describe(RECIPES["grm"])
    assert told["from_text"] == ["sdxl", "zero123plus-v1.2", "grm-r"]
    assert told["from_picture"] == ["zero123plus-v1.2", "grm-r"]
    assert told["picture_first"] is True
    assert told["missing"] == ["sdxl", "zero123plus-v1.2", "grm-r"]
    assert told["licences"] == {
        "sdxl": "CreativeML Open RAIL++-M", "zero123plus-v1.2": "CC-BY-NC-4.0", "grm-r": "not stated"
    }  # fmt: skip
    for source in ("from_text", "from_picture"):
        assert describe(RECIPES["starter"])[source] == ["dmv3d", "reader"]
        assert describe(RECIPES["dmv3d"])[source] == ["dmv3d-own", "reader"]
    assert [describe(RECIPES[name])["picture_first"] for name in ("starter", "lgm")] == [False, False]


def test_memory_is_that_of_the_largest_model_as_they_take_turns() -> None:
    told = describe(RECIPES["grm"])["memory"]
    picture = NEEDS["zero123plus-v1.2"]
    assert told["from_picture"] == {"gpu": picture.bytes(2), "cpu": picture.bytes(4)}
    assert told["from_text"] == {"gpu": NEEDS["sdxl"].bytes(2), "cpu": NEEDS["sdxl"].bytes(4)}
    assert told["from_text"]["cpu"] < 4 * NEEDS["sdxl"].parameters, "its weights stay in half precision"
    assert memory(RECIPES["grm"], ["grm-r", "unheard of"]) is None
    measured = describe(RECIPES["starter"])["memory"]["from_text"]
    assert (set(measured), measured["measured"]) == ({"cpu", "measured"}, True)
    for recipe in RECIPES.values():
        if recipe.pack in PUBLISHED and PUBLISHED[recipe.pack].repository:
            assert set(describe(recipe)["memory"]) == {"from_text", "from_picture"}


def test_the_list_says_what_is_missing_and_what_is_forbidden(capsys: pytest.CaptureFixture[str]) -> None:
    assert backend.__main__.main(["recipes"]) == 0
    said = capsys.readouterr().out
    for recipe in RECIPES.values():
        assert f"{recipe.name}: {recipe.title}" in said
    memory = f"{NEEDS['sdxl'].bytes(2) / 1e9:.0f} GB of a graphics"
    assert f"of words     with sdxl (missing), zero123plus-v1.2 (missing), grm-r (missing); {memory}" in said
    assert "with dmv3d, reader; 0.9 GB of memory, measured" in said
    assert "sdxl (about 6.9 GB), CreativeML Open RAIL++-M" in said
    assert "Commercial use is not forbidden." in said
    assert backend.__main__.main(["recipes", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)["recipes"]] == list(RECIPES)


def test_no_torch_is_loaded_for_it() -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'diffusers'):\n"
        "    sys.modules[name] = None\n"
        "import backend.__main__\n"
        "raise SystemExit(backend.__main__.main(['recipes']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_is_missing_is_named_with_size_and_licence() -> None:
    said = how_to_get(PUBLISHED["sdxl"])
    assert "weights download sdxl' (6.9 GB, licence: CreativeML Open RAIL++-M)" in said
