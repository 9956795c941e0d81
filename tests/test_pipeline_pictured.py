"""The recipes that Zero123++ and SV3D feed: from a picture to a mesh with small networks, and without any weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import test_pipeline_published
import torch
from safetensors.torch import load_file
from stand_ins import ball_views
from sv3d_cases import tiny_config
from zero123plus_folder import TILE, write_folder

import backend.__main__
from backend.formats.gaussian_ply import read_gaussian_ply
from backend.formats.images import write_png
from backend.formats.transforms_json import read_views
from backend.nets.sv3d import build
from backend.packs import PACKS as STARTER
from backend.packs import PUBLISHED
from backend.recipes import RECIPES
from backend.views.sv3d import Sv3dGenerator
from backend.views.sv3d_file import save_sv3d
from backend.views.zero123plus import WHITE, Version, Zero123PlusGenerator

small = test_pipeline_published.small  # a fixture: small reconstructors, no surface, an empty home
# Recipe, how many views, where the first stands (azimuth, elevation, distance), the lens in degrees.
VIEWS = {
    "grm": (4, 30.0, 20.0, 3.7321, 30.0),
    "grm-zero123plus-v1.1": (4, 30.0, 30.0, 2.4127, 50.0),
    "grm-sv3d": (4, 10.0, 20.0, 3.4847, 33.8),
    "geolrm": (21, 17.1429, 10.0, 2.7, 39.6),
    "geolrm-zero123plus": (6, 30.0, 20.0, 2.7, 30.0),
}
PACKS = {
    "grm": "grm-r",
    "grm-zero123plus-v1.1": "grm-zero123plus",
    "grm-sv3d": "grm-u",
    "geolrm": "geolrm",
    "geolrm-zero123plus": "geolrm",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny generators in files as published."""
    folder = tmp_path_factory.mktemp("stick")
    write_folder(folder / "zero123plus-v1.2")
    torch.manual_seed(0)
    save_sv3d(folder / "sv3d_p.safetensors", build(tiny_config("p")), tiny_config("p"))
    return folder


@pytest.fixture
def tiny(published: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those where weights of the published size are asked for, random or not; and small pictures."""
    loads = {kind: kind.load.__func__ for kind in (Zero123PlusGenerator, Sv3dGenerator)}  # type: ignore[attr-defined]

    def zero123plus(
        cls: Any, folder: Path, version: Version, device: str, white: Path | None = None, **more: Any
    ) -> Any:
        return loads[Zero123PlusGenerator](cls, folder, version, device, white, tile=TILE, **more)

    def sv3d(cls: Any, path: Path, **more: Any) -> Any:
        return loads[Sv3dGenerator](cls, path, size=64, **more)

    def random_zero123plus(cls: Any, version: Version, device: str, **more: Any) -> Any:
        more.pop("white", None)
        return zero123plus(cls, published / "zero123plus-v1.2", version, device, **more)

    def random_sv3d(cls: Any, **more: Any) -> Any:
        return sv3d(cls, published / "sv3d_p.safetensors", **more)

    monkeypatch.setattr(Zero123PlusGenerator, "load", classmethod(zero123plus))
    monkeypatch.setattr(Zero123PlusGenerator, "untrained", classmethod(random_zero123plus))
    monkeypatch.setattr(Sv3dGenerator, "load", classmethod(sv3d))
    monkeypatch.setattr(Sv3dGenerator, "untrained", classmethod(random_sv3d))


@pytest.fixture
def ball(tmp_path: Path) -> str:
    write_png(tmp_path / "ball.png", ball_views(96).rgba[0])
    return str(tmp_path / "ball.png")


def check_views(recipe: str, out: Path) -> None:
    count, azimuth, elevation, distance, lens = VIEWS[recipe]
    views = read_views(out / "transforms.json", warnings=[])
    assert len(views) == count
    x, y, z = views.cameras.camera_to_world[0, :3, 3].tolist()
    place = torch.tensor([x, z])
    assert float(torch.rad2deg(torch.atan2(place[0], place[1]))) == pytest.approx(azimuth, abs=1e-3)
    assert float(torch.rad2deg(torch.atan2(torch.tensor(y), place.norm()))) == pytest.approx(elevation, abs=1e-3)
    assert float(torch.tensor([x, y, z]).norm()) == pytest.approx(distance, abs=1e-3)
    half = views.cameras.width / 2 / views.cameras.intrinsics[0, 0, 0]
    assert float(torch.rad2deg(torch.atan(half))) * 2 == pytest.approx(lens, abs=1e-3)


@pytest.mark.parametrize("recipe", VIEWS)
def test_from_a_picture_to_a_mesh(
    recipe: str, tiny: None, ball: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["generate", "--recipe", recipe, "--image", ball, "--random-weights", "--steps", "2", "--out", str(out)]
    assert backend.__main__.main([*command, "--prompt", "a ball", "--texture-size", "64", "--json"]) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    told = [event["message"] for event in events if event["event"] == "warning"]
    assert any("random weights" in message for message in told)
    assert any("words are ignored" in message for message in told)
    made = [event for event in events if event.get("stage") == "views" and event["event"] == "progress"]
    assert {event["steps"] for event in made[1:] if event["steps"] > 1}
    assert any(event["event"] == "preview" and event["kind"] == "views" for event in events)
    check_views(recipe, out)
    assert len(read_gaussian_ply(out / "gaussians.ply", [])) > 0
    assert (out / "mesh.glb").is_file()
    report = json.loads((out / "report.json").read_text())
    generation = RECIPES[recipe].from_picture
    assert generation is not None
    assert report["sampling"] == {"steps": 2, "guidance": generation.guidance}


def test_imported_weights_make_views_and_the_report_names_them(
    tiny: None, published: Path, ball: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert backend.__main__.main(["weights", "import", "zero123plus-v1.2", str(published)]) == 0
    out = tmp_path / "out"
    command = ["views", "--image", ball, "--recipe", "grm", "--steps", "2", "--out", str(out)]
    assert backend.__main__.main(command) == 0
    check_views("grm", out)
    report = json.loads((out / "report.json").read_text())
    assert [entry["name"] for entry in report["weights"]] == ["zero123plus-v1.2"]
    assert report["licences"] == ["CC-BY-NC-4.0"]
    vae = tmp_path / "home" / "weights" / "zero123plus-v1.2" / "vae" / "diffusion_pytorch_model.safetensors"
    vae.write_bytes(vae.read_bytes()[:-1000])
    assert backend.__main__.main(command) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "vae/diffusion_pytorch_model.safetensors is damaged or cut off" in said
    assert "weights download zero123plus-v1.2" in said


def test_parts_that_are_pickles_are_converted_as_they_are_imported(
    tiny: None, published: Path, ball: str, tmp_path: Path
) -> None:
    """As older published folders have them: the library's own names for both forms differ."""
    source = tmp_path / "stick" / "zero123plus-v1.2"
    shutil.copytree(published / "zero123plus-v1.2", source)
    for part, name in (("vae", "diffusion_pytorch_model"), ("vision_encoder", "model")):
        path = source / part / f"{name}.safetensors"
        torch.save(load_file(path), path.with_name(f"{'pytorch_' if name == 'model' else ''}{name}.bin"))
        path.unlink()
    torch.save({}, source / "unet" / "diffusion_pytorch_model.bin")  # nothing looks at it beside a .safetensors
    assert backend.__main__.main(["weights", "import", "zero123plus-v1.2", str(tmp_path / "stick")]) == 0
    pack = PUBLISHED["zero123plus-v1.2"]
    assert pack.present
    assert "vae/diffusion_pytorch_model.bin" in pack.record["files"]
    assert "unet/diffusion_pytorch_model.bin" not in pack.record["files"]
    command = ["views", "--image", ball, "--recipe", "grm", "--steps", "1", "--out", str(tmp_path / "out")]
    assert backend.__main__.main(command) == 0
    mine = load_file(pack.folder / "vision_encoder" / "model.safetensors")
    own = load_file(published / "zero123plus-v1.2" / "vision_encoder" / "model.safetensors")
    assert all(torch.equal(mine[key], value) for key, value in own.items())


def test_sv3ds_file_is_checked_as_it_is_imported(
    tiny: None, published: Path, ball: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = published / "sv3d_p.safetensors"
    assert backend.__main__.main(["weights", "import", "sv3d-p", str(source)]) == 0
    command = ["views", "--image", ball, "--recipe", "grm-sv3d", "--steps", "2", "--out", str(tmp_path / "out")]
    assert backend.__main__.main(command) == 0
    check_views("grm-sv3d", tmp_path / "out")
    (tmp_path / "sv3d_u.safetensors").write_bytes(source.read_bytes()[:-1000])
    assert backend.__main__.main(["weights", "import", "sv3d-u", str(tmp_path / "sv3d_u.safetensors")]) == 1
    assert "sv3d_u.safetensors are damaged" in capsys.readouterr().err


def test_the_unet_for_white_backgrounds_is_used_where_it_is(
    tiny: None, published: Path, ball: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import backend.nets.zero123plus_config as config
    from backend.views.published import picture_generator

    unet = published / "zero123plus-v1.2" / "unet"
    monkeypatch.setattr(config, "UNET", json.loads((unet / "config.json").read_text()))
    state = changed(unet)
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    assert backend.__main__.main(["weights", "import", "zero123plus-v1.2", str(published)]) == 0
    grey = picture_generator("zero123plus-v1.2", "cpu", white=True)
    source = str(tmp_path / "diffusion_pytorch_model.bin")
    assert backend.__main__.main(["weights", "import", "zero123plus-white", source]) == 0
    white = picture_generator("zero123plus-v1.2", "cpu", white=True)
    assert isinstance(grey, Zero123PlusGenerator)
    assert isinstance(white, Zero123PlusGenerator)
    assert (grey.background < 0.5, white.background) == (True, WHITE)
    assert torch.equal(white.model.unet.conv_in.bias, state["conv_in.bias"])
    assert not torch.equal(grey.model.unet.conv_in.bias, state["conv_in.bias"])
    out = tmp_path / "out"
    command = ["views", "--image", ball, "--recipe", "geolrm-zero123plus", "--steps", "1", "--out", str(out)]
    assert backend.__main__.main(command) == 0
    used = [entry["name"] for entry in json.loads((out / "report.json").read_text())["weights"]]
    assert used == ["zero123plus-v1.2", "zero123plus-white"]


def changed(unet: Path) -> dict[str, torch.Tensor]:
    """The folder's U-Net, changed."""
    state = load_file(unet / "diffusion_pytorch_model.safetensors")
    return state | {"conv_in.bias": state["conv_in.bias"] + 1}


@pytest.mark.parametrize("recipe", VIEWS)
def test_without_weights_one_sentence_says_how_to_get_them(
    recipe: str,
    small: None,
    ball: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["generate", "--image", ball, "--recipe", recipe, "--out", str(tmp_path / "out")]
    assert backend.__main__.main(command) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    generation = RECIPES[recipe].from_picture
    assert generation is not None
    for words in ("not on this machine", f"weights download {generation.pack}", f"weights download {PACKS[recipe]}"):
        assert words in said
    assert not (tmp_path / "out").exists()


def test_every_published_pack_of_a_recipe_is_registered() -> None:
    for recipe in RECIPES.values():
        generations = [made for made in (recipe.from_text, recipe.from_picture) if made is not None]
        for pack in (recipe.pack, *(made.pack for made in generations), *recipe.packs(False), *recipe.packs(True)):
            assert pack in PUBLISHED or pack in STARTER
