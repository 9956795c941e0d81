"""Checkpoints on disk: the starter pack that ships with the project, and safetensors files with their metadata."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.errors import MissingWeights
from backend.packs import Published, read_metadata

STARTER_PACK = Path(__file__).parent / "starter_pack"


def how_to_get(*packs: Published) -> str:
    """Where weights are to be had, and under which licence."""
    if any(not pack.repository for pack in packs):
        return (
            f"Train them ({packs[0].page}), bring them with 'python -m backend weights import {packs[0].name} FOLDER', "
            "or try the way with --random-weights."
        )
    ways = []
    for pack in packs:
        size = f"{pack.bytes / 1e9:.1f} GB, " if pack.bytes else ""
        ways.append(f"'python -m backend weights download {pack.name}' ({size}licence: {pack.licence})")
    return (
        f"Download them with {' and '.join(ways)}, bring them from {' and '.join(pack.page for pack in packs)} with "
        f"'weights import {packs[0].name} FOLDER', or try the way with --random-weights."
    )


def missing_weights(*packs: Published) -> MissingWeights:
    """The error for weights that are not on this machine; it says how to get them."""
    titles = " and ".join(pack.title.split(":")[0] for pack in packs)
    return MissingWeights(f"The weights of {titles} are not on this machine.", how_to_get(*packs))


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_checkpoint(path: Path, state: dict[str, Tensor], metadata: dict[str, Any], dtype: torch.dtype | None) -> None:
    """Writes tensors as `dtype` (None: as they are) with `metadata` (JSON values) beside them; whole or not at all."""
    tensors = {key: value.detach().to("cpu", dtype or value.dtype).contiguous() for key, value in state.items()}
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


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a file's tensors. Raises MissingWeights when it is absent or damaged."""
    with _opened(path) as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


def read_config(path: Path) -> dict[str, Any]:
    """The network's config in a file's metadata. Raises MissingWeights where there is none, or no file."""
    with _opened(path):
        pass
    config = read_metadata(path).get("config")
    if not isinstance(config, dict):
        raise MissingWeights(
            f"The weights {path.name} came without their config.", "Import the file as it was published."
        )
    return config


def load_network(network: nn.Module, path: Path, device: str = "cpu", *, channels_last: bool = False) -> dict[str, Any]:
    """Fills a network that stands on the meta device, straight on `device` in the dtypes that its tensors have there.

    No tensor is there twice, not even for a moment. channels_last: how convolutions' kernels lie in memory. Gives the
    file's metadata. Raises MissingWeights where the file is absent or damaged, or names what does not fit.
    """
    shapes = read_shapes(path)
    check_fit(network, shapes, path.name)
    wanted = {key: value.dtype for key, value in network.state_dict().items()}
    state: dict[str, Tensor] = {}
    for keys in _portions(shapes):
        with _opened(path, device) as file:  # opened again for each: what was read so far need not stay in memory
            for key in keys:
                tensor = file.get_tensor(key)
                layout = torch.channels_last if channels_last and tensor.ndim == 4 else torch.contiguous_format
                state[key] = tensor.to(wanted[key], copy=True, memory_format=layout)
    network.load_state_dict(state, assign=True)
    return read_metadata(path)


def _portions(shapes: Mapping[str, tuple[int, ...]], elements: int = 64 * 2**20) -> list[list[str]]:
    """The names in portions of about so many elements."""
    portions, count = [[]], 0  # type: tuple[list[list[str]], int]
    for key, shape in shapes.items():
        if count > elements:
            portions.append([])
            count = 0
        portions[-1].append(key)
        count += math.prod(shape)
    return portions


@contextmanager
def _opened(path: Path, device: str = "cpu") -> Iterator[Any]:
    if not path.is_file():
        raise MissingWeights(f"The weights {path.name} are not in {path.parent}.", "Download or import them again.")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise MissingWeights(f"The weights {path.name} are damaged.", "Download or import them again.") from error


def check_fit(module: nn.Module, shapes: Mapping[str, Sequence[int]], name: str) -> None:
    """Raises MissingWeights that names the tensors a module lacks, does not know, or wants in another shape."""
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    missing = sorted(set(expected) - set(shapes))
    unknown = sorted(set(shapes) - set(expected))
    misshapen = sorted(key for key in set(expected) & set(shapes) if expected[key] != tuple(shapes[key]))
    problems = [f"{word} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}" for word, keys in
                (("lack", missing), ("have unknown", unknown), ("misshape", misshapen)) if keys]  # fmt: skip
    if problems:
        raise MissingWeights(
            f"The weights {name} do not fit this version: they {'; '.join(problems)}.", "Install matching weights."
        )


def load_into(module: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Fills a module strictly. Raises MissingWeights that names what does not fit."""
    check_fit(module, {key: value.shape for key, value in state.items()}, name)
    module.load_state_dict(state)
