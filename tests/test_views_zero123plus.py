"""Zero123++ as a generator: a folder as published, from a picture to posed views, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from picture_walks import walked
from safetensors.torch import load_file, save_file
from torch import Tensor
from zero123plus_cases import stored
from zero123plus_folder import TILE, write_folder

from backend.errors import BadInput, MissingWeights
from backend.views.zero123plus import FOUR, GREY, V1_1, V1_2, PictureSettings, Zero123PlusGenerator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("published") / "zero123plus-v1.2")


@pytest.fixture(scope="module")
def generator(folder: Path) -> Zero123PlusGenerator:
    return Zero123PlusGenerator.load(folder, tile=TILE)


def test_the_encoders_get_the_picture_as_released() -> None:
    values = stored()
    image = values["input.rgba_u8"].permute(2, 0, 1) / 255
    grey = Zero123PlusGenerator.over_background(_Background(GREY), image)
    assert torch.equal((grey * 255).round(), values["input.rgb_after_background_u8"].permute(2, 0, 1).float())
    for name, size, mean, std, resample in (
        ("vae.cond", 64, (0.5,) * 3, (0.8,) * 3, 2),
        ("clip", 56, (0.4814547, 0.4578275, 0.4082107), (0.2686295, 0.2613026, 0.2757771), 3),
    ):
        pixels = PictureSettings(size, mean, std, resample)(grey)
        assert float((pixels - values[f"{name}.pixel_values"]).abs().max()) < 1e-4, name


@pytest.mark.parametrize("steps", [3, 28, 36, 75])
def test_the_noise_levels_are_the_released_codes(steps: int, generator: Zero123PlusGenerator) -> None:
    values, scheduler = stored(), generator.scheduler
    scheduler.set_timesteps(steps)
    assert float((scheduler.sigmas - values[f"sched.sigmas{steps}"]).abs().max()) < 1e-4
    assert float((scheduler.timesteps - values[f"sched.timesteps{steps}"]).abs().max()) < 1e-4


class _Background:
    def __init__(self, background: float) -> None:
        self.background = background


def test_a_picture_becomes_six_posed_views(generator: Zero123PlusGenerator) -> None:
    views, steps = walked(generator, seed=3)
    assert views.rgba.shape == (6, 4, TILE, TILE)
    assert float(views.rgba.min()) >= 0
    assert float(views.rgba.max()) <= 1
    assert [step.step for step in steps] == list(range(1, len(steps) + 1))
    assert steps[-1].steps == len(steps)
    assert all(step.preview is not None and step.preview.shape[:2] == (6, 4) for step in steps[:2])
    position = views.cameras.camera_to_world[:, :3, 3]
    radius = position.norm(dim=-1)
    azimuth = torch.rad2deg(torch.atan2(position[:, 0], position[:, 2])) % 360
    elevation = torch.rad2deg(torch.asin(position[:, 1] / radius))
    assert azimuth.tolist() == pytest.approx([30, 90, 150, 210, 270, 330], abs=1e-3)
    assert elevation.tolist() == pytest.approx([20, -10] * 3, abs=1e-3)
    # What fills 0.9 of the picture is 1.8 long before a lens of 30 degrees.
    tangent = 0.5 * TILE / views.cameras.intrinsics[0, 0, 0]
    assert float(tangent) == pytest.approx(0.267949, abs=1e-5)
    assert radius.tolist() == pytest.approx([1.0 / 0.267949] * 6, rel=1e-4)


def test_grm_and_geolrm_get_the_views_that_they_know(folder: Path) -> None:
    grm = Zero123PlusGenerator.load(folder, tile=TILE, views=FOUR)
    views, _ = walked(grm)
    everything, _ = walked(Zero123PlusGenerator.load(folder, V1_1, tile=TILE, radius=2.7, fov_degrees=50.0))
    position = views.cameras.camera_to_world[:, :3, 3]
    assert (torch.rad2deg(torch.atan2(position[:, 0], position[:, 2])) % 360).tolist() == pytest.approx(
        [30, 150, 270, 330], abs=1e-3
    )
    assert (position[:, 1] > 0).tolist() == [True, True, True, False]
    assert torch.allclose(views.rgba[0], everything.rgba[0], atol=1e-6)
    assert torch.allclose(everything.cameras.camera_to_world[:, :3, 3].norm(dim=-1), torch.tensor(2.7))
    assert float(torch.rad2deg(torch.asin(everything.cameras.camera_to_world[0, 1, 3] / 2.7))) == pytest.approx(30)


def test_in_half_precision_the_views_are_nearly_the_same(
    folder: Path, generator: Zero123PlusGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.views.zero123plus.inference_dtype", lambda *_: torch.float16)
    half = Zero123PlusGenerator.load(folder, tile=TILE)
    assert half.model.unet.dtype == torch.float16
    difference = walked(half)[0].over(1.0) - walked(generator)[0].over(1.0)
    assert float(difference.abs().mean()) < 0.02


def test_without_a_picture_there_is_nothing_to_do(generator: Zero123PlusGenerator) -> None:
    with pytest.raises(BadInput, match="there is none"):
        next(generator.generate("a red mug"))
    with pytest.raises(BadInput, match="must be"):
        next(generator.generate(image=torch.zeros(4, 64, 32)))
    assert "ignored" in generator.notes("a red mug", None)[0]


def test_another_unet_takes_the_place_of_the_folders(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    save_file({key: 0 * value for key, value in state.items()}, tmp_path / "white.safetensors")
    white = Zero123PlusGenerator.load(folder, white_unet=tmp_path / "white.safetensors", tile=TILE)
    assert white.background == 1.0
    assert all(float(value.abs().max()) == 0 for value in white.model.unet.parameters())
    painted: list[Tensor] = []
    monkeypatch.setattr(white.model, "decode", lambda _: painted.append(torch.full((6, 3, 32, 32), 0.9)) or painted[0])
    assert torch.allclose(walked(white)[0].over(1.0), painted[0], atol=1e-5)  # over white it is what was painted
    save_file({"conv_in.bias": torch.zeros(3)}, tmp_path / "white.safetensors")
    with pytest.raises(MissingWeights, match=r"white\.safetensors"):
        Zero123PlusGenerator.load(folder, white_unet=tmp_path / "white.safetensors", tile=TILE)


def test_names_as_older_libraries_wrote_them_are_read(
    folder: Path, generator: Zero123PlusGenerator, tmp_path: Path
) -> None:
    """The published files are from before diffusers and transformers renamed some of their tensors."""
    shutil.copytree(folder, tmp_path / "older")
    text, vae = (tmp_path / "older" / name for name in ("text_encoder/model.safetensors", FILES[3]))
    state = {f"text_model.{key}": value for key, value in load_file(text).items()}
    save_file(state | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, text, {"format": "pt"})
    state = load_file(vae)
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        state = {key.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): value for key, value in state.items()}
    assert any("proj_attn" in key for key in state)
    save_file(state, vae, {"format": "pt"})
    older = Zero123PlusGenerator.load(tmp_path / "older", tile=TILE).model
    assert torch.equal(older.empty_prompt, generator.model.empty_prompt)
    mine = generator.model.vae.state_dict()
    assert all(torch.equal(value, mine[key]) for key, value in older.vae.state_dict().items())


FILES = [
    "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "vision_encoder/model.safetensors",
    "scheduler/scheduler_config.json", "feature_extractor_vae/preprocessor_config.json",
    "feature_extractor_clip/preprocessor_config.json",
]  # fmt: skip


@pytest.mark.parametrize("harm", ["missing", "truncated"])
@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_truncated_file_is_named(name: str, harm: str, folder: Path) -> None:
    path = folder / name
    whole = path.read_bytes()
    try:
        path.unlink() if harm == "missing" else path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(MissingWeights) as error:
            Zero123PlusGenerator.load(folder, tile=TILE)
    finally:
        path.write_bytes(whole)
    assert name.split("/")[0] in str(error.value)
    assert "zero123plus-v1.2" in error.value.fix  # and how to get it again


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".safetensors")])
def test_weights_of_another_shape_are_named(name: str, folder: Path) -> None:
    path = folder / name
    state, whole = load_file(path), path.read_bytes()
    key = max(key for key in state if key.endswith(".bias"))
    try:
        save_file(state | {key: torch.zeros(7)}, path, {"format": "pt"})
        with pytest.raises(MissingWeights, match=name):
            Zero123PlusGenerator.load(folder, tile=TILE)
        del state[key]
        save_file(state, path, {"format": "pt"})
        with pytest.raises(MissingWeights, match=f"{name} lacks {key}"):
            Zero123PlusGenerator.load(folder, tile=TILE)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model_index.json", {"ramping_coefficients": [1.0, 2.0]}),
        ("model_index.json", {"ramping_coefficients": None}),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}),
        ("scheduler/scheduler_config.json", {"beta_schedule": "none such"}),
        ("feature_extractor_vae/preprocessor_config.json", {"crop_size": "large"}),
        ("feature_extractor_clip/preprocessor_config.json", {"resample": 77}),
    ],
)
def test_settings_that_make_no_sense_are_named(name: str, change: dict[str, object], folder: Path) -> None:
    path = folder / name
    whole = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(whole) | change))
        with pytest.raises(MissingWeights, match=name.split("/")[0]):
            Zero123PlusGenerator.load(folder, tile=TILE)
    finally:
        path.write_text(whole)


def test_both_versions_differ_as_published() -> None:
    assert V1_1.elevations == (30, -20, 30, -20, 30, -20)
    assert V1_2.fov_degrees == 30
    assert V1_1.fov_degrees == pytest.approx(49.1343)
