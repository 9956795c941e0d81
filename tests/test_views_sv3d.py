"""SV3D as a generator: a file as published, from a picture to posed views, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from picture_walks import disc, walked
from safetensors.torch import load_file, save_file
from sv3d_cases import tiny_config

from backend.datatypes import Views
from backend.errors import BadInput, MissingWeights
from backend.nets.sv3d import build
from backend.views.generated import cut_from_white
from backend.views.sv3d import EVEN, FOUR, Sv3dGenerator
from backend.views.sv3d_file import save_sv3d

SIZE = 64


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of both variants, and what the reference's file has beside what is read."""
    torch.manual_seed(0)
    paths = {}
    for variant in "pu":
        path = tmp_path_factory.mktemp("weights") / f"sv3d-{variant}" / f"sv3d_{variant}.safetensors"
        path.parent.mkdir()
        save_sv3d(path, build(tiny_config(variant)), tiny_config(variant))
        paths[variant] = path
    return paths


@pytest.fixture(scope="module")
def generator(files: dict[str, Path]) -> Sv3dGenerator:
    return Sv3dGenerator.load(files["p"], size=SIZE)


def angles(views: Views) -> tuple[list[float], list[float]]:
    """Azimuths and elevations of the cameras, in degrees."""
    x, y, z = views.cameras.camera_to_world[:, :3, 3].unbind(-1)
    azimuth = torch.rad2deg(torch.atan2(x, z)) % 360
    return azimuth.tolist(), torch.rad2deg(torch.atan2(y, torch.hypot(x, z))).tolist()


def test_a_picture_becomes_21_posed_views(generator: Sv3dGenerator) -> None:
    views, steps = walked(generator, seed=3)
    assert views.rgba.shape == (21, 4, SIZE, SIZE)
    assert [step.step for step in steps] == list(range(1, len(steps) + 1))
    assert steps[-1].steps == len(steps)
    assert all(step.preview is not None and step.preview.shape[:2] == (21, 4) for step in steps[:2])
    azimuths, elevations = angles(views)
    assert azimuths[:20] == pytest.approx([360 * (frame + 1) / 21 for frame in range(20)], abs=1e-3)
    assert min(azimuths[20], 360 - azimuths[20]) < 1e-3
    assert elevations == pytest.approx([10] * 21, abs=1e-3)
    # The last frame is the picture itself, on white and back.
    shown = disc()[:3] * disc()[3:] + 1 - disc()[3:]
    assert float((views.over(1.0)[20] - shown).abs().max()) < 1.01 / 255
    assert float(views.rgba[20, 3, 0, 0]) == 0
    assert float(views.rgba[20, 3, SIZE // 2, SIZE // 2]) == 1


def test_grm_and_geolrm_get_the_frames_that_they_know(files: dict[str, Path]) -> None:
    views, _ = walked(Sv3dGenerator.load(files["p"], FOUR, size=SIZE))
    azimuths, elevations = angles(views)
    assert azimuths == pytest.approx([10, 100, 190, 280], abs=1e-3)
    assert elevations == pytest.approx([20] * 4, abs=1e-3)
    assert len(FOUR.azimuths) == len(EVEN.azimuths) == 21
    assert sorted(FOUR.azimuths) == list(FOUR.azimuths)
    geolrm, _ = walked(Sv3dGenerator.load(files["u"], size=SIZE, fov_degrees=39.6, radius=2.7))
    assert torch.allclose(geolrm.cameras.camera_to_world[:, :3, 3].norm(dim=-1), torch.tensor(2.7))
    assert float(0.5 * SIZE / geolrm.cameras.intrinsics[0, 0, 0]) == pytest.approx(0.36003, abs=1e-4)


def test_over_white_a_cut_out_frame_is_the_frame_again() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    soft = torch.sigmoid(20 * (0.6 - (x**2 + y**2).sqrt()))
    frame = 1 - soft * torch.tensor([0.2, 0.7, 0.9])[:, None, None]
    rgba = cut_from_white(frame)
    again = rgba[:3] * rgba[3:] + 1 - rgba[3:]
    # What differs from white by less than can be seen becomes white.
    assert float((again - frame).abs().max()) < 0.05
    assert float((again - frame).abs().mean()) < 3e-3
    assert float(rgba[3, 48, 48]) > 0.99
    assert float(rgba[3, 0, 0]) == 0


def test_what_sv3d_cannot_do_is_said(generator: Sv3dGenerator, files: dict[str, Path]) -> None:
    with pytest.raises(BadInput, match="there is none"):
        next(generator.generate("a red mug"))
    for shape in ((4, 60, 60), (3, 64, 64), (4, 64, 128)):
        with pytest.raises(BadInput, match="multiple of 64"):
            next(generator.generate(image=torch.zeros(shape)))
    with pytest.raises(BadInput, match="two steps"):
        next(generator.generate(image=disc(), steps=1))
    with pytest.raises(BadInput, match="even rings"):
        Sv3dGenerator.load(files["u"], FOUR)
    assert "ignored" in generator.notes("a red mug", None)[0]


def test_in_half_precision_the_views_are_nearly_the_same(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = walked(Sv3dGenerator.load(files["p"], FOUR, size=SIZE))[0].over(1.0)
    monkeypatch.setattr("backend.views.sv3d.inference_dtype", lambda *_: torch.float16)
    half = Sv3dGenerator.load(files["p"], FOUR, size=SIZE)
    assert half.model.unet.dtype == torch.float16
    difference = walked(half)[0].over(1.0) - full
    assert float(difference.abs().mean()) < 0.02


def test_a_wrong_file_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    def fails(path: Path, *words: str) -> None:
        with pytest.raises(MissingWeights) as error:
            Sv3dGenerator.load(path)
        for word in (path.name, *words):
            assert word in str(error.value) + error.value.fix

    fails(tmp_path / "absent.safetensors", "import")
    path = tmp_path / "sv3d-p" / "sv3d_p.safetensors"
    path.parent.mkdir()
    whole = files["p"].read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    fails(path, "damaged")
    path.write_bytes(whole[:100])
    fails(path, "damaged")
    state = load_file(files["p"])
    save_file(state, path)  # of another size than the published one, and no config says so
    fails(path, "lack", "weights download sv3d-p")
    label = "model.diffusion_model.label_emb.0.0.weight"
    save_file({key: value for key, value in state.items() if key != label}, path)
    fails(path, label)


def test_what_a_file_lacks_or_has_too_much_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    import json

    path = tmp_path / "sv3d_p.safetensors"
    state, metadata = load_file(files["p"]), {"config": json.dumps(tiny_config("p"))}
    text = {"conditioner.embedders.0.open_clip.model.ln_final.bias": torch.zeros(4)}  # which nothing reads
    save_file(state | text, path, metadata)
    assert Sv3dGenerator.load(path).model.variant == "p"
    save_file({key: value for key, value in state.items() if "conv_in" not in key}, path, metadata)
    with pytest.raises(MissingWeights, match=r"lack .*conv_in"):
        Sv3dGenerator.load(path)
    misshapen = {"first_stage_model.decoder.conv_in.bias": torch.zeros(7)}
    save_file(state | misshapen, path, metadata)
    with pytest.raises(MissingWeights, match=r"misshape first_stage_model\.decoder\.conv_in\.bias"):
        Sv3dGenerator.load(path)
    save_file(state | {"model.diffusion_model.extra": torch.zeros(4)}, path, metadata)
    with pytest.raises(MissingWeights, match=r"unknown model\.diffusion_model\.extra"):
        Sv3dGenerator.load(path)
    save_file(state, path, {"config": json.dumps({"unet": 3})})
    with pytest.raises(MissingWeights, match="config"):
        Sv3dGenerator.load(path)
