"""A small SV3D whose weights follow a rule by the published file's names, so that only results are stored."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from ruled_weights import PARITY, ruled
from safetensors.torch import load_file
from torch import Tensor, nn

from backend.nets.sv3d import Sv3d, build, published_config
from backend.nets.sv3d_layout import places, published_shapes


def small_config(variant: str) -> dict[str, dict[str, Any]]:
    config = published_config(variant)
    widths = {"block_out_channels": (64, 128, 256, 256), "num_attention_heads": (4, 8, 16, 16)}
    clip = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}
    return {
        "unet": config["unet"] | widths | {"cross_attention_dim": 64},
        "vae": config["vae"] | {"block_out_channels": (32, 64, 128, 128)},
        "vision_encoder": config["vision_encoder"] | clip | {"patch_size": 56, "projection_dim": 64},
    }


def tiny_config(variant: str) -> dict[str, dict[str, Any]]:
    """For tests that are about files and views."""
    config = small_config(variant)
    config["unet"] |= {"block_out_channels": (32,) * 4, "num_attention_heads": (1,) * 4, "cross_attention_dim": 32}
    config["vae"] |= {"block_out_channels": (32,) * 4}
    config["vision_encoder"] |= {"hidden_size": 32, "intermediate_size": 32, "projection_dim": 32}
    return config


def stored() -> dict[str, Tensor]:
    """What the released code was given and gave."""
    return load_file(PARITY / "sv3d.safetensors")


@cache
def _published(key: str, shape: tuple[int, ...]) -> Tensor:
    return ruled(key, shape)


def ruled_networks(variant: str) -> dict[str, nn.Module]:
    """The small networks with their weights."""
    with torch.device("meta"):
        networks = build(small_config(variant))
    shapes = published_shapes(networks)
    states: dict[str, dict[str, Tensor]] = {component: {} for component in networks}
    for (component, name), place in places(networks).items():
        states[component][name] = place.take(_published(place.key, shapes[place.key]))
    for component, network in networks.items():
        network.eval().load_state_dict(states[component], assign=True)
    return networks


def ruled_model(variant: str) -> Sv3d:
    """The small model with its weights."""
    return Sv3d(**ruled_networks(variant)).eval()
