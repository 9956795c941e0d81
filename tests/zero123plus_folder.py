"""A tiny Zero123++ in a folder as published, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from zero123plus_cases import SMALL, component

from backend.nets.zero123plus_config import SCHEDULER

TILE = 32
_CHANGES = {
    "unet": {"block_out_channels": (32, 32, 64, 64), "attention_head_dim": (1, 1, 2, 2), "cross_attention_dim": 32},
    "vae": {"block_out_channels": (32, 32, 32, 32)},
    "text_encoder": {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 32, "eos_token_id": 99},
    "vision_encoder": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "projection_dim": 32},
}
_PICTURES = {"clip": (56, [0.48, 0.46, 0.41], [0.27, 0.26, 0.28], 3), "vae": (64, [0.5] * 3, [0.8] * 3, 2)}


def write_folder(folder: Path) -> Path:
    """model_index.json, a folder a part with its config and .safetensors, and the settings."""
    torch.manual_seed(0)
    configs = {name: SMALL[name] | change for name, change in _CHANGES.items()}
    configs["text_encoder"] |= {"bos_token_id": 98, "num_attention_heads": 2, "num_hidden_layers": 1}
    for name in configs:
        component(name, configs).save_pretrained(folder / name)
    for name, (size, mean, std, resample) in _PICTURES.items():
        fields = {"crop_size": {"height": size, "width": size}, "size": {"shortest_edge": size}, "resample": resample}
        _write(
            folder / f"feature_extractor_{name}" / "preprocessor_config.json",
            fields | {"image_mean": mean, "image_std": std},
        )
    _write(folder / "scheduler" / "scheduler_config.json", SCHEDULER | {"timestep_spacing": "linspace"})
    ramp = [index / 77 for index in range(77)]
    _write(folder / "model_index.json", {"_class_name": "Zero123PlusPipeline", "ramping_coefficients": ramp})
    return folder


def _write(path: Path, fields: dict[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(fields), encoding="utf-8")
