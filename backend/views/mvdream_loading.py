"""MVDream's and ImageDream's published folders: model_index.json, and a sub-folder for each part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModel

from backend.errors import MissingWeights
from backend.nets.multiview_unet import MultiViewUNet, config_of
from backend.views.folders import (
    DIFFUSERS,
    INDEX,
    TRANSFORMERS,
    broken,
    load_part,
    load_settings,
    read_json,
    weights_file,
)
from backend.views.mvdream_pipeline import MultiViewPipeline
from backend.weights import check_fit, load_network, read_shapes

# The slow one, which needs no torchvision and is what the released code ran; older versions have no other.
CLIPImageProcessor = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
_TOKENIZER = (("vocab.json", "merges.txt"), ("tokenizer.json",))
_SCHEDULER = (("scheduler_config.json",),)


def check_folder(folder: Path, pictured: bool) -> None:
    """Whether all files are there and whole, and the U-Net is MVDream's, or ImageDream's where it is `pictured`.

    Reads little more than the files' heads. Raises MissingWeights.
    """
    read_json(folder, INDEX)
    unet, _, _ = _empty_unet(folder, torch.float32)
    _check_kind(folder, unet, pictured)
    for part, stem in (("vae", DIFFUSERS), ("text_encoder", TRANSFORMERS), ("image_encoder", TRANSFORMERS)):
        if pictured or part != "image_encoder":
            read_json(folder, f"{part}/config.json")
            weights_file(folder, part, stem)
    load_settings(CLIPTokenizer, folder, "tokenizer", _TOKENIZER)
    load_settings(DDIMScheduler, folder, "scheduler", _SCHEDULER)


def load_pipeline(folder: Path, dtype: torch.dtype = torch.float32, pictured: bool | None = None) -> MultiViewPipeline:
    """A folder as published, or as `save_pretrained` wrote it, on the CPU. pictured: which of the two it has to be.

    The U-Net's own sub-folder may hold the released code: it is not run. Raises MissingWeights that names the file
    where one is missing, damaged or of another shape.
    """
    read_json(folder, INDEX)
    unet = load_unet(folder, dtype)
    if pictured is not None:
        _check_kind(folder, unet, pictured)
    # bf16 has too few digits for colours; the autoencoder is small.
    vae = load_part(AutoencoderKL, folder, "vae", torch.float32 if dtype == torch.bfloat16 else dtype)
    text_encoder = load_part(CLIPTextModel, folder, "text_encoder", dtype)
    tokenizer = load_settings(CLIPTokenizer, folder, "tokenizer", _TOKENIZER)
    scheduler = load_settings(DDIMScheduler, folder, "scheduler", _SCHEDULER)
    image_encoder = feature_extractor = None
    if unet.config["ip_dim"]:
        image_encoder = load_part(CLIPVisionModel, folder, "image_encoder", dtype)
        settings = "feature_extractor/preprocessor_config.json"
        feature_extractor = (
            load_settings(CLIPImageProcessor, folder, "feature_extractor", (("preprocessor_config.json",),))
            if (folder / settings).is_file()
            else CLIPImageProcessor()  # CLIP's own settings
        )
    _check_widths(folder, unet, text_encoder, vae)
    return MultiViewPipeline(vae, text_encoder, tokenizer, unet, scheduler, image_encoder, feature_extractor)


def load_unet(folder: Path, dtype: torch.dtype) -> MultiViewUNet:
    """The U-Net; its sizes are those of the file's tensors. Raises MissingWeights."""
    unet, path, name = _empty_unet(folder, dtype)
    try:
        load_network(unet, path)
    except MissingWeights as error:
        raise broken(folder, f"{name}: {error.message.rstrip('.')}") from error
    return as_loaded(unet, dtype)


def _empty_unet(folder: Path, dtype: torch.dtype) -> tuple[MultiViewUNet, Path, str]:
    """The network on the meta device, its file, and that file's name in the folder."""
    hints = read_json(folder, "unet/config.json")
    path, _ = weights_file(folder, "unet")
    name = f"unet/{path.name}"
    try:
        shapes = read_shapes(path)
        with torch.device("meta"):
            unet = as_loaded(MultiViewUNet(**config_of(shapes, hints)), dtype)
        check_fit(unet, shapes, path.name)
    except MissingWeights as error:
        raise broken(folder, f"{name}: {error.message.rstrip('.')}") from error
    return unet, path, name


def _check_kind(folder: Path, unet: MultiViewUNet, pictured: bool) -> None:
    if bool(unet.config["ip_dim"]) != pictured:
        here, wanted = ("MVDream", "ImageDream") if pictured else ("ImageDream", "MVDream")
        raise broken(folder, f"unet holds {here}'s weights, not {wanted}'s")


def as_loaded(module: Any, dtype: torch.dtype) -> Any:
    """The module in a dtype, ready for use. (diffusers' own `to` warns of modules that it should leave alone; here are
    none.)"""
    return nn.Module.to(module, dtype).eval().requires_grad_(False)


def _check_widths(folder: Path, unet: Any, text_encoder: Any, vae: Any) -> None:
    """Parts of different models may each be sound and yet not fit together."""
    words, wanted = text_encoder.config.hidden_size, unet.config["context_dim"]
    if words != wanted:
        raise broken(folder, f"text_encoder gives {words} numbers a word where unet wants {wanted}")
    channels, latent = unet.config["in_channels"], vae.config["latent_channels"]
    if channels != latent:
        raise broken(folder, f"vae has {latent} latent channels where unet wants {channels}")
