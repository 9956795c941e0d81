"""`python -m backend bench texture`: unwrapping and texturing, each beside its plain form in the same run.

Unwrapping is compared with xatlas as it is, on simplified meshes of several face counts: wall and CPU seconds, charts,
and how much of the square they cover. Texturing is compared with the weighted mean of the same pictures: PSNR and SSIM
against the original from unseen cameras.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from backend.bench import shapes
from backend.bench.shapes import Shape
from backend.datatypes import Mesh
from backend.surface.simplify import simplify
from backend.texture.raster import rasterize_triangles

T = TypeVar("T")

UNWRAP_FACES = (10000, 20000, 50000)
KINDS: dict[str, Callable[..., Any]] = {
    "discs": shapes.flat_discs,
    "balls": shapes.round_balls,
    "checks": functools.partial(shapes.flat_discs, colors_at=shapes.checks),  # discs, with a pattern of hard edges
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench texture`."""
    parser.add_argument("--threads", type=int, default=2, help="threads to use (default: 2)")
    parser.add_argument("--shapes", default="torus_knot,mug", help="which (default: torus_knot,mug)")
    parser.add_argument("--unwrap", default=",".join(map(str, UNWRAP_FACES)), help="face counts (default: 10 to 50 k)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of Gaussians, with commas between (default: all)")
    parser.add_argument("--gaussians", type=int, default=65536, help="how many, at most (default: 65536)")
    parser.add_argument("--faces", type=int, default=20000, help="of the textured mesh (default: 20000)")
    parser.add_argument("--sizes", default="1024", help="texels a side, with commas between (default: 1024)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row instead of a table")


def run(args: argparse.Namespace) -> int:
    """Time unwrapping beside plain xatlas, and compare textures with the weighted mean."""
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        chosen = [shapes.GENERATED[name]() for name in args.shapes.split(",")]
        fine = [simplify(_mesh_of(shape), 200_000) for shape in chosen]
        _warm_up(fine[0])
        if not args.json:
            print(f"{args.threads} thread(s)\n{_UNWRAP_HEADER}", flush=True)
        for shape, mesh in zip(chosen, fine, strict=True):
            for faces in filter(None, args.unwrap.split(",")):
                _tell(unwrap_row(shape.name, simplify(mesh, int(faces))), args.json, _unwrap_line)
        if not args.json:
            print(_TEXTURE_HEADER, flush=True)
        for shape, mesh in zip(chosen, fine, strict=True):
            for kind in args.kinds.split(","):
                for size in filter(None, args.sizes.split(",")):
                    row = texture_row(shape, kind, simplify(mesh, args.faces), args.gaussians, int(size))
                    _tell(row, args.json, _texture_line)
    finally:
        torch.set_num_threads(before)
    return 0


def unwrap_row(name: str, mesh: Mesh, size: int = 1024) -> dict[str, Any]:
    """One mesh unwrapped as a job does it, and by xatlas as it is."""
    from backend.texture.unwrap import unwrap

    ours, wall, cpu = _timed(lambda: unwrap(mesh, size).numpy())
    plain, plain_wall, plain_cpu = _timed(lambda: _plain(mesh, size))
    return {
        "shape": name,
        "faces": mesh.faces.shape[0],
        "wall": wall,
        "cpu": cpu,
        "charts": _charts(mesh, ours),
        "covered": covered(ours),
        "plain_wall": plain_wall,
        "plain_cpu": plain_cpu,
        "plain_charts": _charts(mesh, plain),
        "plain_covered": covered(plain),
    }


def texture_row(shape: Shape, kind: str, mesh: Mesh, count: int, size: int) -> dict[str, Any]:
    """One mesh textured from Gaussians on the original, and by the weighted mean alone."""
    from backend.bench.drawing import likeness, unseen_cameras
    from backend.bench.mesh import walk
    from backend.texture.bake import bake_texture

    gaussians = KINDS[kind](shape, count)
    row: dict[str, Any] = {"shape": shape.name, "kind": kind, "gaussians": len(gaussians), "size": size}
    for prefix, sharpen in (("mean_", False), ("", True)):
        steps = bake_texture(gaussians, mesh, size, sharpen=sharpen)
        textured, row[prefix + "wall"], row[prefix + "cpu"] = _timed(functools.partial(walk, steps))
        original = shapes.checks if kind == "checks" else shapes.pattern
        row[prefix + "psnr"], row[prefix + "ssim"] = likeness(shape, textured, unseen_cameras(512), original)
    return row


def _charts(mesh: Mesh, uvs: NDArray[np.float32]) -> int:
    from backend.texture.unwrap import charts_of

    return int(charts_of(mesh.faces.numpy(), uvs).max()) + 1


def covered(uvs: NDArray[np.float32], size: int = 2048) -> float:
    """The share of the square that faces cover."""
    flat = uvs.reshape(-1, 2) * size
    xyz = np.concatenate([flat, np.ones((len(flat), 1))], axis=1).astype(np.float32)
    face_ids, _, _, _ = rasterize_triangles(xyz, np.arange(len(flat), dtype=np.int32).reshape(-1, 3), size, size)
    return float((face_ids >= 0).mean())


def _plain(mesh: Mesh, size: int) -> NDArray[np.float32]:
    """uvs by xatlas alone, with the fastest of its packings."""
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.numpy().astype(np.float32), mesh.faces.numpy().astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding = size, size // 256
    options.blockAlign = True
    options.create_image = False
    atlas.generate(xatlas.ChartOptions(), options)
    _, indices, uvs = atlas[0]
    return uvs[indices.astype(np.int64)]


def _mesh_of(shape: Shape) -> Mesh:
    return Mesh(torch.from_numpy(shape.vertices).float(), torch.from_numpy(shape.faces))


def _warm_up(mesh: Mesh) -> None:
    from backend.bench.mesh import walk
    from backend.texture.bake import bake_texture

    small = simplify(mesh, 200)
    vertices = small.vertices.numpy()
    cloud = shapes.flat_discs(Shape("", vertices.astype(np.float64), small.faces.numpy(), 1, 0), 500)
    walk(bake_texture(cloud, small, 64))


def _timed(function: Callable[[], T]) -> tuple[T, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def _tell(row: dict[str, Any], as_json: bool, line: Callable[[dict[str, Any]], str]) -> None:
    print(json.dumps(row) if as_json else line(row), flush=True)


_UNWRAP_HEADER = (
    f"{'shape':>12} {'faces':>7} {'wall s':>7} {'CPU s':>7} {'charts':>6} {'cover':>6}   "
    f"{'xatlas':>7} {'CPU s':>7} {'charts':>6} {'cover':>6}"
)
_TEXTURE_HEADER = (
    f"{'shape':>12} {'kind':>6} {'texels':>6} {'wall s':>7} {'CPU s':>7} {'PSNR':>6} {'SSIM':>6}   "
    f"{'mean':>7} {'CPU s':>7} {'PSNR':>6} {'SSIM':>6}"
)


def _unwrap_line(row: dict[str, Any]) -> str:
    return (
        f"{row['shape']:>12} {row['faces']:>7} {row['wall']:>7.2f} {row['cpu']:>7.2f} {row['charts']:>6} "
        f"{row['covered']:>6.3f}   {row['plain_wall']:>7.2f} {row['plain_cpu']:>7.2f} {row['plain_charts']:>6} "
        f"{row['plain_covered']:>6.3f}"
    )


def _texture_line(row: dict[str, Any]) -> str:
    return (
        f"{row['shape']:>12} {row['kind']:>6} {row['size']:>6} {row['wall']:>7.2f} {row['cpu']:>7.2f} "
        f"{row['psnr']:>6.2f} {row['ssim']:>6.3f}   {row['mean_wall']:>7.2f} {row['mean_cpu']:>7.2f} "
        f"{row['mean_psnr']:>6.2f} {row['mean_ssim']:>6.3f}"
    )
