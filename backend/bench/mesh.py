"""`python -m backend bench mesh`: Gaussians made from known shapes, turned back into textured meshes, and compared.

Lengths are in the unit cube with the object 0.9 wide. `Chamfer` is the mean of both directions, each from samples of
one surface to the nearest point of the other; `F` the F-score at 0.002 and 0.01. The surface is measured as extracted,
once more after it was simplified, and again after it was refined, where it is; pictures of the textured mesh are
compared with pictures of the original.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from backend.bench import shapes
from backend.bench.distance import Comparison, compare
from backend.bench.shapes import Shape
from backend.datatypes import CANONICAL_SIZE, Gaussians, Mesh, Step
from backend.errors import BadInput
from backend.surface import topology

UNIT = 0.9 / CANONICAL_SIZE  # from the canonical frame to the unit cube
THRESHOLDS = [0.002, 0.01]
KINDS = ("discs", "balls", "noisy", "optimised")
VIEWS, VIEW_SIZE, OPTIMISER_STEPS = 24, 256, 600

T = TypeVar("T")


@dataclass
class Row:
    """What one shape and kind came to. wanted: pieces and genus as the original's; refined_chamfer: None where a mesh
    of such Gaussians is not refined."""

    shape: str
    kind: str
    gaussians: int
    chamfer: float
    f_002: float
    f_01: float
    closed: bool
    pieces: int
    genus: int
    wanted: bool
    faces: int
    seconds: float
    cpu_seconds: float
    simplified_chamfer: float
    simplified_faces: int
    refined_chamfer: float | None
    texture_seconds: float
    texture_cpu_seconds: float
    psnr: float
    ssim: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench mesh`."""
    parser.add_argument("--shapes", help=f"which, with commas between (all: {','.join(shapes.GENERATED)})")
    parser.add_argument("--meshes", type=Path, metavar="FOLDER", help="closed .obj files to measure as well")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of Gaussians (default: {','.join(KINDS)})")
    parser.add_argument("--gaussians", type=int, default=65536, help="how many, at most (default: 65536)")
    parser.add_argument("--resolution", type=int, help="of the surface (default: as for a job)")
    parser.add_argument("--faces", type=int, default=20000, help="of the simplified mesh (default: 20000)")
    parser.add_argument("--texture-size", type=int, default=1024, help="texels a side; 0: no texture (default: 1024)")
    parser.add_argument("--steps", type=int, default=OPTIMISER_STEPS, help="for optimised Gaussians (default: 600)")
    parser.add_argument("--quick", action="store_true", help="8192 Gaussians, 5000 faces, 256 texels, 128 steps")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write pictures, original beside results")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row instead of a table")


def run(args: argparse.Namespace) -> int:
    """Measure the way from Gaussians to a textured mesh on shapes whose surface is known."""
    from backend.bench.drawing import draw_shape, sheet

    if args.quick:
        args.gaussians, args.faces, args.texture_size, args.steps = 8192, 5000, min(args.texture_size, 256), 128
    kinds = args.kinds.split(",")
    for kind in kinds:
        if kind not in KINDS:
            raise BadInput(f"There is no kind of Gaussians called '{kind}'.", f"Use some of {', '.join(KINDS)}.")
    if not args.json:
        print(_HEADER, flush=True)
    for shape in _chosen(args.shapes, args.meshes):
        columns = [("original", draw_shape(shape))]
        for kind in kinds:
            gaussians = make(shape, kind, args.gaussians, args.steps)
            row, pictures = measure(shape, kind, gaussians, args)
            print(json.dumps(asdict(row)) if args.json else _line(row), flush=True)
            columns.append((kind, pictures))
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            sheet(columns).save(args.out / f"{shape.name}.jpg", quality=88)
    return 0


def _chosen(names: str | None, folder: Path | None) -> Generator[Shape, None, None]:
    files = {path.stem: path for path in sorted(folder.glob("*.obj"))} if folder is not None else {}
    for name in names.split(",") if names else [*shapes.GENERATED, *files]:
        if name in shapes.GENERATED:
            yield shapes.GENERATED[name]()
        elif name in files:
            try:
                yield shapes.read_obj(files[name])
            except BadInput as error:
                print(error, file=sys.stderr)
        else:
            raise BadInput(
                f"There is no shape called '{name}'.", f"Use some of {', '.join([*shapes.GENERATED, *files])}."
            )


def make(shape: Shape, kind: str, count: int, steps: int) -> Gaussians:
    """Gaussians of one kind from a shape: at most `count` of them. steps: of the optimiser, where it is asked for."""
    if kind == "discs":
        return shapes.flat_discs(shape, count)
    if kind == "noisy":
        return shapes.noisy_discs(shape, count)
    if kind == "balls":
        return shapes.round_balls(shape, count)
    from backend.bench.drawing import views_of
    from backend.reconstruct.optimise import optimise

    return walk(optimise(views_of(shape, VIEWS, VIEW_SIZE), None, steps))


def walk(stage: Generator[Step, None, T]) -> T:
    """The result of a stage."""
    while True:
        try:
            next(stage)
        except StopIteration as end:
            return end.value


def measure(shape: Shape, kind: str, gaussians: Gaussians, args: argparse.Namespace) -> tuple[Row, list[np.ndarray]]:
    """The figures of one shape and kind, and pictures of the result."""
    from backend.bench.drawing import draw_gaussians, draw_mesh, likeness, unseen_cameras
    from backend.surface.extract import extract_surface
    from backend.surface.refine import pays, refine
    from backend.surface.simplify import simplify
    from backend.texture.bake import bake_texture

    wall, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        mesh = walk(extract_surface(gaussians, *([args.resolution] if args.resolution else [])))
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    fine = _comparison(shape, mesh)
    few = simplify(mesh, args.faces)
    coarse, refined = _comparison(shape, few).chamfer, None
    if pays(gaussians):  # as a job does
        few = walk(refine(few, gaussians))
        refined = _comparison(shape, few).chamfer
    psnr, ssim, texture_seconds, texture_cpu_seconds, textured = 0.0, 0.0, 0.0, 0.0, None
    if args.texture_size:
        wall, cpu = time.perf_counter(), time.process_time()
        textured = walk(bake_texture(gaussians, few, args.texture_size))
        texture_seconds, texture_cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        psnr, ssim = likeness(shape, textured, unseen_cameras())

    triangles, count = mesh.faces.numpy(), mesh.vertices.shape[0]
    closed = topology.is_closed(triangles)
    pieces, genus = topology.pieces(triangles, count)[0], topology.genus(triangles, count)
    row = Row(
        shape.name,
        kind,
        len(gaussians),
        fine.chamfer,
        fine.f_scores[0],
        fine.f_scores[1],
        closed,
        pieces,
        genus,
        closed and pieces == shape.pieces and genus == shape.genus,
        len(triangles),
        round(seconds, 2),
        round(cpu_seconds, 2),
        coarse,
        few.faces.shape[0],
        refined,
        round(texture_seconds, 2),
        round(texture_cpu_seconds, 2),
        psnr,
        ssim,
    )
    return row, [draw_gaussians(gaussians), *draw_mesh(few, textured)] if args.out else []


def _comparison(shape: Shape, mesh: Mesh) -> Comparison:
    return compare(
        (shape.vertices * UNIT, shape.faces), (mesh.vertices.double().numpy() * UNIT, mesh.faces.numpy()), THRESHOLDS
    )


_HEADER = (
    f"{'shape':>12} {'kind':>9} {'Gaussians':>9} {'Chamfer':>8} {'F .002':>6} {'F .01':>6} {'closed':>6} "
    f"{'pieces':>6} {'genus':>5} {'faces':>7} {'wall s':>6} {'CPU s':>6} {'Chamfer':>8} {'faces':>6} {'refined':>8} "
    f"{'tex. s':>6} {'CPU s':>6} {'PSNR':>5} {'SSIM':>5}"
)


def _line(row: Row) -> str:
    mark = "" if row.wanted else " !"
    refined = f"{'-':>8}" if row.refined_chamfer is None else f"{row.refined_chamfer:8.5f}"
    return (
        f"{row.shape:>12} {row.kind:>9} {row.gaussians:>9} {row.chamfer:8.5f} {row.f_002:6.4f} {row.f_01:6.4f} "
        f"{'yes' if row.closed else 'NO':>6} {row.pieces:>6} {row.genus:>5} {row.faces:>7} {row.seconds:6.1f} "
        f"{row.cpu_seconds:6.1f} {row.simplified_chamfer:8.5f} {row.simplified_faces:>6} {refined} "
        f"{row.texture_seconds:6.1f} {row.texture_cpu_seconds:6.1f} {row.psnr:5.1f} {row.ssim:5.3f}{mark}"
    )
