"""Held-out figures of a starter pack: how well it predicts, whether it obeys prompts, whether seeds differ."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from backend.cameras import orbit, rays, world_to_camera_opencv
from backend.datatypes import Cameras, Gaussians, Views
from backend.reconstruct.dmv3d import Dmv3dReconstructor
from backend.reconstruct.lgm import LgmReconstructor
from backend.render.geometry import rasterization_geometry
from backend.render.views import render_gaussians
from backend.training import dmv3d, lgm, picture_reader
from backend.training.contact_sheet import save_sheet
from backend.training.dataset import HELD_OUT_SEED, dmv3d_batch
from backend.training.prompts import JUDGED
from backend.training.world.scene import sample_object
from backend.training.world.tracer import render_batch
from backend.views.dmv3d import AZIMUTHS, ELEVATION, FOV_DEGREES, RADIUS, Dmv3dGenerator
from backend.views.picture_reader import StarterPictureReader
from backend.weights import STARTER_PACK, load_checkpoint, sha256_of


def silhouette_iou(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two alpha masks [H, W]."""
    a, b = one > 0.5, other > 0.5
    return float((a & b).sum() / (a | b).sum().clamp_min(1))


def color_difference(one: Tensor, other: Tensor) -> float:
    """Largest channel difference of the mean colours of two pictures [4, H, W], each over its own object."""
    means = [(p[:3] * p[3]).sum((1, 2)) / p[3].sum().clamp_min(1) for p in (one, other)]
    return float((means[0] - means[1]).abs().max())


def evaluate(pack: Path, out: Path, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
    """Figures of the three models in `pack`, and in `out` a sheet of the judged prompts: four views of two seeds each,
    and below them the same views of the reconstructed Gaussians. Raises MissingWeights."""
    generator = Dmv3dGenerator.load(pack / "dmv3d.safetensors", device)
    lgm_alone = LgmReconstructor.load(pack / "lgm.safetensors", device)
    reconstructor = Dmv3dReconstructor(generator, load_other=lambda: lgm_alone)
    reader = StarterPictureReader.load(pack / "reader.safetensors", device)
    small = generator.network.config.image_size
    figures: dict[str, Any] = {
        "dmv3d": dmv3d.validate(generator.network, generator.vocabulary, seed, small, device),
        "reader": picture_reader.validate(reader.network, seed, small, device),
        "lgm": lgm.validate(lgm_alone.network, seed, lgm_alone.size, device)[0],
        "rebuilt": from_views(reconstructor, seed),
        "seeds": {},
    }
    rows = []
    for prompt in JUDGED:
        made: list[Views] = []
        for number in range(2):
            views = dmv3d.finish(generator.generate(prompt, seed=number))
            gaussians = dmv3d.finish(reconstructor.reconstruct(replace(views, caption=prompt), []))
            rendered = render_gaussians(gaussians, views.cameras, background=1.0)
            rows += [(f"{prompt}, seed {number}", views.over(1.0)), ("its Gaussians", rendered[:, :3])]
            made.append(views)
        figures["seeds"][prompt] = {
            "front_silhouette_iou": round(silhouette_iou(made[0].rgba[0, 3], made[1].rgba[0, 3]), 3),
            "color_difference": round(color_difference(made[0].rgba[0], made[1].rgba[0]), 3),
        }
    save_sheet(out / "judged.png", rows, columns=4)
    figures["pictures"] = from_pictures(generator, seed, out)
    return figures


def from_pictures(generator: Dmv3dGenerator, seed: int, out: Path, count: int = 24) -> dict[str, float]:
    """What the generator makes of single pictures of objects that it never saw, lit and from any side, without words:
    how well the outlines of the pictured side and of the three others agree with the object's, and the mean colours; in
    `out` a sheet, the picture, then those four views and the four of the object itself."""
    size = generator.image_size
    batch = dmv3d_batch(seed + HELD_OUT_SEED, 0, count, size, rays=2, points=2, pictured_share=1.0, exact=True)
    rows, outlines, hidden, colors = [], [], [], []
    for caption, picture, truth, cameras in zip(batch.captions, batch.pictured, batch.rgba, batch.cameras, strict=True):
        views = dmv3d.finish(generator.generate(image=picture, seed=0, guidance=1.0, cameras=cameras))
        agreement = [silhouette_iou(made[3], true[3]) for made, true in zip(views.rgba, truth, strict=True)]
        outlines.append(agreement[0])
        hidden.append(fmean(agreement[1:]))
        colors.append(color_difference(views.rgba[0], truth[0]))
        shown = torch.cat([picture[None], views.rgba, truth])
        rows.append((caption, shown[:, :3] * shown[:, 3:] + 1 - shown[:, 3:]))
    save_sheet(out / "pictures.png", rows, columns=2)
    return {
        "pictured_silhouette_iou": round(fmean(outlines), 3),
        "hidden_silhouette_iou": round(fmean(hidden), 3),
        "color_difference": round(fmean(colors), 3),
    }


def from_views(reconstructor: Dmv3dReconstructor, seed: int, count: int = 24) -> dict[str, dict[str, float]]:
    """How well objects that nothing was trained on are rebuilt from four views of them, with their caption (by DMV3D)
    and without (by LGM), seen from four other sides: outlines, colours over white, depth where both are solid."""
    size = reconstructor.generator.image_size
    given = orbit(list(AZIMUTHS), ELEVATION, RADIUS, FOV_DEGREES, size)
    unseen = orbit([turn + 45.0 for turn in AZIMUTHS], [0.0, 45.0, 10.0, 70.0], RADIUS, FOV_DEGREES, size)
    sums = {name: {"silhouette_iou": 0.0, "psnr": 0.0, "depth_error": 0.0} for name in ("dmv3d", "lgm")}
    for index in range(count):
        example = sample_object(seed + HELD_OUT_SEED, index)
        rgba, distances = render_batch([example.rows] * 2, [given, unseen])
        for name, caption in (("dmv3d", example.caption), ("lgm", None)):
            gaussians = dmv3d.finish(reconstructor.reconstruct(Views(rgba[0], given, caption), []))
            for key, value in _compared(gaussians, unseen, rgba[1], distances[1]).items():
                sums[name][key] += value / count
    return {name: {key: round(value, 4) for key, value in figures.items()} for name, figures in sums.items()}


def _compared(gaussians: Gaussians, cameras: Cameras, truth: Tensor, distances: Tensor) -> dict[str, float]:
    made = render_gaussians(gaussians, cameras, background=1.0)
    shown = truth[:, :3] * truth[:, 3:] + 1 - truth[:, 3:]
    depth, _, _ = rasterization_geometry(
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, world_to_camera_opencv(cameras),
        cameras.intrinsics, cameras.width, cameras.height, median=True,
    )  # fmt: skip
    _, directions = rays(cameras)
    along = -(directions * cameras.camera_to_world[:, None, None, :3, 2]).sum(-1)  # of a unit of distance, in depth
    error = (depth[..., 0] - distances * along).abs()
    both = (made[:, 3] > 0.5) & (truth[:, 3] > 0.5) & (depth[..., 0] > 0)
    return {
        "silhouette_iou": fmean(silhouette_iou(a[3], b[3]) for a, b in zip(made, truth, strict=True)),
        "psnr": -10 * math.log10(max(float((made[:, :3] - shown).square().mean()), 1e-9)),
        "depth_error": float(error[both].mean()) if bool(both.any()) else 1.0,
    }


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pack", type=Path, default=STARTER_PACK, help="folder of dmv3d, reader and lgm .safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder for the sheet and evaluation.json")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0, help="of the world; its held-out part is used")


def run_evaluate(arguments: argparse.Namespace) -> int:
    torch.manual_seed(0)
    figures = evaluate(arguments.pack, arguments.out, arguments.device, arguments.seed)
    for model in ("dmv3d", "reader", "lgm"):
        path = arguments.pack / f"{model}.safetensors"
        _, card = load_checkpoint(path)
        figures[model] |= {key: card.get(key) for key in ("command", "steps", "minutes")} | {"sha256": sha256_of(path)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=2)
    (arguments.out / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0
