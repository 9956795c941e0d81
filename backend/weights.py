"""Checkpoints on disk: the starter pack that ships with the project, and safetensors files with their metadata."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.errors import MissingWeights

STARTER_PACK = Path(__file__).parent / "starter_pack"


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_checkpoint(path: Path, state: dict[str, Tensor], metadata: dict[str, Any], dtype: torch.dtype) -> None:
    """Writes tensors as `dtype` with `metadata` (JSON values) beside them; whole or not at all."""
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in state.items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {key: json.dumps(value) for key, value in metadata.items()})
    partial.chmod(0o644)  # safetensors writes for the owner alone
    partial.replace(path)


def load_checkpoint(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors as float32 and the metadata. Raises MissingWeights when the file is absent or damaged."""
    if not path.is_file():
        raise MissingWeights(
            f"The weights {path.name} are not in {path.parent}.",
            "Install Splatsmith again, or train them: see docs/training.md.",
        )
    try:
        with safe_open(path, framework="pt", device=device) as file:
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise MissingWeights(f"The weights {path.name} are damaged.", "Install Splatsmith again.") from error
    return state, metadata


def load_into(module: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Fills a module strictly. Raises MissingWeights that names what does not fit."""
    expected = module.state_dict()
    missing = sorted(set(expected) - set(state))
    unknown = sorted(set(state) - set(expected))
    misshapen = sorted(key for key in set(expected) & set(state) if expected[key].shape != state[key].shape)
    problems = [f"{word} {', '.join(keys[:3])}" for word, keys in
                (("lack", missing), ("have unknown", unknown), ("misshape", misshapen)) if keys]  # fmt: skip
    if problems:
        raise MissingWeights(
            f"The weights {name} do not fit this version: they {'; '.join(problems)}.", "Install matching weights."
        )
    module.load_state_dict(state)
