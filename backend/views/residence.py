"""Where the parts of a view generator lie: on the graphics card while they work, as far as they fit; else not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from backend.memory import LAYERS, TURNS, WHOLE, free_memory, give_back, placement, shares_memory, thriftier

Move = Callable[[nn.Module, str], object]
Fetch = Callable[[Tensor], Tensor]


def module_bytes(module: nn.Module) -> int:
    """Of its parameters and buffers."""
    return sum(value.numel() * value.element_size() for value in (*module.parameters(), *module.buffers()))


class Residence:
    """The parts of one model and where they lie. The largest is the U-Net.

    beside: bytes that the model fills beside its weights while a part computes. way: backend.memory's WHOLE, TURNS or
    LAYERS, chosen from the memory that is free when the model enters, or None where all parts lie in the machine's
    memory. free, move and fetch are there for tests.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        device: str,
        beside: Mapping[str, int],
        *,
        free: Callable[[str], int | None] = free_memory,
        move: Move | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        self.parts, self.device, self.beside = dict(parts), device, dict(beside)
        self.way: str | None = None
        self._free, self._move = free, move or _moved
        self._fetch: Fetch = fetch or (lambda weights: weights.to(device))
        self._least: str = WHOLE
        self._present: str | None = None  # the part whose turn it is
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._streamed = max(self.parts, key=lambda name: module_bytes(self.parts[name]))

    @property
    def apart(self) -> bool:
        """Whether the device has a memory of its own, beside the machine's."""
        return not shares_memory(self.device)

    def bytes(self) -> int:
        """Of all parts."""
        return sum(map(module_bytes, self.parts.values()))

    def enter(self) -> str:
        """Get ready to work; gives the way, which stays as it is where the model is there already."""
        if self.way is not None:
            return self.way
        free = self._free(self.device) if self.apart else None
        sizes = {name: module_bytes(part) for name, part in self.parts.items()}
        self.way = max(placement(sizes, self.beside, free), self._least, key=(WHOLE, TURNS, LAYERS).index)
        if self.way == WHOLE:
            for part in self.parts.values():
                self._move(part, self.device)
            return self.way
        # Before a part computes, the others go and it comes. Of an autoencoder only the halves are called.
        for name, part in self.parts.items():
            for module in (part, *part.children()):
                self._hooks.append(module.register_forward_pre_hook(partial(self._bring, name)))
        if self.way == LAYERS:
            self._hooks += stream(self.parts[self._streamed], self._fetch)
        return self.way

    def leave(self) -> None:
        """All parts into the machine's memory: nothing of the device's is held any more."""
        if not self.apart or self.way is None:
            return
        for hook in self._hooks:
            hook.remove()
        for name, part in self.parts.items():
            if self.way == WHOLE or (name == self._present and not self._stays(name)):
                self._move(part, "cpu")
        self._hooks, self._present, self.way = [], None, None
        give_back()

    def thriftier(self) -> bool:
        """Leave, and need less of the device's memory from now on; False where there is no such way."""
        following = thriftier(self.way) if self.apart and self.way is not None else None
        if following is None:
            return False
        self.leave()
        self._least = following
        return True

    def _bring(self, name: str, _module: nn.Module, _inputs: object) -> None:
        if name == self._present:
            return
        if self._present is not None and not self._stays(self._present):
            self._move(self.parts[self._present], "cpu")
        self._present = name
        if not self._stays(name):
            self._move(self.parts[name], self.device)

    def _stays(self, name: str) -> bool:
        """Whether it remains in the machine's memory, as its layers come one by one."""
        return self.way == LAYERS and name == self._streamed


def stream(module: nn.Module, fetch: Fetch) -> list[torch.utils.hooks.RemovableHandle]:
    """Let each layer's weights be fetched when it computes, and forgotten after: they stay where they are.

    Needs each to be used by the forward of the very module that holds it. Gives what ends it. Nothing is copied back,
    as libraries' offloading does: weights do not change.
    """

    def come(unit: nn.Module, _inputs: object) -> None:
        parameters = [(parameter, parameter.data) for parameter in unit.parameters(recurse=False)]
        buffers = dict(unit.named_buffers(recurse=False))
        unit.__dict__["_kept_weights"] = parameters, buffers
        with torch.inference_mode(False):  # or the parameters could not take the tensors
            for parameter, weights in parameters:
                parameter.data = fetch(weights)
            for name, value in buffers.items():
                setattr(unit, name, fetch(value))

    def go(unit: nn.Module, _inputs: object, _output: object) -> None:
        parameters, buffers = unit.__dict__.pop("_kept_weights", ((), {}))
        for parameter, weights in parameters:
            parameter.data = weights
        for name, value in buffers.items():
            setattr(unit, name, value)

    handles = []
    for unit in module.modules():
        if unit._parameters or unit._buffers:
            # First of all, so that weights in half precision come as they lie, and what widens them does so there.
            handles += [
                unit.register_forward_pre_hook(come, prepend=True),
                unit.register_forward_hook(go, always_call=True),
            ]
    return handles


def _moved(module: nn.Module, device: str) -> None:
    with torch.inference_mode(False):
        nn.Module.to(module, device)
