"""Folders of MVDream and ImageDream as published: read as they are, and every fault in them told with file and cure."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from multiview_cases import SMALL
from safetensors.torch import load_file, save_file

from backend.errors import MissingWeights
from backend.views.mvdream_loading import check_folder, load_pipeline
from backend.views.mvdream_pipeline import MultiViewPipeline
from backend.views.mvdream_untrained import byte_tokenizer, untrained_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT, PICTURE = "text_encoder/model.safetensors", "image_encoder/model.safetensors"


@pytest.fixture(scope="module", params=[False, True], ids=["mvdream", "imagedream"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[MultiViewPipeline, Path]:
    """A small pipeline and the folder that it was saved to."""
    pipeline = untrained_pipeline(request.param, SMALL)
    folder = tmp_path_factory.mktemp("saved")
    pipeline.save_pretrained(folder)
    return pipeline, folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageDream in half precision, with the names and files that libraries of the time wrote."""
    folder = tmp_path_factory.mktemp("published")
    untrained_pipeline(True, SMALL, torch.float16).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "MVDreamPipeline", "unet": ["mv_unet", "MultiViewUNetModel"]}
    index |= {"feature_extractor": ["transformers", "CLIPImageProcessor"], "requires_safety_checker": False}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet" / "mv_unet.py").write_text("raise SystemExit('the code of a download was run')\n")
    for file, prefix in ((TEXT, "text_model."), (PICTURE, "vision_model.")):
        state = {f"{prefix}{name.removeprefix(prefix)}": value for name, value in load_file(folder / file).items()}
        state[f"{prefix}embeddings.position_ids"] = torch.arange(5)[None]
        save_file(state, folder / file, {"format": "pt"})
    shutil.rmtree(folder / "tokenizer")
    write_vocabulary(folder / "tokenizer")
    return folder


def write_vocabulary(folder: Path) -> None:
    """vocab.json and merges.txt in place of tokenizer.json."""
    folder.mkdir()
    words = byte_tokenizer(SMALL.vocabulary).get_vocab()
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "!"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def views(pipeline: MultiViewPipeline) -> torch.Tensor:
    image = torch.rand(3, 64, 64, generator=torch.manual_seed(0)) if pipeline.pictured else None
    return pipeline("a red mug", image, steps=2, seed=5)


def test_what_was_saved_gives_the_same_views(saved: tuple[MultiViewPipeline, Path]) -> None:
    pipeline, folder = saved
    parts = {path.name for path in folder.iterdir()}
    wanted = {"model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae"}
    assert parts == (wanted | {"image_encoder", "feature_extractor"} if pipeline.pictured else wanted)
    again = load_pipeline(folder)
    assert (views(again) - views(pipeline)).abs().max() < 1e-5
    named = MultiViewPipeline.from_pretrained(folder, local_files_only=True)
    assert (views(named) - views(pipeline)).abs().max() < 1e-5


def test_a_published_folder_is_read_as_it_is(published: Path) -> None:
    """And its code is not run."""
    pipeline = load_pipeline(published)
    fresh = untrained_pipeline(True, SMALL, torch.float16)
    for part in ("unet", "vae", "text_encoder", "image_encoder"):
        theirs, ours = (getattr(each, part).state_dict() for each in (pipeline, fresh))
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[name], ours[name].float()) for name in ours), part
    assert pipeline.unet.dtype == torch.float32
    words = "A red  MUG, chipped"
    assert pipeline.tokenizer(words).input_ids == fresh.tokenizer(words).input_ids
    assert pipeline.feature_extractor.crop_size["height"] == SMALL.picture
    assert views(pipeline).isfinite().all()


def test_the_settings_are_clips_where_the_folder_has_none(published: Path, tmp_path: Path) -> None:
    folder = linked(published, tmp_path / "copy")
    shutil.rmtree(folder / "feature_extractor")
    assert load_pipeline(folder).feature_extractor.crop_size["height"] == 224


def test_files_with_the_variant_in_their_names_are_found(published: Path, tmp_path: Path) -> None:
    folder = linked(published, tmp_path / "copy")
    for file in (UNET, VAE, TEXT):
        (folder / file).rename((folder / file).with_suffix(".fp16.safetensors"))
    assert views(load_pipeline(folder)).isfinite().all()


def linked(source: Path, target: Path) -> Path:
    """A copy that takes no room; what is changed in it has to be written anew."""
    shutil.copytree(source, target, copy_function=os.link)
    return target


def cut(path: Path, keep: float = 0.7) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: int(keep * len(content))])


def reshaped(path: Path) -> None:
    state = load_file(path)
    name = next(name for name, value in state.items() if value.ndim == 2 and name.endswith(".weight"))
    state[name] = state[name][:-1].contiguous()
    path.unlink()
    save_file(state, path, {"format": "pt"})


def lacking(path: Path) -> None:
    state = load_file(path)
    del state[max(state)]
    path.unlink()
    save_file(state, path, {"format": "pt"})


def scrambled(path: Path) -> None:
    path.unlink()
    path.write_text("[1, 2")


MISSING = [
    "model_index.json", "unet/config.json", UNET, "vae/config.json", VAE, "text_encoder/config.json", TEXT,
    "image_encoder/config.json", PICTURE, "tokenizer/vocab.json", "tokenizer/merges.txt",
    "scheduler/scheduler_config.json",
]  # fmt: skip
FAULTS: list[tuple[str, Callable[[Path], None]]] = [
    *((name, Path.unlink) for name in MISSING),
    *((name, fault) for fault in (cut, reshaped, lacking) for name in (UNET, VAE, TEXT, PICTURE)),
    *((name, scrambled) for name in MISSING if name.endswith(".json")),
    ("feature_extractor/preprocessor_config.json", scrambled),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{fault.__name__} {name}" for name, fault in FAULTS])
def test_a_fault_is_told_with_file_and_cure(
    name: str, fault: Callable[[Path], None], published: Path, tmp_path: Path
) -> None:
    folder = linked(published, tmp_path / "imagedream")
    fault(folder / name)
    with pytest.raises(MissingWeights) as caught:
        load_pipeline(folder)
    assert name in caught.value.message
    assert str(folder) in caught.value.message
    assert "weights download imagedream" in caught.value.fix
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400 + len(str(folder))
    if fault in (Path.unlink, cut) or name == UNET:  # what heads tell is told when weights arrive
        with pytest.raises(MissingWeights, match=re.escape(name)):
            check_folder(folder, pictured=True)


def test_one_model_is_not_taken_for_the_other(saved: tuple[MultiViewPipeline, Path]) -> None:
    pipeline, folder = saved
    check_folder(folder, pictured=pipeline.pictured)
    for load in (check_folder, lambda folder, pictured: load_pipeline(folder, pictured=pictured)):
        with pytest.raises(MissingWeights, match=r"unet holds (MVDream|ImageDream)'s weights, not"):
            load(folder, not pipeline.pictured)


def test_parts_of_different_models_do_not_fit(published: Path, tmp_path: Path) -> None:
    folder = linked(published, tmp_path / "mixed")
    shutil.rmtree(folder / "text_encoder")
    wide = untrained_pipeline(False, SMALL)
    config = wide.text_encoder.config
    config.hidden_size, config.intermediate_size = 64, 128
    type(wide.text_encoder)(config).save_pretrained(folder / "text_encoder")
    with pytest.raises(MissingWeights, match="text_encoder gives 64 numbers a word where unet wants 32") as caught:
        load_pipeline(folder)
    assert "Copy the folder again" in caught.value.fix
