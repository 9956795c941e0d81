"""Benchmarks: `python -m backend bench PART`, a module each, all against a baseline timed in the same run.

`add_bench_arguments` and `run_bench` are what the command line calls; each part has `add_arguments` and `run`.
"""

from __future__ import annotations

import argparse

from backend.bench import matting, mesh, reconstruct, refine, render, texture, views


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench`: one subcommand for each part that can be measured."""
    parts = parser.add_subparsers(metavar="PART", required=True)
    modules = (
        ("render", render, "the Gaussian rasteriser"),
        ("mesh", mesh, "the way from Gaussians to a textured mesh"),
        ("texture", texture, "unwrapping, and the texture's texels"),
        ("refine", refine, "fitting Gaussians to pictures"),
        ("reconstruct", reconstruct, "the published reconstructors, time and memory"),
        ("views", views, "the published view generators, time and memory"),
        ("matting", matting, "cutting objects out of plain backgrounds"),
    )
    for name, module, what in modules:
        part = parts.add_parser(name, help=what, description=module.run.__doc__)
        module.add_arguments(part)
        part.set_defaults(bench=module.run)


def run_bench(args: argparse.Namespace) -> int:
    """Run the part that was asked for."""
    return int(args.bench(args))
