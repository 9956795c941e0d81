"""One row of `bench reconstruct`, in a process of its own."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from backend.cameras import orbit
from backend.datatypes import Views
from backend.nets import geolrm_attention, geolrm_encoder, grm_transformer
from backend.nets.lgm import BIG, TINY, LgmConfig, absolute_gaussians
from backend.nets.unet import finished
from backend.reconstruct.precision import widen_when_used
from backend.reconstruct.published_lgm import FOV_DEGREES, RADIUS, SIZE, PublishedLgm, network_input, wide_layers

STORED = "stored"  # computed in float32 with weights that lie in float16, as LGM's do in the published file
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, STORED: torch.float32}


class Row(NamedTuple):
    """What is measured. plain: float32 in torch's own layout, nothing written over, nothing added up first."""

    model: str
    views: int
    dtype: str
    plain: bool
    tokens: int
    repeats: int
    threads: int
    device: str


def scene(views: int, size: int, radius: float, fov_degrees: float) -> Views:
    """Coloured noise with soft edges from cameras round the origin, the same every time."""
    generator = torch.Generator().manual_seed(0)
    rgb = torch.nn.functional.interpolate(torch.rand(views, 3, 16, 16, generator=generator), size=(size, size))
    ticks = torch.linspace(-1, 1, size)
    alpha = ((0.8 - torch.hypot(ticks[None, :], ticks[:, None])) * 8).clamp(0, 1).expand(views, 1, size, size)
    azimuths = [360.0 / views * index for index in range(views)]
    return Views(torch.cat([rgb, alpha], 1), orbit(azimuths, 0.0, radius, fov_degrees, size))


def lgm(config: LgmConfig) -> Callable[[Row], Callable[[], Tensor]]:
    def prepare(row: Row) -> Callable[[], Tensor]:
        model = PublishedLgm.untrained(config, device=row.device, dtype=DTYPES[row.dtype])
        images = network_input(scene(row.views, SIZE, RADIUS, FOV_DEGREES))[None].to(row.device)
        network = model.network
        for parameter in network.parameters():  # the published file is float16: all rows have its rounding
            parameter.data = parameter.data.half().to(parameter.dtype)
        if row.dtype == STORED:
            widen_when_used(wide_layers(network), torch.float16)
        if row.plain:
            network.unet.fold(False)
            for parameter in network.parameters():
                parameter.data = parameter.data.contiguous()

        def forward() -> Tensor:
            # With gradients enabled and none wanted, nothing is written over and nothing is kept either.
            with torch.set_grad_enabled(row.plain):
                return absolute_gaussians(network(images).float())[0, :, :3]

        return forward

    return prepare


def grm(row: Row) -> Callable[[], Tensor]:
    from backend.reconstruct.grm import FOV_DEGREES as FOV
    from backend.reconstruct.grm import RADIUS as DISTANCE
    from backend.reconstruct.grm import GrmReconstructor

    if row.plain:  # each block takes the whole sequence at once
        grm_transformer.CHUNK = 2**40
    model = GrmReconstructor.untrained(device=row.device, dtype=DTYPES[row.dtype])
    views = scene(row.views, model.config.input_res, DISTANCE, FOV)
    return lambda: finished(model.reconstruct(views, [])).means  # type: ignore[arg-type]


def geolrm(row: Row) -> Callable[[], Tensor]:
    from backend.reconstruct.geolrm import GeoLrmReconstructor

    if row.plain:  # all views and all tokens at once
        geolrm_encoder.VIEWS_AT_ONCE, geolrm_attention._ENTRIES_AT_ONCE = 2**40, 2**40
    model = GeoLrmReconstructor.untrained(device=row.device, dtype=DTYPES[row.dtype])
    model.max_tokens = row.tokens
    views = scene(row.views, 448, 2.7, 39.6)
    return lambda: finished(model.reconstruct(views, [])).means  # type: ignore[arg-type]


MODELS: dict[str, Callable[[Row], Callable[[], Tensor]]] = {
    "lgm": lgm(BIG), "lgm-tiny": lgm(TINY), "grm": grm, "geolrm": geolrm,
}  # fmt: skip


def peak_bytes(device: str) -> int | None:
    """The largest memory this process has had: torch's on a GPU, else the whole process's; None where unknown."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    try:  # not getrusage: on Linux its figure begins with that of the process that started this one
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def begin_peak() -> None:
    """Let the peak of a process on Linux begin anew, with what it has now."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError, TypeError):
        pass


def position_error(plain: Path, ours: Path) -> tuple[float, float]:
    """Largest and mean distance along an axis; NaN where the runs made different numbers of Gaussians."""
    a, b = np.load(plain), np.load(ours)
    if a.shape != b.shape:
        return float("nan"), float("nan")
    difference = np.abs(a - b)
    return float(difference.max()), float(difference.mean())


def main(row: Row, positions: Path) -> None:
    """Run the row, write its Gaussians' positions and print its figures as JSON."""
    if row.threads:
        torch.set_num_threads(row.threads)
    forward = MODELS[row.model](row)
    begin_peak()  # published weights are loaded tensor by tensor: making random ones may need more than computing does
    if row.repeats:
        forward()  # not counted
    seconds, cpu_seconds = [], []
    for _ in range(max(row.repeats, 1)):
        began, cpu_began = time.perf_counter(), time.process_time()
        result = forward()
        if row.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
    np.save(positions, result.float().cpu().numpy())
    figures = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak_bytes(row.device)}
    print(json.dumps({**figures, "gaussians": len(result)}))


def from_arguments(row: str, positions: str) -> None:
    """`main` for a process's command line: the row as JSON, and where the positions go."""
    main(Row(**json.loads(row)), Path(positions))
