"""`python -m backend bench render`: the Gaussian rasteriser. Times are medians.

`matmuls` is the time in units of one float32 product of two 2048 x 2048 matrices with the same number of threads, which
says more about the code, and less about the machine, than milliseconds do.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch

from backend.bench.measure import matmul_seconds, median_seconds
from backend.cameras import orbit, world_to_camera_opencv
from backend.render.gaussian_reference import rasterize_reference
from backend.render.rasterize import rasterization, warm_up

RENDER_ROWS = ((4096, 128), (16384, 128), (65536, 256), (65536, 512), (262144, 512))
REFERENCE_AT_MOST = 4096  # Gaussians for which the torch reference is timed too: it takes seconds for more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench render`."""
    parser.add_argument("--threads", type=int, default=1, help="threads to use (default: 1)")
    parser.add_argument("--repeats", type=int, default=9, help="runs of which the median is taken (default: 9)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row instead of a table")


def run(args: argparse.Namespace) -> int:
    """Time the rasteriser, forward and with its backward pass, for several numbers of Gaussians and picture sizes."""
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        started = time.perf_counter()
        warm_up(backward=True)
        warming = time.perf_counter() - started
        unit = matmul_seconds(args.repeats)
        if not args.json:
            print(f"{args.threads} thread(s); kernels ready in {warming:.1f} s; one matmul {1e3 * unit:.1f} ms")
            print(f"{'Gaussians':>9} {'pixels':>9} {'forward':>10} {'+backward':>10} {'matmuls':>8} {'reference':>10}")
        for count, size in RENDER_ROWS:
            row = render_row(count, size, args.repeats, unit)
            if args.json:
                print(json.dumps(row), flush=True)
                continue
            reference = f"{row['reference_ratio']:.0f} x" if row["reference_ratio"] else "-"
            print(
                f"{count:>9} {f'{size} x {size}':>9} {row['forward_ms']:>7.1f} ms {row['both_ms']:>7.1f} ms "
                f"{row['both_matmuls']:>8.2f} {reference:>10}",
                flush=True,
            )
    finally:
        torch.set_num_threads(before)
    return 0


def render_row(count: int, size: int, repeats: int, matmul_seconds: float) -> dict[str, Any]:
    """Median times of one view of `count` Gaussians at `size` x `size` pixels."""
    gaussians, where = _scene(count, size)

    def forward() -> None:
        with torch.no_grad():
            rasterization(**gaussians, **where)

    def both(render: Callable[..., Any] = rasterization) -> None:
        leaves: dict[str, Any] = {name: tensor.clone().requires_grad_() for name, tensor in gaussians.items()}
        image, alphas, _ = render(**leaves, **where)
        (image.sum() + alphas.sum()).backward()

    row: dict[str, Any] = {"gaussians": count, "size": size, "threads": torch.get_num_threads()}
    ours = median_seconds(both, repeats)
    row["forward_ms"] = 1e3 * median_seconds(forward, repeats)
    row["both_ms"] = 1e3 * ours
    row["both_matmuls"] = ours / matmul_seconds
    row["reference_ratio"] = None
    if count <= REFERENCE_AT_MOST:
        row["reference_ratio"] = median_seconds(lambda: both(rasterize_reference), 1) / ours
    return row


def _scene(count: int, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gaussians like a reconstructor's: a dented sphere's skin, the more the smaller, seen from LGM's camera."""
    g = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    means = direction * (0.6 + 0.1 * torch.sin(5 * direction[:, :1]))
    scales = (torch.rand(count, 3, generator=g) * 0.008 + 0.002) * (65536 / count) ** 0.5
    gaussians = {
        "means": means,
        "quats": torch.randn(count, 4, generator=g),
        "scales": scales,
        "opacities": torch.rand(count, generator=g) * 0.9 + 0.05,
        "colors": torch.rand(count, 3, generator=g),
    }
    cameras = orbit([30.0], 15.0, 1.5, 49.1, size)
    viewmats = world_to_camera_opencv(cameras)
    return gaussians, {"viewmats": viewmats, "Ks": cameras.intrinsics, "width": size, "height": size}
