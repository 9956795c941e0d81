"""Small GRMs whose weights and pictures follow a rule, so that only results are stored: parity/grm.safetensors.

Weights are normal random numbers seeded by their key. The released code computed the results, on a CPU in float32.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from backend.nets.grm import Grm
from backend.nets.grm_config import GrmConfig

STORED = Path(__file__).parent / "parity" / "grm.safetensors"
CASES = {
    "A": GrmConfig(
        input_res=64, patch_size=8, layers=3, width=256, decoder_ratio=2, window_size=256,
        render_activation_type="sigmoid", scale_min_act=0.001, scale_max_act=0.3,
    ),
    "B": GrmConfig(
        input_res=64, patch_size=8, layers=2, width=128, decoder_ratio=3, half_res_input=True, window_size=64,
        bwindow_size=16, scaling_activation_type="exp", scale_offset=-2.3, scale_max=-1.2,
    ),
    "C": GrmConfig(
        input_res=32, patch_size=8, layers=1, width=128, decoder_ratio=0, window_size=None,
        scaling_activation_type="softplus", scale_max=0.5, render_activation_type="softplus",
    ),
}  # fmt: skip
LENS = (0.5 / math.tan(math.radians(25)), 0.5 / math.tan(math.radians(25)), 0.5, 0.5)


def _generator(text: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little"))


def ruled_state(network: Grm) -> dict[str, Tensor]:
    """A state dict by the rule: weights scaled by their inputs, biases small, norms near one."""
    state = {}
    for key, value in network.state_dict().items():
        random = torch.randn(value.shape, generator=_generator(key))
        if key.endswith("positional_embedding"):
            state[key] = 0.5 * random
        elif value.ndim > 1:
            state[key] = random / math.sqrt(math.prod(value.shape[1:]))
        elif "layernorm" in key and key.endswith("weight"):
            state[key] = 1.0 + 0.1 * random
        else:
            state[key] = 0.02 * random
    return state


def ruled_network(case: str) -> Grm:
    """The network of a case with its weights."""
    network = Grm(CASES[case]).eval()
    network.load_state_dict(ruled_state(network))
    return network


def images(case: str, views: int = 4) -> Tensor:
    """[1, V, 3, R, R] the case's pictures."""
    side = CASES[case].input_res
    return torch.rand((1, views, 3, side, side), generator=_generator(f"input:{case}:images")) * 2 - 1


def stored(case: str) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """What the released code gave, by name without the case; and the shape of each result."""
    with safe_open(STORED, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(case + ".")]  # noqa: SIM118
        values = {name[2:]: file.get_tensor(name) for name in names}
        shapes = json.loads(file.metadata()["shapes"])
    return values, {name[2:]: shape for name, shape in shapes.items() if name.startswith(case + ".")}
