"""`python -m backend bench refine`: Gaussians fitted to pictures of known shapes, and what that is worth.

PSNR in dB over white, of views that were given and of views from elsewhere; how far the Gaussians' centres lie from the
shape, for an object 1.8 wide; CPU seconds. `published` is the same optimisation with the rates of the paper (arXiv
2308.04079) and without the push towards discs, from the same start and for as many steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from scipy.spatial import cKDTree

from backend.bench.drawing import views_of
from backend.bench.shapes import GENERATED, sample
from backend.datatypes import Gaussians, Views
from backend.reconstruct.optimise import QUICK, Settings, compare, optimise, starting_point

# Of the paper: 0.00016 to 0.0000016 times the cameras' extent (3.3 here), 0.005, 0.001 and 0.05, and 0.0025 for the
# coefficient of a colour, which is 3.5 times as large as the colour.
PUBLISHED = Settings(
    {
        "means": (5.3e-4, 5.3e-6),
        "log_scales": (5e-3, 5e-3),
        "quats": (1e-3, 1e-3),
        "logits": (5e-2, 5e-2),
        "colors": (7e-4, 7e-4),
    },
    flat_share=0.0,
    normal_share=0.0,
)
_CENTERS, _SAMPLES = 4000, 200_000
_HELD_OUT = 9  # pictures; so few stand elsewhere on the sphere than the ones that are given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench refine`."""
    parser.add_argument("--shapes", default="mug,chair", help=f"some of {', '.join(GENERATED)} (mug,chair)")
    parser.add_argument("--views", type=int, default=24, help="pictures that are given (24)")
    parser.add_argument("--size", type=int, default=256, help="their side in pixels (256)")
    parser.add_argument("--steps", type=int, default=300, help="steps of the optimisation (300)")
    parser.add_argument("--threads", type=int, default=1, help="threads to use (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row instead of a table")


def run(args: argparse.Namespace) -> int:
    """Fit Gaussians to pictures of shapes, and compare with pictures that were not given."""
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        if not args.json:
            print(f"{args.views} views of {args.size} px, {args.steps} steps, {args.threads} thread(s)")
            titles = ("Gaussians", "given", "held out", "centres", "CPU s")
            print(f"{'shape':12} {'settings':10} " + " ".join(f"{title:>9}" for title in titles))
        for name in args.shapes.split(","):
            for row in shape_rows(name, args.views, args.size, args.steps):
                print(json.dumps(row) if args.json else _line(row), flush=True)
    finally:
        torch.set_num_threads(before)
    return 0


def shape_rows(name: str, count: int, size: int, steps: int) -> list[dict[str, Any]]:
    """One row for the start, one for each of the settings."""
    shape = GENERATED[name]()
    views, held_out = views_of(shape, count, size), views_of(shape, _HELD_OUT, size)
    surface = cKDTree(sample(shape, _SAMPLES, seed=1)[0])

    def row(settings: str, make: Callable[[], Gaussians]) -> dict[str, Any]:
        began = time.process_time()
        gaussians = make()
        seconds = time.process_time() - began
        some = torch.randperm(len(gaussians), generator=torch.Generator().manual_seed(0))[:_CENTERS]
        return {
            "shape": name,
            "settings": settings,
            "gaussians": len(gaussians),
            "given_psnr": compare(gaussians, views),
            "held_out_psnr": compare(gaussians, held_out),
            "center_distance": float(surface.query(gaussians.means[some].numpy())[0].mean()),
            "cpu_seconds": seconds,
        }

    return [
        row("start", lambda: starting_point(views)),
        row("published", lambda: _walk(views, steps, PUBLISHED)),
        row("ours", lambda: _walk(views, steps, QUICK)),
    ]


def _walk(views: Views, steps: int, settings: Settings) -> Gaussians:
    stage = optimise(views, None, steps, settings=settings)
    while True:
        try:
            next(stage)
        except StopIteration as end:
            gaussians: Gaussians = end.value
            return gaussians


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['shape']:12} {row['settings']:10} {row['gaussians']:>9} {row['given_psnr']:>9.2f} "
        f"{row['held_out_psnr']:>9.2f} {row['center_distance']:>9.4f} {row['cpu_seconds']:>9.1f}"
    )
