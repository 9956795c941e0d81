"""Folders of Stable Diffusion XL as published: read as they are, and every fault in them told with file and cure."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_views_mvdream_folder import cut, lacking, linked, reshaped, scrambled
from text_to_image_cases import SMALL, write_folder

from backend.downloads.download import import_from
from backend.errors import MissingWeights
from backend.packs import PUBLISHED
from backend.views.text_to_image_loading import check_folder, load_pipeline
from backend.views.text_to_image_untrained import untrained_pipeline

UNET, VAE = (f"{part}/diffusion_pytorch_model.fp16.safetensors" for part in ("unet", "vae"))
TEXT, TEXT_2 = (f"{part}/model.fp16.safetensors" for part in ("text_encoder", "text_encoder_2"))
SETTINGS = [
    "model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer_2/vocab.json",
    *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder", "text_encoder_2")),
]  # fmt: skip
MISSING = [*SETTINGS, "tokenizer_2/merges.txt", UNET, VAE, TEXT, TEXT_2]
FAULTS: list[tuple[str, Callable[[Path], None]]] = [
    *((name, Path.unlink) for name in MISSING),
    *((name, fault) for fault in (cut, reshaped, lacking) for name in (UNET, VAE, TEXT, TEXT_2)),
    *((name, scrambled) for name in SETTINGS),
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("published"))


def test_a_published_folder_is_read_as_it_is(published: Path) -> None:
    check_folder(published)
    pipeline = load_pipeline(published)
    fresh = untrained_pipeline(SMALL, torch.float16)
    for part in ("unet", "text_encoder", "text_encoder_2", "vae"):
        theirs, ours = (getattr(each, part).state_dict() for each in (pipeline, fresh))
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[name].half(), ours[name].half()) for name in ours), part
    assert pipeline.vae.dtype == torch.float32, "in half precision it makes black pictures"
    for part in ("tokenizer", "tokenizer_2"):
        assert getattr(pipeline, part)("A red  MUG").input_ids == fresh.tokenizer("A red  MUG").input_ids
    for name in ("beta_schedule", "beta_start", "timestep_spacing", "steps_offset", "prediction_type"):
        assert pipeline.scheduler.config[name] == fresh.scheduler.config[name]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{fault.__name__} {name}" for name, fault in FAULTS])
def test_a_fault_is_told_with_file_and_cure(
    name: str, fault: Callable[[Path], None], published: Path, tmp_path: Path
) -> None:
    folder = linked(published, tmp_path / "sdxl")
    fault(folder / name)
    with pytest.raises(MissingWeights) as caught:
        load_pipeline(folder)
    told = name.replace(".fp16", "") if fault == Path.unlink else name  # which of its names it has, no folder tells
    assert told in caught.value.message
    assert str(folder) in caught.value.message
    assert "weights download sdxl" in caught.value.fix
    assert "\n" not in caught.value.message
    if fault in (Path.unlink, cut) or name == UNET:  # what heads tell is told when weights arrive
        with pytest.raises(MissingWeights, match=re.escape(told)):
            check_folder(folder)


def test_parts_of_different_models_do_not_fit(published: Path, tmp_path: Path) -> None:
    folder = linked(published, tmp_path / "mixed")
    shutil.rmtree(folder / "text_encoder")
    shutil.copytree(folder / "text_encoder_2", folder / "text_encoder")
    for load in (check_folder, load_pipeline):
        with pytest.raises(MissingWeights, match="32 and 32 numbers a word where unet wants 48 together") as caught:
            load(folder)
    assert "Copy the folder again" in caught.value.fix


def test_the_register_takes_what_is_needed_and_nothing_else(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published repository has everything in float32 as well, and in the formats of other libraries."""
    monkeypatch.setenv("SPLATSMITH_HOME", str(tmp_path / "home"))
    source = tmp_path / "stick" / "sdxl"
    shutil.copytree(published, source, copy_function=os.link)
    save_file(
        {key: value.float() for key, value in load_file(source / UNET).items()}, source / UNET.replace(".fp16", "")
    )
    for name in ("unet/model.onnx", "sd_xl_base_1.0.safetensors", "unet/flax_model.msgpack"):
        (source / name).write_bytes(b"x")
    pack = PUBLISHED["sdxl"]
    import_from(pack, tmp_path / "stick", lambda text: None)
    assert pack.present
    assert sorted(pack.record["files"]) == sorted(
        path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()
    )
