"""One row of `bench views`, in a process of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.bench.reconstruct_row import begin_peak, peak_bytes
from backend.bench.views import Row
from backend.bench.views_plain import make_plain
from backend.memory import GIB
from backend.nets.sv3d import published_config
from backend.nets.zero123plus_config import COMPONENTS
from backend.views.mvdream import MultiViewGenerator
from backend.views.mvdream_untrained import FULL, Sizes, untrained_pipeline
from backend.views.sv3d import EVEN, Sv3dGenerator
from backend.views.zero123plus import FOR_VAE, Zero123PlusGenerator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TINY = Sizes(8, 32, 16, 32, 1, 514, (16, 16, 32, 32), 8, 28, 1)
_NARROW = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_FOUR = {"block_out_channels": (32,) * 4}


def multiview(pictured: bool) -> Callable[[Row], Any]:
    def make(row: Row) -> MultiViewGenerator:
        sizes = {"full": FULL, "small": replace(FULL, latent=FULL.latent // 2), "tiny": _TINY}[row.size]
        return MultiViewGenerator(untrained_pipeline(pictured, sizes, DTYPES[row.dtype]), row.device)

    return make


def zero123plus(row: Row) -> Zero123PlusGenerator:
    tile = {"full": 320, "small": 128, "tiny": 64}[row.size]
    components, settings = COMPONENTS, replace(FOR_VAE, size={"full": 512, "small": 256, "tiny": 64}[row.size])
    if row.size == "tiny":
        components = {
            "unet": COMPONENTS["unet"] | _FOUR | {"attention_head_dim": (1,) * 4, "cross_attention_dim": 32},
            "vae": COMPONENTS["vae"] | _FOUR,
            "vision_encoder": COMPONENTS["vision_encoder"] | _NARROW | {"projection_dim": 32},
        }
    return Zero123PlusGenerator.untrained(
        device=row.device, dtype=DTYPES[row.dtype], tile=tile, components=components, for_vae=settings
    )


def sv3d(row: Row) -> Sv3dGenerator:
    config = published_config("p")
    if row.size == "tiny":
        config = {  # new ones: the published are shared
            "unet": config["unet"] | _FOUR | {"num_attention_heads": (1,) * 4, "cross_attention_dim": 32},
            "vae": config["vae"] | _FOUR,
            "vision_encoder": config["vision_encoder"] | _NARROW | {"projection_dim": 32},
        }
    size = {"full": 576, "small": 128, "tiny": 64}[row.size]
    return Sv3dGenerator.untrained(EVEN, device=row.device, dtype=DTYPES[row.dtype], config=config, size=size)


MODELS: dict[str, Callable[[Row], Any]] = {
    "mvdream": multiview(pictured=False), "imagedream": multiview(pictured=True), "zero123plus": zero123plus,
    "sv3d": sv3d,
}  # fmt: skip
GUIDANCE = {"mvdream": 7.5, "imagedream": 5.0, "zero123plus": 4.0, "sv3d": 2.5}


def picture(size: int) -> Tensor:
    """[4, S, S]: coloured noise in a soft disc, the same every time."""
    rgb = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rgb = torch.nn.functional.interpolate(rgb, size=(size, size))[0]
    ticks = torch.linspace(-1, 1, size)
    return torch.cat([rgb, ((0.8 - torch.hypot(ticks[None, :], ticks[:, None])) * 8).clamp(0, 1)[None]])


class Watch:
    """Wall and CPU seconds since the last lap."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._last = self._now()

    def lap(self) -> tuple[float, float]:
        if self._device == "cuda":
            torch.cuda.synchronize()
        now, last = self._now(), self._last
        self._last = now
        return now[0] - last[0], now[1] - last[1]

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


def main(row: Row, pictures: Path) -> None:
    """Run the row, write its views over white and print its figures as JSON."""
    if row.threads:
        torch.set_num_threads(row.threads)
    generator = MODELS[row.model](row)
    unet = generator.pipeline.unet if hasattr(generator, "pipeline") else generator.model.unet
    if row.device == "cuda":
        limit_card(generator, row.card)
    if row.plain:
        make_plain(generator)
    given = {"prompt": "a red mug"} if row.model == "mvdream" else {"image": picture(generator.image_size)}
    generator.residence.enter()
    begin_peak()  # published weights are loaded tensor by tensor: making random ones may need more than computing does
    if row.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    watch = Watch(row.device)
    phases: dict[str, list[tuple[float, float]]] = {"encode": [], "step": [], "rest": []}

    def first_call(*_: Any) -> None:
        hook.remove()
        phases["encode"].append(watch.lap())

    hook = unet.register_forward_pre_hook(first_call)
    walk = generator.generate(seed=0, steps=row.steps, guidance=GUIDANCE[row.model], **given)
    while True:
        try:
            next(walk)
        except StopIteration as end:
            views = end.value
            break
        if len(phases["step"]) < row.steps:
            phases["step"].append(watch.lap())
    phases["rest"].append(watch.lap())
    np.save(pictures, views.over(1.0).float().numpy())
    steps = phases["step"][1:] or phases["step"]  # the first one of several warms up
    figures = {
        "encode": phases["encode"][0], "step": sorted(steps)[len(steps) // 2], "rest": phases["rest"][0],
        "peak_bytes": peak_bytes(row.device), "way": generator.residence.way, "views": len(views),
        "weights_bytes": generator.residence.bytes(),
    }  # fmt: skip
    print(json.dumps(figures))


def limit_card(generator: Any, gigabytes: float) -> None:
    """Let a GPU be as one with so much memory: torch refuses more, and the generator finds its way for it."""
    if gigabytes:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * GIB / total))
        generator.residence._free = lambda device: int(gigabytes * GIB) - torch.cuda.memory_allocated(device)


def from_arguments(row: str, pictures: str) -> None:
    """`main` for a process's command line: the row as JSON, and where the views go."""
    main(Row(**json.loads(row)), Path(pictures))
