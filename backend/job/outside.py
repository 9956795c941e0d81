"""What a job can begin with instead of a prompt: a user's own posed pictures, brought to what a reconstructor wants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backend.datatypes import CANONICAL_SIZE, Cameras, Views
from backend.errors import BadInput
from backend.formats.images import read_image, resize
from backend.formats.transforms_json import Frame, read_frames, read_views
from backend.recipes import Recipe
from backend.reconstruct.normalize import Similarity, best_spread, centering, fitting_outlines
from backend.views.picture import Picture, cut_out, object_bounds
from backend.views.reaim import aimed_at_origin, reaim

_PICTURE_SIDE = 1024  # no longer side is read: the models see far less


@dataclass(frozen=True)
class PosedPictures:
    """views: chosen, cut out, aimed at the object; similarity: how their world was moved; names: the files used."""

    views: Views
    similarity: Similarity
    names: list[str]


def load_job_views(path: Path | str, warnings: list[str]) -> Views:
    """The views of a job folder's transforms.json; one that a user replaced by a picture without alpha is cut out."""
    views = read_views(path, warnings=warnings)
    height, width = views.cameras.height, views.cameras.width
    pictures = [
        resize(cut_out(Picture(rgba, False), warnings, f"View {index}"), height, width)
        if bool((rgba[3] > 0.99).all())
        else rgba
        for index, rgba in enumerate(views.rgba)
    ]
    return Views(torch.stack(pictures), views.cameras)


@dataclass(frozen=True)
class _Shot:
    """One picture without its background. rgba [4, H, W]; intrinsics [3, 3] in its pixels; box: the object's outline as
    left, top, right, bottom, or None where it cannot be trusted."""

    rgba: Tensor
    camera_to_world: Tensor
    intrinsics: Tensor
    box: Tensor | None


def load_posed_pictures(path: Path | str, recipe: Recipe, warnings: list[str]) -> PosedPictures:
    """The best spread of the posed pictures in a transforms.json, as many and as large as the recipe wants.

    Their world is moved and scaled so that the object has the canonical place and size, and each picture is turned so
    that its camera looks straight at the object and is filled by it as the recipe's own views are.

    Raises BadInput for fewer pictures than wanted, for cameras that look at no one object, and for whatever
    `read_frames` and `read_image` refuse.
    """
    frames = read_frames(path, warnings)
    poses = torch.stack([frame.camera_to_world for frame in frames]).float()
    everyone = Cameras(poses, torch.eye(3).repeat(len(frames), 1, 1), 1, 1)
    count = recipe.used_views(len(frames))
    if len(frames) < count:
        best_spread(everyone, count)  # says that they are too few before anything is made of their axes
    chosen = best_spread(centering(everyone, recipe.radius).cameras(everyone), count)
    if len(frames) > count:
        warnings.append(f"Of {len(frames)} posed pictures the {count} best spread are used.")
    frames = [frames[index] for index in chosen]
    shots = [take(frame, warnings) for frame in frames]
    if all(float(shot.rgba[3].max()) < 0.02 for shot in shots):
        raise BadInput("The posed pictures are transparent everywhere.", "Use pictures in which an object can be seen.")
    half_width = recipe.radius * math.tan(math.radians(recipe.fov_degrees) / 2)
    similarity = _similarity(shots, everyone[chosen], half_width)
    target = aimed_at_origin(similarity.cameras(everyone[chosen]).camera_to_world, half_width, recipe.view_size)
    pictures = [reaim(shot.rgba, shot.camera_to_world, shot.intrinsics, target[[i]]) for i, shot in enumerate(shots)]
    return PosedPictures(Views(torch.stack(pictures), target), similarity, [frame.picture.name for frame in frames])


def take(frame: Frame, warnings: list[str], side: int = _PICTURE_SIDE) -> _Shot:
    """A frame's picture, its longer side at most `side`, without its background. Raises BadInput."""
    image = read_image(frame.picture, max_side=side)
    warnings.extend(image.warnings)
    rgba = image.rgba
    if frame.mask is not None:
        mask = read_image(frame.mask, max_side=side).rgba[:3].mean(0, keepdim=True)
        mask = torch.nn.functional.interpolate(mask[None], tuple(rgba.shape[1:]), mode="bilinear")[0]
        rgba = torch.cat([rgba[:3], mask])
    elif not image.had_alpha:
        rgba = cut_out(Picture(rgba, False), warnings, name=frame.picture.name)
    height, width = rgba.shape[1:]
    intrinsics = frame.intrinsics(width, height, image.file_size)
    return _Shot(rgba, frame.camera_to_world.float(), intrinsics, _outline(rgba[3]))


def _outline(alpha: Tensor) -> Tensor | None:
    """[4] left, top, right, bottom of what is there; None where it is cut off by the picture's edge or not there."""
    if float(alpha.max()) < 0.5:
        return None
    top, bottom, left, right = object_bounds(alpha)
    if top == 0 or left == 0 or bottom == alpha.shape[0] or right == alpha.shape[1]:
        return None
    return torch.tensor([left, top, right, bottom], dtype=torch.float32)


def _similarity(shots: list[_Shot], cameras: Cameras, half_width: float) -> Similarity:
    """Where the object is and how large: by its outlines where all are whole, else by the cameras alone."""
    boxes = [shot.box for shot in shots if shot.box is not None]
    if len(boxes) == len(shots):
        lenses = torch.stack([shot.intrinsics for shot in shots])
        return fitting_outlines(cameras.camera_to_world, lenses, torch.stack(boxes), CANONICAL_SIZE)
    # Pictures are framed by what they show: the median picture's shorter side spans what the recipe's views span.
    spans = [0.5 * min(shot.rgba.shape[1:]) / float(shot.intrinsics[1, 1]) for shot in shots]
    return centering(cameras, half_width / sorted(spans)[len(spans) // 2])
