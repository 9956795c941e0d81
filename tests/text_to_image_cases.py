"""A tiny Stable Diffusion XL with random weights, whose pictures have 64 pixels a side, and its folder as published."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from backend.views.text_to_image_untrained import Sizes, untrained_pipeline

SMALL = Sizes(
    latent=8, unet_channels=(16, 32), attention=(1, 1), heads=(1, 2), sizes_width=8, words=(16, 32), text_layers=(2, 2),
    text_heads=(2, 2), vocabulary=514, vae_channels=(16, 16, 32, 32), vae_groups=8, unet_groups=8,
)  # fmt: skip


def write_folder(folder: Path) -> Path:
    """In half precision, with "fp16" in the files' names; tensors and tokenizers' files are named as they were then."""
    pipeline = untrained_pipeline(SMALL, torch.float16)
    pipeline.vae.half()
    pipeline.save_pretrained(folder, variant="fp16")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLPipeline"}))
    for part in ("text_encoder", "text_encoder_2"):
        file = folder / part / "model.fp16.safetensors"
        state = {key.removeprefix("text_model."): value for key, value in load_file(file).items()}
        state = {key if key == "text_projection.weight" else f"text_model.{key}": state[key] for key in state}
        save_file(state | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, file, {"format": "pt"})
    for part in ("tokenizer", "tokenizer_2"):
        words = getattr(pipeline, part).get_vocab()
        (folder / part / "tokenizer.json").unlink()
        (folder / part / "vocab.json").write_text(json.dumps(words))
        (folder / part / "merges.txt").write_text("#version: 0.2\n")
        settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "!"}
        (folder / part / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
