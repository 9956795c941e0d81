"""`reconstruct --model lgm|grm|geolrm`: the whole way with random weights, and a plain word without any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import stand_ins

import backend.__main__
import backend.job.pipeline
from backend.formats.gaussian_ply import read_gaussian_ply
from backend.formats.images import write_png
from backend.formats.transforms_json import write_transforms
from backend.nets.dinov2 import Dinov2Config
from backend.nets.geolrm_config import GeoLrmConfig, StageConfig
from backend.nets.grm_config import GrmConfig
from backend.nets.lgm import LgmConfig
from backend.reconstruct.geolrm import GeoLrmReconstructor
from backend.reconstruct.grm import GrmReconstructor
from backend.reconstruct.published_lgm import PublishedLgm

_STAGE = StageConfig(48, 1, 4, 3, 32, Dinov2Config(48, 1, 4, 14, 5))
SMALL = {
    PublishedLgm: LgmConfig(
        down=(32, 32, 64), down_attention=(False, False, True), up=(64, 32), up_attention=(True, False), layers=1
    ),
    GrmReconstructor: GrmConfig(
        input_res=32, patch_size=8, layers=1, width=64, decoder_ratio=1, window_size=16,
        render_activation_type="sigmoid", scale_min_act=0.005, scale_max_act=0.02,
    ),
    GeoLrmReconstructor: GeoLrmConfig(_STAGE, _STAGE, grid=16, block=4, gaussians=4),
}  # fmt: skip
SIZES = {PublishedLgm: 32, GeoLrmReconstructor: 84}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small networks in place of the published sizes, no surface, and a home without weights."""
    for kind, config in SMALL.items():

        def untrained(cls, device, dtype, kind=kind, config=config, made=kind.untrained.__func__):  # type: ignore[no-untyped-def]
            model = made(cls, config, device=device)
            if kind in SIZES:
                model.size = SIZES[kind]
            return model

        monkeypatch.setattr(kind, "untrained", classmethod(untrained))
    monkeypatch.setattr(backend.job.pipeline, "_surface", stand_ins.quick_surface)
    monkeypatch.setattr(backend.job.pipeline, "_texture", stand_ins.quick_texture)
    monkeypatch.setenv("SPLATSMITH_HOME", str(tmp_path / "home"))


@pytest.fixture
def cameras(tmp_path: Path) -> Path:
    """Six posed pictures of a ball."""
    views = stand_ins.ball_views(64, views=6)
    names = [f"{index}.png" for index in range(6)]
    (tmp_path / "shots").mkdir()
    for name, rgba in zip(names, views.rgba, strict=True):
        write_png(tmp_path / "shots" / name, rgba)
    write_transforms(tmp_path / "shots" / "transforms.json", views.cameras, names)
    return tmp_path / "shots" / "transforms.json"


@pytest.mark.parametrize(("model", "used"), [("lgm", 4), ("grm", 4), ("geolrm", 6)])
def test_random_weights_go_the_whole_way(
    model: str, used: int, small: None, cameras: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["reconstruct", "--model", model, "--cameras", str(cameras), "--out", str(out), "--random-weights"]
    assert backend.__main__.main([*command, "--texture-size", "64", "--json"]) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert any("random weights" in event.get("message", "") for event in events if event["event"] == "warning")
    assert any(event.get("stage") == "reconstruct" and event["step"] > 1 for event in events)
    assert len(list((out / "views").iterdir())) == used
    assert len(read_gaussian_ply(out / "gaussians.ply", [])) > 0
    assert (out / "mesh.glb").is_file()
    report = json.loads((out / "report.json").read_text())
    assert (report["weights"], report["random_weights"]) == ([], True)


@pytest.mark.parametrize("model", ["lgm", "grm", "geolrm"])
def test_without_weights_the_way_to_them_is_told(
    model: str, small: None, cameras: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reconstruct", "--model", model, "--cameras", str(cameras), "--out", str(tmp_path / "out")]
    assert backend.__main__.main(command) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    for word in ("not on this machine", "weights download", "weights import", "licence", "--random-weights"):
        assert word in said


def test_the_starter_has_no_use_for_random_weights(
    cameras: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reconstruct", "--cameras", str(cameras), "--out", str(tmp_path / "out"), "--random-weights"]
    assert backend.__main__.main(command) == 1
    assert "own weights" in capsys.readouterr().err
