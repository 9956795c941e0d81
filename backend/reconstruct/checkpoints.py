"""Published checkpoints: each one's layout, brought once to a safetensors file that the networks load.

LGM's are safetensors files already. GRM's are .pth files with the weights under `model` and the settings that no shape
tells under `config`; GeoLRM's is a Lightning .ckpt, a flat dict whose names begin with its two networks'; InstantMesh's
U-Net for Zero123++ a plain state dict; SV3D's a safetensors file of several networks. Nothing in a pickle is executed:
see formats.torch_file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.errors import MissingWeights
from backend.formats.plain_pickle import StoredTensor
from backend.formats.torch_file import read_torch_file
from backend.formats.whole_file import whole_file
from backend.nets.lgm import Lgm, LgmConfig
from backend.views.folders import check_libraries
from backend.weights import check_fit, read_config, read_shapes, save_checkpoint, sha256_of

MODELS = ("lgm", "grm", "geolrm", "mvdream", "imagedream", "zero123plus", "zero123plus-unet", "sv3d", "sdxl", "dmv3d")
PICKLES = (".pth", ".pt", ".ckpt", ".bin")


@dataclass(frozen=True)
class Converted:
    """state: tensors by the networks' names; config: as the network's `from_dict` takes it."""

    state: dict[str, Tensor]
    config: dict[str, Any]


def prepared(model: str, path: Path) -> Path:
    """The file that the model's network loads: `path` itself, or a .safetensors made of it beside it, once.

    Raises MissingWeights where the file is absent, damaged or another model's, BadInput where there is more in it than
    weights.
    """
    if path.suffix not in PICKLES:
        check(model, path)
        return path
    target = path.with_suffix(".safetensors")
    if not target.is_file() or (path.is_file() and target.stat().st_mtime < path.stat().st_mtime):
        convert(model, path, target)
    return target


def prepared_part(path: Path) -> Path:
    """A .bin file of a part of a pipeline as the .safetensors file that the libraries look for, made beside it once.

    Raises MissingWeights where it is damaged, BadInput where there is more in it than weights.
    """
    target = path.with_name(path.name.removeprefix("pytorch_")).with_suffix(".safetensors")
    if not target.is_file() or target.stat().st_mtime < path.stat().st_mtime:
        state = _tensors(read_torch_file(path), path.name)
        with whole_file(target) as temporary:
            save_file({key: value.contiguous() for key, value in state.items()}, temporary, {"format": "pt"})
    return target


def convert(model: str, path: Path, target: Path) -> None:
    """Writes the weights of a pickle as a safetensors file with the network's config and where they come from.

    Raises as `prepared` does.
    """
    converted = _READERS[model](read_torch_file(path), path.name)
    network = empty_network(model, converted.config)
    check_fit(network, {key: tuple(value.shape) for key, value in converted.state.items()}, path.name)
    metadata = {
        "model": model,
        "config": converted.config,
        "source": {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)},
    }
    save_checkpoint(target, converted.state, metadata, None)


def check(model: str, path: Path) -> None:
    """Raises MissingWeights where a .safetensors file is not one that the model's network loads, or where something is
    wrong with the folder that a model_index.json lies in."""
    if model in ("mvdream", "imagedream"):
        check_libraries()
        from backend.views.mvdream_loading import check_folder

        check_folder(path.parent, pictured=model == "imagedream")
        return
    if model == "zero123plus":
        check_libraries()
        from backend.views.zero123plus import check_folder as check_zero123plus

        check_zero123plus(path.parent)
        return
    if model == "sdxl":
        check_libraries()
        from backend.views.text_to_image_loading import check_folder as check_sdxl

        check_sdxl(path.parent)
        return
    if model == "sv3d":
        check_libraries()
        from backend.views.sv3d_file import empty_networks

        empty_networks(path)
        return
    shapes = read_shapes(path)
    if model == "lgm":
        config = LgmConfig.from_shapes(shapes).to_dict()
    else:
        config = _zero123plus_config() if model == "zero123plus-unet" else read_config(path)
    check_fit(empty_network(model, config), shapes, path.name)


def empty_network(model: str, config: dict[str, Any]) -> nn.Module:
    """The model's network on the meta device: names and shapes without memory."""
    with torch.device("meta"):
        if model == "grm":
            from backend.nets.grm import Grm
            from backend.nets.grm_config import GrmConfig

            return Grm(GrmConfig.from_dict(config))
        if model == "geolrm":
            from backend.nets.geolrm import GeoLrm
            from backend.nets.geolrm_config import GeoLrmConfig

            return GeoLrm(GeoLrmConfig.from_dict(config))
        if model == "dmv3d":
            from backend.nets.dmv3d import Dmv3d, Dmv3dConfig

            return Dmv3d(Dmv3dConfig(**config))
        if model == "zero123plus-unet":
            check_libraries()
            from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

            return UNet2DConditionModel(**config)
        return Lgm(LgmConfig.from_dict(config))


def _tensors(found: Any, name: str) -> dict[str, Tensor]:
    """A state dict's tensors. Raises MissingWeights where it is none."""
    if not isinstance(found, dict) or not found or not all(isinstance(value, StoredTensor) for value in found.values()):
        raise MissingWeights(f"{name} holds no weights where they are expected.", "Choose another file.")
    state: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, value in found.items():
        tensor = value.load()
        shared = id(value.storage) in storages or tensor.numel() != value.storage.count
        storages.add(id(value.storage))
        state[str(key)] = tensor.clone() if shared else tensor  # a safetensors file has no tensors within tensors
    return state


def _read_lgm(content: Any, name: str) -> Converted:
    state = _tensors(content, name)
    state = {key: value for key, value in state.items() if not key.startswith("lpips_loss.")}
    return Converted(state, LgmConfig.from_shapes({key: tuple(value.shape) for key, value in state.items()}).to_dict())


def _read_grm(content: Any, name: str) -> Converted:
    """`model`: names may begin with `module.`; `config.model_config`: what shapes do not tell."""
    from backend.nets.grm_config import config_of

    if not isinstance(content, dict) or "model" not in content:
        raise MissingWeights(f"{name} holds no GRM: it has no part 'model'.", "Choose a .pth file as it was published.")
    state = {key.removeprefix("module."): value for key, value in _tensors(content["model"], name).items()}
    config = content.get("config")
    hints = config.get("model_config") if isinstance(config, Mapping) else None
    return Converted(state, _plain(config_of(state, hints).to_dict(), name))


def _read_geolrm(content: Any, name: str) -> Converted:
    """A flat dict, or one as Lightning wraps it; a training loss's own network may lie in it too."""
    from backend.nets.geolrm_config import GeoLrmConfig, split_lightning

    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    state, _ = split_lightning(_tensors(content, name))
    return Converted(state, _plain(GeoLrmConfig.from_state(state).to_dict(), name))


def _read_zero123plus_unet(content: Any, name: str) -> Converted:
    return Converted(_tensors(content, name), _zero123plus_config())


def _zero123plus_config() -> dict[str, Any]:
    check_libraries()
    from backend.nets.zero123plus_config import UNET

    return UNET


def _plain(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The config as JSON has it."""
    try:
        return json.loads(json.dumps(config))
    except (TypeError, ValueError) as error:
        raise MissingWeights(f"The config in {name} makes no sense ({error}).", "Get the file again.") from error


_READERS: dict[str, Callable[[Any, str], Converted]] = {
    "lgm": _read_lgm,
    "grm": _read_grm,
    "geolrm": _read_geolrm,
    "zero123plus-unet": _read_zero123plus_unet,
}
