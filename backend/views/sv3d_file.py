"""SV3D's single published file: its tensors straight into the networks, one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from backend.errors import MissingWeights
from backend.nets.sv3d import WIDTHS, Sv3d, build, published_config
from backend.nets.sv3d_layout import UNUSED, places, published_shapes, published_state
from backend.packs import read_metadata
from backend.weights import read_shapes, save_checkpoint

_TELLING = "model.diffusion_model.label_emb.0.0.weight"
_CURE = "Get it again: python -m backend weights download {}, or weights import {} FOLDER."


def empty_networks(path: Path) -> dict[str, nn.Module]:
    """The networks that a file holds, on the meta device: of the published size, or of a config in its metadata.

    Raises MissingWeights where the file is absent, damaged, or holds something else.
    """
    shapes = read_shapes(path)
    telling = shapes.get(_TELLING)
    variant = next((name for name, width in WIDTHS.items() if telling is not None and telling[-1:] == (width,)), None)
    if variant is None:
        raise _wrong(path, f"they have no {_TELLING} of SV3D's shape")
    config: Any = read_metadata(path).get("config") or published_config(variant)
    try:
        with torch.device("meta"):
            networks = build(config)
    except Exception as error:  # a config can be wrong in any way
        raise _wrong(path, f"their config makes no sense ({type(error).__name__})") from error
    wanted = published_shapes(networks)
    problems = {
        "lack": [key for key in wanted if key not in shapes],
        "misshape": [key for key in wanted if key in shapes and shapes[key] != wanted[key]],
        "have unknown": [key for key in shapes if key not in wanted and not key.startswith(UNUSED)],
    }
    for word, keys in problems.items():
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise _wrong(path, f"they {word} {', '.join(sorted(keys)[:3])}{more}")
    return networks


def load_sv3d(path: Path, dtype: torch.dtype) -> Sv3d:
    """The model in the machine's memory. The U-Net and the picture encoder become `dtype`; the autoencoder stays
    float32, as it does in the released code. Raises MissingWeights."""
    networks = empty_networks(path)
    kinds = {"unet": dtype, "vision_encoder": dtype, "vae": torch.float32}
    states: dict[str, dict[str, torch.Tensor]] = {component: {} for component in networks}
    by_key: dict[str, list[tuple[str, str]]] = {}
    found = places(networks)
    for at, place in found.items():
        by_key.setdefault(place.key, []).append(at)
    with _opened(path) as file:
        for key, users in by_key.items():
            stored = file.get_tensor(key)
            for component, name in users:
                taken = found[component, name].take(stored)
                states[component][name] = taken.to(kinds[component], copy=True).contiguous()
    for component, network in networks.items():
        network.load_state_dict(states[component], assign=True)
    return Sv3d(**networks)


def save_sv3d(path: Path, networks: Mapping[str, nn.Module], config: Mapping[str, Any]) -> None:
    """Writes the networks in the published layout, with their config in the metadata."""
    save_checkpoint(path, published_state(networks), {"config": dict(config)}, None)


def _wrong(path: Path, what: str) -> MissingWeights:
    return MissingWeights(f"The weights {path.name} are not SV3D's: {what} ({path.parent}).", _cure(path))


def _cure(path: Path) -> str:
    pack = path.parent.name
    return _CURE.format(pack, pack)


@contextlib.contextmanager
def _opened(path: Path) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise MissingWeights(f"The weights {path.name} are damaged ({path.parent}).", _cure(path)) from error
