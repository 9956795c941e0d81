"""The recipe `lgm` from words and from a picture: with small random networks all the way, and without any weights.

Which libraries an ordinary job may import is tested here too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import stand_ins
import torch
from multiview_cases import SMALL
from safetensors.torch import save_file
from stand_ins import ball_views

import backend.__main__
import backend.job.pipeline
from backend.formats.gaussian_ply import read_gaussian_ply
from backend.formats.images import read_image, write_png
from backend.formats.transforms_json import read_views
from backend.job.models import Models
from backend.nets.lgm import Lgm, LgmConfig
from backend.recipes import RECIPES
from backend.reconstruct.published_lgm import PublishedLgm
from backend.views import mvdream_untrained
from backend.views.mvdream import RADIUS, MultiViewGenerator
from backend.views.mvdream_untrained import untrained_pipeline

ROOT = Path(__file__).parents[1]
SMALL_LGM = LgmConfig(
    down=(32, 32, 64), down_attention=(False, False, True), up=(64, 32), up_attention=(True, False), layers=1
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder without weights; small networks where random ones are asked for; and no surface."""
    made = PublishedLgm.untrained.__func__  # type: ignore[attr-defined]
    loaded = PublishedLgm.load.__func__  # type: ignore[attr-defined]

    def small(cls: Any, device: str, dtype: Any) -> PublishedLgm:
        model = made(cls, SMALL_LGM, device=device)
        model.size = 64
        return model

    def small_views(cls: Any, path: Path, device: str) -> PublishedLgm:
        model = loaded(cls, path, device)
        model.size = 64
        return model

    monkeypatch.setattr(PublishedLgm, "untrained", classmethod(small))
    monkeypatch.setattr(PublishedLgm, "load", classmethod(small_views))
    monkeypatch.setattr(mvdream_untrained, "FULL", SMALL)
    monkeypatch.setattr(backend.job.pipeline, "_surface", stand_ins.quick_surface)
    monkeypatch.setattr(backend.job.pipeline, "_texture", stand_ins.quick_texture)
    monkeypatch.setenv("SPLATSMITH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def ball(folder: Path) -> str:
    write_png(folder / "ball.png", ball_views(96).rgba[0])
    return str(folder / "ball.png")


@pytest.mark.parametrize("kind", ["words", "picture", "both"])
def test_random_weights_go_the_whole_way(
    kind: str, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = [*(["--prompt", "a red ball"] if kind != "picture" else [])]
    given += ["--image", ball(tmp_path)] if kind != "words" else []
    command = ["generate", "--recipe", "lgm", *given, "--random-weights", "--steps", "3", "--out", str(out), "--json"]
    assert backend.__main__.main([*command, "--texture-size", "64"]) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    told = [event["message"] for event in events if event["event"] == "warning"]
    assert any("random weights" in message for message in told)
    stages = [event for event in events if event.get("stage") == "views" and event["event"] == "progress"]
    assert [event["step"] for event in stages if event["steps"] == 4] == [1, 2, 3, 4]
    assert any(event["event"] == "preview" and event["kind"] == "views" for event in events)
    views = read_views(out / "transforms.json", warnings=[])
    assert len(views) == 4
    assert views.cameras.camera_to_world[0, :3, 3].tolist() == pytest.approx([0, 0, RADIUS], abs=1e-5)
    assert len(read_gaussian_ply(out / "gaussians.ply", [])) > 0
    assert (out / "mesh.glb").is_file()
    report = json.loads((out / "report.json").read_text())
    assert report["sampling"] == {"steps": 3, "guidance": 7.5 if kind == "words" else 5.0}
    assert (report["weights"], report["random_weights"]) == ([], True)


@pytest.mark.parametrize("source", ["--prompt", "--image"])
def test_without_weights_one_sentence_says_how_to_get_them(
    source: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ball(tmp_path) if source == "--image" else "a red mug"
    assert backend.__main__.main(["generate", source, given, "--recipe", "lgm", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    pack = "imagedream" if source == "--image" else "mvdream"
    for words in ("not on this machine", f"weights download {pack}", "weights download lgm-big", "licence", "import"):
        assert words in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pack", ["mvdream", "imagedream"])
def test_saved_weights_go_the_whole_way_and_the_report_names_them(
    pack: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a folder and a file as published, brought by `weights import`."""
    names = {"mvdream": "mvdream-sd2.1-diffusers", "imagedream": "imagedream-ipmv-diffusers"}
    stick = tmp_path / "stick"
    untrained_pipeline(pack == "imagedream", SMALL).save_pretrained(stick / names[pack])
    torch.manual_seed(0)
    state = {name: value.half() for name, value in Lgm(SMALL_LGM).state_dict().items()}
    save_file(state, stick / "model_fp16_fixrot.safetensors")
    for name in (pack, "lgm-big"):
        assert backend.__main__.main(["weights", "import", name, str(stick)]) == 0
    out = tmp_path / "out"
    given = ["--prompt", "a red mug"] if pack == "mvdream" else ["--image", ball(tmp_path)]
    command = ["generate", *given, "--recipe", "lgm", "--steps", "2", "--texture-size", "64", "--out", str(out)]
    assert backend.__main__.main(command) == 0
    assert tuple(read_image(out / "views" / "000.png").rgba.shape) == (4, 64, 64)
    assert len(read_gaussian_ply(out / "gaussians.ply", [])) > 0
    assert (out / "mesh.glb").is_file()
    report = json.loads((out / "report.json").read_text())
    assert [entry["name"] for entry in report["weights"]] == [pack, "lgm-big"]
    unet = home / "weights" / pack / "unet" / "diffusion_pytorch_model.safetensors"
    unet.write_bytes(unet.read_bytes()[:-1000])
    assert backend.__main__.main(command) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "unet/diffusion_pytorch_model.safetensors is damaged or cut off" in said
    assert f"weights download {pack}" in said


def test_only_one_generator_is_kept(home: Path) -> None:
    models = Models()
    recipe = RECIPES["lgm"]
    words, again = (models.generator(recipe, "cpu", pictured=False, untrained=True) for _ in range(2))
    picture = models.generator(recipe, "cpu", pictured=True, untrained=True)
    assert isinstance(words, MultiViewGenerator)
    assert isinstance(picture, MultiViewGenerator)
    assert words is again
    assert (words.pipeline.pictured, picture.pipeline.pictured) == (False, True)
    assert list(models._generators.values()) == [picture]


def test_the_starter_recipe_needs_none_of_the_libraries_of_published_models(tmp_path: Path) -> None:
    """They are not in the demo's environment: here they are out of reach, and a job is made all the same."""
    program = (
        "import sys\n"
        "for name in ('diffusers', 'transformers', 'accelerate', 'huggingface_hub', 'tokenizers'):\n"
        "    sys.modules[name] = None\n"
        "import backend.__main__, backend.frontend.server, backend.frontend.doctor\n"
        f"out = {str(tmp_path / 'out')!r}\n"
        "code = backend.__main__.main(['views', '--prompt', 'a red mug', '--steps', '1', '--out', out])\n"
        "assert code == 0\n"
        "assert backend.__main__.main(['views', '--prompt', 'a mug', '--recipe', 'lgm', '--out', out + '2']) == 1\n"
        "command = ['views', '--prompt', 'a mug', '--recipe', 'lgm', '--random-weights', '--out', out + '3']\n"
        "assert backend.__main__.main(command) == 1\n"
    )
    environment = {**os.environ, "SPLATSMITH_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    first, second = [line for line in done.stderr.splitlines() if line.startswith(("The weights", "Published"))]
    assert "weights download mvdream" in first
    assert "diffusers and transformers" in second
