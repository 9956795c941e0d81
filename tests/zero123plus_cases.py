"""A small Zero123++ whose weights follow a rule, so that only pictures, noise and results are stored."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from ruled_weights import PARITY, ruled
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from backend.nets.zero123plus import Zero123Plus, encode_empty_prompt
from backend.nets.zero123plus_config import COMPONENTS

_CHANGES: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 8, "block_out_channels": (64, 128, 256, 256), "attention_head_dim": (4, 8, 16, 16),
        "cross_attention_dim": 64,
    },
    "vae": {"block_out_channels": (32, 64, 128, 128)},
    "text_encoder": {
        "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "bos_token_id": 998, "eos_token_id": 999, "pad_token_id": 0,
    },
    "vision_encoder": {
        "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": 56, "projection_dim": 64,
    },
}  # fmt: skip
SMALL = {name: config | _CHANGES[name] for name, config in COMPONENTS.items()}
TILE = 64


def component(name: str, configs: dict[str, dict[str, Any]] = SMALL) -> nn.Module:
    """One of the four networks."""
    config = configs[name]
    if name == "text_encoder":
        return CLIPTextModel(CLIPTextConfig(**config)).eval()
    if name == "vision_encoder":
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**config)).eval()
    return (UNet2DConditionModel if name == "unet" else AutoencoderKL)(**config).eval()


def file_key(name: str, key: str) -> str:
    """A tensor's name in the published file: the text tower's have a prefix that transformers 5 leaves away."""
    prefix = "text_model." if name == "text_encoder" and not key.startswith("text_model.") else ""
    return f"{name}/{prefix}{key}"


def ruled_component(name: str) -> nn.Module:
    """One of the four networks, small, with its weights."""
    network = component(name)
    state = {key: ruled(file_key(name, key), value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(state)
    return network


def stored() -> dict[str, Tensor]:
    """What the released code was given and gave."""
    return load_file(PARITY / "zero123plus.safetensors")


def ruled_model() -> Zero123Plus:
    """The small model with its weights."""
    with torch.no_grad():
        empty = encode_empty_prompt(ruled_component("text_encoder"))
    networks = (ruled_component(name) for name in ("unet", "vae", "vision_encoder"))
    return Zero123Plus(*networks, empty, stored()["ramping_v12"], TILE).eval()
