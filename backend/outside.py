"""What a job can begin with instead of a prompt: a user's own posed pictures, brought to what a reconstructor wants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from backend.datatypes import Cameras, Views
from backend.errors import BadInput
from backend.formats.images import LoadedImage, read_image
from backend.formats.transforms_json import Frame, assemble, read_frames
from backend.recipes import Recipe
from backend.reconstruct.normalize import Similarity, best_spread, centering
from backend.views.picture import Picture, cut_out


@dataclass(frozen=True)
class PosedPictures:
    """views: chosen, cut out, brought to one square size; similarity: how their world was moved; names: files used."""

    views: Views
    similarity: Similarity
    names: list[str]


def load_posed_pictures(path: Path | str, recipe: Recipe, warnings: list[str]) -> PosedPictures:
    """The best spread of the posed pictures in a transforms.json, as many and as large as the recipe wants.

    Raises BadInput for fewer pictures than that, for cameras that look at no one object, and for whatever
    `read_frames` and `read_image` refuse.
    """
    frames = read_frames(path, warnings)
    poses = torch.stack([frame.camera_to_world for frame in frames]).float()
    everyone = Cameras(poses, torch.eye(3).repeat(len(frames), 1, 1), 1, 1)
    if len(frames) < recipe.view_count:
        best_spread(everyone, recipe.view_count)  # says that they are too few before anything is made of their axes
    similarity = centering(everyone, recipe.radius)
    chosen = best_spread(similarity.cameras(everyone), recipe.view_count)
    if len(frames) > recipe.view_count:
        warnings.append(f"Of {len(frames)} posed pictures the {recipe.view_count} best spread are used.")
    frames = [frames[index] for index in chosen]
    pictures = [_cut_out(frame, recipe.view_size, warnings) for frame in frames]
    if all(float(picture.rgba[3].max()) < 0.02 for picture in pictures):
        raise BadInput("The posed pictures are transparent everywhere.", "Use pictures in which an object can be seen.")
    views = assemble(frames, pictures, recipe.view_size)
    views = Views(views.rgba, similarity.cameras(views.cameras))
    _warn_about_lens(views, recipe.fov_degrees, warnings)
    return PosedPictures(views, similarity, [frame.picture.name for frame in frames])


def _cut_out(frame: Frame, size: int, warnings: list[str]) -> LoadedImage:
    image = read_image(frame.picture, max_side=max(512, 2 * size))
    warnings.extend(image.warnings)
    if frame.mask is not None:
        mask = read_image(frame.mask, max_side=max(512, 2 * size)).rgba[:3].mean(0, keepdim=True)
        mask = torch.nn.functional.interpolate(mask[None], tuple(image.rgba.shape[1:]), mode="bilinear")[0]
        return LoadedImage(torch.cat([image.rgba[:3], mask]), True, image.file_size)
    if image.had_alpha:
        return image
    rgba = cut_out(Picture(image.rgba, False), warnings, name=frame.picture.name)
    return LoadedImage(rgba, True, image.file_size)


def _warn_about_lens(views: Views, fov_degrees: float, warnings: list[str]) -> None:
    focal = float(views.cameras.intrinsics[:, 1, 1].median())
    fov = math.degrees(2 * math.atan(0.5 * views.cameras.height / focal))
    if not 0.75 * fov_degrees <= fov <= 1.33 * fov_degrees:
        warnings.append(
            f"The pictures span {fov:.0f} degrees; the model was trained on {fov_degrees:.0f}: expect a rougher result."
        )
