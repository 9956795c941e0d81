"""Weights and published layouts by rule, for diffusion models whose numbers the released code gave."""

from __future__ import annotations

import hashlib
import lzma
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

PARITY = Path(__file__).parent / "parity"


def seeded(name: str, shape: Iterable[int]) -> Tensor:
    """Normal random numbers seeded by a name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def ruled(key: str, shape: Iterable[int]) -> Tensor:
    """A weight: kernels scaled by their inputs, norms near one, biases small, blending factors as they come."""
    random = seeded(key, shape)
    if key.endswith("mix_factor"):
        return random
    if random.ndim > 1:
        return random / math.sqrt(math.prod(random.shape[1:]))
    return 1.0 + 0.1 * random if key.endswith(".weight") else 0.02 * random


def published_layout(name: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """A full-size file's keys: their shapes, and what else the list says of them."""
    entries = {}
    for line in lzma.decompress((PARITY / f"{name}_keys.txt.xz").read_bytes()).decode().splitlines():
        key, shape, *more = line.split(" ", 2)
        entries[key] = (tuple(int(side) for side in shape.split("x")) if shape != "-" else (), "".join(more))
    return entries
