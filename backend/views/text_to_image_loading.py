"""Stable Diffusion XL's published folder: model_index.json, and a sub-folder for each part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from backend.reconstruct.precision import layers, widen_when_used
from backend.views.folders import (
    DIFFUSERS,
    INDEX,
    TRANSFORMERS,
    broken,
    check_unet,
    load_part,
    load_settings,
    read_json,
    weights_file,
)


class PicturePipeline(StableDiffusionXLPipeline):
    """diffusers' own, but that something else may bring its parts to where it computes, its `home`."""

    home: torch.device | None = None

    @property
    def _execution_device(self) -> torch.device:
        return self.home or super()._execution_device  # type: ignore[misc]


_TOKENIZER = (("vocab.json", "merges.txt"), ("tokenizer.json",))
_SCHEDULER = (("scheduler_config.json",),)
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


def check_folder(folder: Path) -> None:
    """Whether all files are there and whole, and the U-Net is of the shape that its config says, for two text encoders:
    without reading more than their heads. Raises MissingWeights."""
    read_json(folder, INDEX)
    for part, stem in (("vae", DIFFUSERS), *((part, TRANSFORMERS) for part in _TEXT_ENCODERS)):
        read_json(folder, f"{part}/config.json")
        weights_file(folder, part, stem)
    for part in ("tokenizer", "tokenizer_2"):
        load_settings(CLIPTokenizer, folder, part, _TOKENIZER)
    load_settings(EulerDiscreteScheduler, folder, "scheduler", _SCHEDULER)
    config = check_unet(folder)
    _check_widths(folder, config, *(read_json(folder, f"{part}/config.json") for part in _TEXT_ENCODERS))


def load_pipeline(folder: Path, dtype: torch.dtype = torch.float32) -> PicturePipeline:
    """A folder as published, or as `save_pretrained` wrote it, on the CPU.

    Raises MissingWeights that names the file where one is missing, damaged or of another shape.
    """
    read_json(folder, INDEX)
    _check_widths(folder, *(read_json(folder, f"{part}/config.json") for part in ("unet", *_TEXT_ENCODERS)))
    tokenizer, tokenizer_2 = (
        load_settings(CLIPTokenizer, folder, part, _TOKENIZER) for part in ("tokenizer", "tokenizer_2")
    )
    scheduler = load_settings(EulerDiscreteScheduler, folder, "scheduler", _SCHEDULER)
    stored = torch.float16 if dtype == torch.float32 else dtype
    unet = load_part(UNet2DConditionModel, folder, "unet", stored)
    text_encoder = load_part(CLIPTextModel, folder, "text_encoder", stored)
    text_encoder_2 = load_part(CLIPTextModelWithProjection, folder, "text_encoder_2", stored)
    # In half precision the decoder's values leave the range, and its colours the picture: it says so of itself.
    vae = load_part(AutoencoderKL, folder, "vae", torch.float32)
    return assembled(vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, scheduler, dtype)


def assembled(
    vae: Any, text: Any, text_2: Any, tokenizer: Any, tokenizer_2: Any, unet: Any, scheduler: Any, dtype: torch.dtype
) -> PicturePipeline:
    """The pipeline. dtype: to compute in; where it is float32, the matrices stay in half precision as they were
    published, and each layer's are widened while it computes: 8 GB instead of 14."""
    if dtype == torch.float32:
        for network in (unet, text, text_2):
            matrices = layers(network, ())
            inside = {id(parameter) for layer in matrices for parameter in layer.parameters()}
            for parameter in network.parameters():
                if id(parameter) not in inside:
                    parameter.data = parameter.data.float()
            widen_when_used(matrices, torch.float16)
    return PicturePipeline(vae, text, text_2, tokenizer, tokenizer_2, unet, scheduler, add_watermarker=False)


def _check_widths(folder: Path, unet: dict[str, Any], text: dict[str, Any], text_2: dict[str, Any]) -> None:
    """Parts of different models may each be sound and yet not fit together."""
    words: list[Any] = [config.get("hidden_size") for config in (text, text_2)]
    wanted = unet.get("cross_attention_dim")
    if not all(isinstance(width, int) for width in words) or sum(words) != wanted:
        given = f"text_encoder and text_encoder_2 give {words[0]} and {words[1]} numbers a word"
        raise broken(folder, f"{given} where unet wants {wanted} together")
