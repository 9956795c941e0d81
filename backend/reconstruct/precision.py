"""A published network's weights on a device: made at random or read, and in which dtype they lie and are computed with.

Where a processor has no arithmetic for half precision, weights that were published in it can still lie in memory as
they were published: each layer's are widened to float32 while that layer computes. The result is that of float32
weights to the last bit, in half the memory, for the time it takes to read every weight once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from backend.weights import load_network

Network = TypeVar("Network", bound=nn.Module)
_HALF = {"F16": torch.float16, "BF16": torch.bfloat16}


def random_network(make: Callable[[], Network], seed: int) -> Network:
    """make(), with random weights that depend on the seed alone: for trying the way of a job, never for a result."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def loaded_network(make: Callable[[], Network], path: Path, device: str, *, channels_last: bool = False) -> Network:
    """make() with the file's weights, straight on the device, in the dtypes that `make` gives it on the meta device.

    Raises MissingWeights where the file is absent or damaged, or names what does not fit.
    """
    with torch.device("meta"):
        network = make()
    load_network(network, path, device, channels_last=channels_last)
    return network


def placed(
    network: Network, device: str, dtype: torch.dtype, fine: tuple[str, ...], channels_last: bool = False
) -> Network:
    """The network on a device, in `dtype` but for the parameters whose names begin with one of `fine`: float32."""
    for name, parameter in network.named_parameters():
        kind = torch.float32 if name.startswith(fine) else dtype
        layout = torch.channels_last if channels_last and parameter.ndim == 4 else torch.preserve_format
        parameter.data = parameter.data.to(device, kind, memory_format=layout)
    return network


def dtype_of_file(path: Path) -> torch.dtype:
    """float16 or bfloat16 where all matrices of a .safetensors file are that, else float32."""
    with safe_open(path, framework="pt") as file:
        slices = (file.get_slice(name) for name in file.keys())  # noqa: SIM118 (not a dict)
        kinds = {part.get_dtype() for part in slices if len(part.get_shape()) > 1}
    return _HALF.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32


def layers(network: nn.Module, fine: tuple[str, ...]) -> list[nn.Module]:
    """The convolutions and linear layers but for those whose names begin with one of `fine`."""
    return [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not f"{name}.".startswith(fine)
    ]


def widen_when_used(units: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """Keep the units' matrices in `dtype`, and compute in float32: each unit's are widened while it is called.

    A unit is a module whose matrices are used by nobody but its own `forward`. Vectors become float32.
    """
    for unit in units:
        for parameter in unit.parameters():
            parameter.data = parameter.data.to(dtype if parameter.ndim > 1 else torch.float32)
        unit.register_forward_pre_hook(_widen)
        unit.register_forward_hook(_narrow, always_call=True)


def _widen(unit: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
    with torch.inference_mode(False):  # or the parameters could not take the tensors
        kept = [(parameter, parameter.data) for parameter in unit.parameters() if parameter.dtype != torch.float32]
        for parameter, narrow in kept:
            parameter.data = narrow.float()
    unit.__dict__["_narrow_weights"] = kept


def _narrow(unit: nn.Module, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
    for parameter, narrow in unit.__dict__.pop("_narrow_weights", ()):
        parameter.data = narrow
