"""Held-out figures of a starter pack: how well it predicts, whether it obeys prompts, whether seeds differ."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from backend.datatypes import Views
from backend.reconstruct.lgm import LgmReconstructor
from backend.render.views import render_gaussians
from backend.training import dmv3d, lgm
from backend.training.contact_sheet import save_sheet
from backend.training.dataset import HELD_OUT_SEED, dmv3d_batch
from backend.training.prompts import JUDGED
from backend.views.dmv3d import Dmv3dGenerator
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
    """Figures of the two models in `pack`, and in `out` a sheet of the judged prompts: four views of two seeds each,
    and below them the same views of the reconstructed Gaussians. Raises MissingWeights."""
    generator = Dmv3dGenerator.load(pack / "dmv3d.safetensors", device)
    reconstructor = LgmReconstructor.load(pack / "lgm.safetensors", device)
    figures: dict[str, Any] = {
        "dmv3d": dmv3d.validate(generator.network, generator.vocabulary, seed, generator.image_size, device),
        "lgm": lgm.validate(reconstructor.network, seed, reconstructor.size, device)[0],
        "seeds": {},
    }
    rows = []
    for prompt in JUDGED:
        made: list[Views] = []
        for number in range(2):
            views = dmv3d.finish(generator.generate(prompt, seed=number))
            gaussians = dmv3d.finish(reconstructor.reconstruct(views))
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


def from_pictures(generator: Dmv3dGenerator, seed: int, out: Path, count: int = 16) -> dict[str, float]:
    """What the generator makes of single pictures of objects that it never saw, lit and from any side, without words:
    how well the front's outline and the mean colours agree; in `out` a sheet, the picture before the four views."""
    size = generator.image_size
    batch = dmv3d_batch(seed + HELD_OUT_SEED, 0, count, size, rays=2, points=2, pictured_share=1.0)
    rows, outlines, colors = [], [], []
    for caption, picture, truth in zip(batch.captions, batch.pictured, batch.rgba, strict=True):
        views = dmv3d.finish(generator.generate(image=picture, seed=0, size=size))
        outlines.append(silhouette_iou(views.rgba[0, 3], truth[0, 3]))
        colors.append(color_difference(views.rgba[0], truth[0]))
        shown = picture[:3] * picture[3:] + 1 - picture[3:]
        rows.append((caption, torch.cat([shown[None], views.over(1.0)])))
    save_sheet(out / "pictures.png", rows, columns=2)
    return {"front_silhouette_iou": round(fmean(outlines), 3), "color_difference": round(fmean(colors), 3)}


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pack", type=Path, default=STARTER_PACK, help="folder with dmv3d and lgm .safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder for the sheet and evaluation.json")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0, help="of the world; its held-out part is used")


def run_evaluate(arguments: argparse.Namespace) -> int:
    torch.manual_seed(0)
    figures = evaluate(arguments.pack, arguments.out, arguments.device, arguments.seed)
    for model in ("dmv3d", "lgm"):
        path = arguments.pack / f"{model}.safetensors"
        _, card = load_checkpoint(path)
        figures[model] |= {key: card.get(key) for key in ("command", "steps", "minutes")} | {"sha256": sha256_of(path)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=2)
    (arguments.out / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0
