"""`python -m backend bench render`: the Gaussian rasteriser, beside a matrix product and beside plain torch.

On the CPU, milliseconds are the processor's, of one thread, medians. `scaled` is the time on the machine that the
project's targets were set on: where one float32 product of two 2048 x 2048 matrices takes 125 ms. That product is timed
again before each row, so that a busy machine slows both. Only the two-thread column is by the clock on the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backend.bench.measure import REFERENCE_MATMUL, matmul_seconds, median_seconds, peak_megabytes
from backend.cameras import orbit, world_to_camera_opencv
from backend.render.gaussian_reference import rasterize_reference
from backend.render.rasterize import compiled_gsplat, rasterization, warm_up

RENDER_ROWS = tuple((count, size) for count in (4096, 16384, 65536, 262144) for size in (128, 256, 512))
REFERENCE_AT_MOST = 65536 * 256 * 256  # Gaussians times pixels up to which plain torch is run: it takes seconds there
FLIP = 1e-3  # two pictures' values that differ by more lie on the two sides of the threshold for alpha
HEADER = (
    f"{'Gaussians':>9} {'pixels':>6} | {'forward':>8} {'scaled':>7} | {'+backward':>9} {'scaled':>7} | {'matmul':>7} | "
    f"{'2 threads':>9} | {'peak':>7} | {'torch':>8} {'+backward':>9} {'ours':>6} | {'flips':>6} {'gradients':>9}"
)
UNITS = (
    f"{'':>16} | {'CPU ms':>8} {'ms':>7} | {'CPU ms':>9} {'ms':>7} | {'CPU ms':>7} | {'wall x':>9} | {'MB':>7} | "
    f"{'CPU ms':>8} {'CPU ms':>9} {'x':>6} | {'values':>6} {'off by':>9}"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench render`."""
    parser.add_argument("--repeats", type=int, default=7, help="runs of which the median is taken (default: 7)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row instead of a table")
    parser.add_argument("--gaussians", type=int, nargs="*", help="only rows of these numbers of Gaussians")
    parser.add_argument("--size", type=int, nargs="*", help="only rows of pictures of these sizes")
    parser.add_argument("--no-reference", action="store_true", help="leave plain torch out, which takes minutes")


def run(args: argparse.Namespace) -> int:
    """Time the rasteriser, forward and with its backward pass, for several numbers of Gaussians and picture sizes."""
    rows = [
        row
        for row in RENDER_ROWS
        if (not args.gaussians or row[0] in args.gaussians) and (not args.size or row[1] in args.size)
    ]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        started = time.perf_counter()
        warm_up(backward=True)
        if not args.json:
            print(f"one thread; kernels ready in {time.perf_counter() - started:.1f} s\n{HEADER}\n{UNITS}")
        if not args.no_reference:
            _both(rasterize_reference, *scene(64, 32))()  # not counted: what torch does but once
        for count, size in rows:
            row = render_row(count, size, args.repeats, not args.no_reference)
            print(json.dumps(row) if args.json else _line(row), flush=True)
        if torch.cuda.is_available():
            _run_cuda(rows, args)
    finally:
        torch.set_num_threads(before)
    return 0


def render_row(count: int, size: int, repeats: int, with_reference: bool) -> dict[str, Any]:
    """Median times of one view of `count` Gaussians at `size` x `size` pixels on the CPU."""
    gaussians, where = scene(count, size)
    forward, both = _forward(rasterization, gaussians, where), _both(rasterization, gaussians, where)
    matmul = matmul_seconds(repeats, time.process_time)
    row: dict[str, Any] = {"gaussians": count, "size": size, "matmul_ms": 1e3 * matmul}
    row["forward_ms"] = 1e3 * median_seconds(forward, repeats, time.process_time)
    row["both_ms"] = 1e3 * median_seconds(both, repeats, time.process_time)
    for name in ("forward", "both"):
        row[f"{name}_scaled_ms"] = row[f"{name}_ms"] * REFERENCE_MATMUL / matmul
    row["peak_mb"] = peak_megabytes(both)
    row["two_threads"] = _two_threads(both, repeats)
    row.update(reference_forward_ms=None, reference_both_ms=None, flips=None, gradient_error=None)
    if with_reference and count * size * size <= REFERENCE_AT_MOST:
        reference_forward = _forward(rasterize_reference, gaussians, where)
        row["reference_forward_ms"] = 1e3 * _once(reference_forward)
        reference_both = _both(rasterize_reference, gaussians, where)
        row["reference_both_ms"] = 1e3 * _once(reference_both)
        row.update(_difference(both(), reference_both()))
    return row


def scene(count: int, size: int, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
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
    where = {"viewmats": world_to_camera_opencv(cameras).to(device), "Ks": cameras.intrinsics.to(device)}
    return {name: tensor.to(device) for name, tensor in gaussians.items()}, {**where, "width": size, "height": size}


def _forward(render: Callable[..., Any], gaussians: dict[str, Tensor], where: dict[str, Any]) -> Callable[[], None]:
    def call() -> None:
        with torch.no_grad():
            render(**gaussians, **where)

    return call


def _both(
    render: Callable[..., Any], gaussians: dict[str, Tensor], where: dict[str, Any]
) -> Callable[[], dict[str, Tensor]]:
    """A function that renders, goes backward, and gives back the picture and all gradients."""
    size = where["width"]
    weights = torch.rand(1, size, size, 4, generator=torch.Generator().manual_seed(1)).to(gaussians["means"])

    def call() -> dict[str, Tensor]:
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in gaussians.items()}
        image, alphas, _ = render(**leaves, **where)
        ((image * weights[..., :3]).sum() + (alphas * weights[..., 3:]).sum()).backward()
        found = {"image": torch.cat([image, alphas], dim=-1).detach()}
        return {**found, **{name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}}

    return call


def _two_threads(function: Callable[[], Any], repeats: int) -> float | None:
    """How many times as fast two threads are, by the wall; None on a machine that has only one."""
    if (os.cpu_count() or 1) < 2:
        return None
    one = median_seconds(function, repeats)
    torch.set_num_threads(2)
    try:
        return one / median_seconds(function, repeats)
    finally:
        torch.set_num_threads(1)


def _once(function: Callable[[], Any]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def _difference(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, Any]:
    """flips: values of the picture that differ by more than FLIP; gradient_error: the worst, of its tensor's norm."""
    flips = int(((ours["image"] - reference["image"]).abs() > FLIP).sum())
    errors = [
        float((ours[name] - wanted).norm() / wanted.norm()) for name, wanted in reference.items() if name != "image"
    ]
    return {"flips": flips, "gradient_error": max(errors)}


def _line(row: dict[str, Any]) -> str:
    def number(name: str, width: int, form: str) -> str:
        return f"{'-':>{width}}" if row[name] is None else f"{row[name]:>{width}{form}}"

    ratio = row["reference_both_ms"] / row["both_ms"] if row["reference_both_ms"] else None
    times = f"{'-':>6}" if ratio is None else f"{ratio:>6.0f}"
    return (
        f"{row['gaussians']:>9} {row['size']:>6} | {row['forward_ms']:>8.1f} {row['forward_scaled_ms']:>7.1f} | "
        f"{row['both_ms']:>9.1f} {row['both_scaled_ms']:>7.1f} | {row['matmul_ms']:>7.0f} | "
        f"{number('two_threads', 9, '.2f')} | {number('peak_mb', 7, '.0f')} | "
        f"{number('reference_forward_ms', 8, '.0f')} {number('reference_both_ms', 9, '.0f')} {times} | "
        f"{number('flips', 6, '')} {number('gradient_error', 9, '.1e')}"
    )


def _run_cuda(rows: list[tuple[int, int]], args: argparse.Namespace) -> None:
    """The same rows on the GPU, by the wall: gsplat where it is there, and plain torch."""
    if not args.json:
        print(f"{torch.cuda.get_device_name()}, wall ms: gsplat forward, +backward; plain torch forward, +backward")
    paths: list[tuple[str, Callable[..., Any]]] = [("torch", rasterize_reference)]
    if compiled_gsplat() is not None:
        paths.insert(0, ("gsplat", rasterization))
    elif not args.json:
        print("gsplat with its compiled extension is not here: rasterization() takes the way over the CPU.")
    for count, size in rows:
        gaussians, where = scene(count, size, "cuda")
        row: dict[str, Any] = {"device": "cuda", "gaussians": count, "size": size}
        for name, render in paths:
            if name == "torch" and (args.no_reference or count * size * size > REFERENCE_AT_MOST):
                continue
            repeats = args.repeats if name == "gsplat" else 1
            row[f"{name}_forward_ms"] = 1e3 * median_seconds(_waiting(_forward(render, gaussians, where)), repeats)
            row[f"{name}_both_ms"] = 1e3 * median_seconds(_waiting(_both(render, gaussians, where)), repeats)
        if args.json:
            print(json.dumps(row), flush=True)
        else:
            times = "  ".join(f"{key.removesuffix('_ms')} {row[key]:.2f}" for key in row if key.endswith("_ms"))
            print(f"{count:>9} {size:>6} | {times}", flush=True)


def _waiting(function: Callable[[], Any]) -> Callable[[], None]:
    """The function, and then waiting for the GPU."""

    def call() -> None:
        function()
        torch.cuda.synchronize()

    return call
