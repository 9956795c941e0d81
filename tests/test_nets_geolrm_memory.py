"""How GeoLRM's memory grows with the views, counted at full size on the meta device."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backend.nets.dinov2 import Dinov2Config
from backend.nets.geolrm import GeoLrm
from backend.nets.geolrm_config import GeoLrmConfig, StageConfig


class _LiveBytes(TorchDispatchMode):
    """The most bytes of tensors that are alive at once; on the meta device nothing is computed or allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self._known:
                    self._known.add(key)
                    self.now += size
                    weakref.finalize(storage, self._free, key, size)
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _peak_megabytes(stage: Any, views: int, size: int, tokens: int | None) -> float:
    with torch.device("meta"):
        given = [torch.empty(views, 3, size, size), torch.empty(views, 4, 4), torch.empty(views, 3, 3)]
        if tokens is not None:
            given.append(torch.empty(tokens, 3))
    with torch.inference_mode(), _LiveBytes() as live:
        stage(*given)
    return (live.peak + sum(t.numel() * 4 for t in given)) / 1e6


def test_memory_grows_by_far_less_than_the_bound_for_each_view() -> None:
    one_layer = Dinov2Config(layers=1)  # without gradients further layers take no more memory
    config = GeoLrmConfig(StageConfig(384, 1, dino=one_layer), StageConfig(768, 1, dino=one_layer))
    with torch.device("meta"):
        network = GeoLrm(config).in_precision(torch.bfloat16)
    for stage, tokens in ((network.serializer, None), (network.lrm_generator, 16384)):
        few, more, many = (_peak_megabytes(stage, views, 448, tokens) for views in (2, 4, 6))
        print(f"{type(stage).__name__}: {few:.0f}, {more:.0f}, {many:.0f} MB at 2, 4, 6 views")
        assert more - few < 2 * 50  # of 250 MB a view that would be allowed
        assert many - more < 1.1 * (more - few)
