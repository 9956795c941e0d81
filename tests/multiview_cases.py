"""Small multi-view U-Nets whose weights and inputs follow a rule, so that only results are stored.

Weights are normal random numbers seeded by their key. The released code computed the results, on a CPU in float32:
parity/mvdream.safetensors.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from backend.nets.multiview_unet import MultiViewUNet
from backend.views.mvdream_untrained import Sizes

STORED = Path(__file__).parent / "parity" / "mvdream.safetensors"
VARIANTS = {"mvdream": 4, "imagedream": 5}  # how many views each denoises
TOLERANCE = 1e-4
# A whole pipeline of some 9 million random numbers, whose pictures have 64 pixels a side.
SMALL = Sizes(
    latent=8, unet_channels=32, head_channels=16, words=32, text_layers=2, vocabulary=514,
    vae_channels=(16, 16, 32, 32), vae_groups=8, picture=28, picture_layers=2,
)  # fmt: skip


@lru_cache(maxsize=1)
def stored() -> dict[str, Tensor]:
    """All values; activations as VARIANT.act.MODULE.{idx,val,stats}."""
    with safe_open(STORED, framework="pt") as file:
        values = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        modules = json.loads(file.metadata()["modules"])
    for variant, counts in modules.items():
        sizes = [count for _, count in counts]
        for part in ("idx", "val", "stats"):
            together = values.pop(f"{variant}.act.{part}")
            pieces = together.split(sizes) if part != "stats" else together
            values |= {f"{variant}.act.{name}.{part}": x for (name, _), x in zip(counts, pieces, strict=True)}
    return values


def small_config(variant: str) -> dict[str, Any]:
    with safe_open(STORED, framework="pt") as file:
        return json.loads(file.metadata()["configs"])[variant]


def drawn(name: str, *shape: int) -> Tensor:
    """Normal random numbers that depend on a name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=2)
def small_network(variant: str) -> MultiViewUNet:
    """The network with the reference's weights: one tensor's depend on its name alone."""
    with torch.device("meta"):
        network = MultiViewUNet(**small_config(variant))
    state = {}
    for name, parameter in network.state_dict().items():
        value = drawn(name, *parameter.shape)
        if name.endswith(".bias"):
            value *= 0.02
        elif parameter.ndim == 1:
            value = 1.0 + 0.1 * value
        else:
            value /= parameter[0].numel() ** 0.5
        state[name] = value
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def inputs(variant: str) -> dict[str, Tensor]:
    """The reference's inputs for two objects, as the network takes them."""
    views = VARIANTS[variant]
    given = {
        "latents": drawn(f"{variant}:x", 2 * views, 4, 16, 16).unflatten(0, (2, views)),
        "timestep": torch.tensor([981.0, 21.0]),
        "words": drawn(f"{variant}:context", 2, 77, 96),
        "camera": stored()[f"{variant}.camera"].unflatten(0, (2, views)),
    }
    if variant == "imagedream":
        picture, latent = drawn("imagedream:ip", 1, 257, 1280), drawn("imagedream:ip_img", 1, 4, 16, 16)
        given["picture"] = torch.cat([torch.zeros_like(picture), picture])
        given["picture_latent"] = torch.cat([torch.zeros_like(latent), latent])
    return given
