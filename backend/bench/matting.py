"""How well objects are cut out of plain backgrounds: the project's own world gives objects whose alpha is known."""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from backend.errors import BadInput
from backend.views.matting import plain_background_matte

# (kind, index): what is hard about them. The world is sampled by these numbers, so they stay the same objects.
OBJECTS = (
    ("bottle", 10), ("mug", 31), ("donut", 3), ("chair", 2), ("snowman", 0), ("lamp", 15), ("robot", 0), ("house", 8),
    ("sofa", 2), ("candle", 11), ("mug", 3), ("donut", 1),
)  # fmt: skip
BACKGROUNDS = (
    "light grey", "white", "black", "gradient", "vignette", "noise", "jpeg", "blurred jpeg", "shadow", "soft shadow",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """rgb [S, S, 3] and its true alpha [S, S]."""

    name: str
    background: str
    rgb: np.ndarray
    alpha: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench matting`."""
    parser.add_argument("--size", type=int, default=256, help="side of the pictures, in pixels")
    parser.add_argument("--backgrounds", nargs="+", choices=BACKGROUNDS, default=list(BACKGROUNDS), metavar="NAME")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="what was cut out, on pink, as a picture")


def run(args: argparse.Namespace) -> int:
    """Intersection over union with the true outline, per background, beside a flood by colour distance alone."""
    print(f"{'background':14} {'mean':>6} {'worst':>6}  {'':16} {'flood mean':>10} {'worst':>6}  CPU ms")
    rows = []
    for background in args.backgrounds:
        ours, plain, pictures, spent = [], [], [], 0.0
        for case in cases(background, args.size):
            began = time.thread_time()
            matte = plain_background_matte(case.rgb)
            spent += time.thread_time() - began
            alpha = np.zeros_like(case.alpha) if matte is None else matte.alpha
            ours.append((overlap(alpha, case.alpha), case.name))
            plain.append(overlap(flooded(case.rgb), case.alpha))
            pictures += [case.rgb, on_pink(case.rgb if matte is None else matte.rgb, alpha)]
        worst = min(ours)
        print(
            f"{background:14} {np.mean([value for value, _ in ours]):6.3f} {worst[0]:6.3f}  {worst[1]:16} "
            f"{np.mean(plain):10.3f} {min(plain):6.3f}  {1000 * spent / len(ours):5.0f}"
        )
        rows.append(np.concatenate(pictures, axis=1))
    if args.sheet:
        Image.fromarray((np.concatenate(rows) * 255 + 0.5).astype(np.uint8)).save(args.sheet)
    return 0


def overlap(alpha: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of what is more than half there."""
    inside, wanted = alpha > 0.5, truth > 0.5
    return float((inside & wanted).sum() / max((inside | wanted).sum(), 1))


def on_pink(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return rgb * alpha[..., None] + np.array([1.0, 0.4, 0.7]) * (1 - alpha[..., None])


def flooded(rgb: np.ndarray, threshold: float = 0.06) -> np.ndarray:
    """What everybody writes first: background is what hangs together with the border and has its median colour."""
    ring = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    near = np.linalg.norm(rgb - np.median(ring, axis=0), axis=-1) < threshold
    regions, _ = ndimage.label(near)
    edge = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    return (~np.isin(regions, edge[edge > 0])).astype(np.float32)


def cases(background: str, size: int = 256, objects: tuple[tuple[str, int], ...] = OBJECTS) -> Iterator[Case]:
    """The objects before a background, each lit from another side. Raises BadInput in an installed add-on, which
    comes without the world."""
    try:
        from backend.training.world.scene import sample_object
        from backend.training.world.tracer import render_object
    except ImportError as error:
        raise BadInput("The world of objects is only in a checkout.", "Run this in a clone of the project.") from error
    from backend.cameras import orbit

    for number, (kind, index) in enumerate(objects):
        thing = sample_object(77, index, kind)
        cameras = orbit([25.0 + 37 * number], 8.0 + 4 * (number % 5), 4.2, 33.0, size)
        light = np.array([-0.5, 0.7, 0.51, 0.55], np.float32)
        rgba = render_object(thing.rows, cameras, light).rgba[0].permute(1, 2, 0).numpy()
        rgb = composited(rgba[..., :3], rgba[..., 3], background, seed=number)
        yield Case(kind, background, rgb, rgba[..., 3])


def composited(color: np.ndarray, alpha: np.ndarray, background: str, seed: int = 0) -> np.ndarray:
    """[S, S, 3]: the object [S, S, 3], [S, S] before a background, as 8 bit files hold it."""
    size = alpha.shape[0]
    random = np.random.default_rng(seed)
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
    backdrop = np.full((size, size, 3), 216 / 255)
    if background == "white":
        backdrop[:] = 1.0
    elif background == "black":
        backdrop[:] = 0.02
    elif background == "gradient":
        backdrop = backdrop * (1.1 - 0.45 * y[..., None]) * np.array([0.97, 1.0, 1.03])
    elif background == "vignette":
        backdrop = backdrop * (1.1 - 0.9 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))[..., None]
    elif "shadow" in background:
        backdrop = backdrop * (1 - cast_shadow(alpha, soft="soft" in background))[..., None]
    rgb = color * alpha[..., None] + np.clip(backdrop, 0, 1) * (1 - alpha[..., None])
    if background == "noise":
        rgb = rgb + random.normal(0, 5 / 255, rgb.shape)
    if "blurred" in background:
        rgb = ndimage.gaussian_filter(rgb, (0.8, 0.8, 0))
    picture = Image.fromarray((np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8))
    if "jpeg" in background:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=70)
        picture = Image.open(stream).convert("RGB")
    return np.asarray(picture, np.float32) / 255


def cast_shadow(alpha: np.ndarray, soft: bool) -> np.ndarray:
    """[S, S], how much light is missing: a flat blurred ellipse on the floor, darkest at the object's foot."""
    size = alpha.shape[0]
    rows, columns = np.nonzero((alpha > 0.5).any(1))[0], np.nonzero((alpha > 0.5).any(0))[0]
    y, x = np.mgrid[0:size, 0:size]
    width = 0.5 * (columns[-1] - columns[0])
    middle = 0.5 * (columns[-1] + columns[0]) + (0.25 * width if soft else 0)
    flat = ((x - middle) / (1.05 * width)) ** 2 + ((y - rows[-1] + 0.1 * width) / (0.3 * width)) ** 2 < 1
    return (0.3 if soft else 0.45) * ndimage.gaussian_filter(flat.astype(float), 0.05 * size if soft else 0.018 * size)
